package kmscall

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptrace"
	"os"
	"sync/atomic"

	"github.com/keyward/keyward/backends"
)

// sendingKey is the context key of [WithSending].
type sendingKey struct{}

// WithSending has the calls with the returned context tell s what they send, if they go through [Transport].
func WithSending(ctx context.Context, s *backends.Sending) context.Context {
	return context.WithValue(ctx, sendingKey{}, s)
}

// WithoutSending is ctx for a call that is about no signature.
func WithoutSending(ctx context.Context) context.Context {
	return context.WithValue(ctx, sendingKey{}, nil)
}

// Refused says that the service has answered a call with ctx with a refusal, after which no signature exists.
func Refused(ctx context.Context) {
	if s, ok := ctx.Value(sendingKey{}).(*backends.Sending); ok {
		s.Refused()
	}
}

// errAbandoned: the call has ended, and its request is not sent any more.
var errAbandoned = errors.New("nobody waits for the answer any more")

// Transport sends the requests of one service. Before the first byte of each that has a body it calls
// [backends.Sending.Begin]; requests without one ask for nothing to be signed. Requests for tokens go another way.
type Transport struct{ Base http.RoundTripper }

func (t Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	s, ok := req.Context().Value(sendingKey{}).(*backends.Sending)
	if !ok || req.Body == nil || req.Body == http.NoBody {
		return t.Base.RoundTrip(req)
	}
	left := new(atomic.Bool)
	ctx := httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{
		GotConn: func(httptrace.GotConnInfo) {
			if !s.Begin() {
				left.Store(true)
			}
		},
	})
	sent := req.Clone(ctx)
	sent.Body = &body{req.Body, left}
	if req.GetBody != nil { // for a connection that turns out to be closed
		sent.GetBody = func() (io.ReadCloser, error) {
			again, err := req.GetBody()
			return &body{again, left}, err
		}
	}
	return t.Base.RoundTrip(sent)
}

// CloseIdleConnections is for [http.Client.CloseIdleConnections].
func (t Transport) CloseIdleConnections() {
	if base, ok := t.Base.(interface{ CloseIdleConnections() }); ok {
		base.CloseIdleConnections()
	}
}

// body is a request's, which ends the request if its call had ended before it got its connection.
type body struct {
	io.ReadCloser
	left *atomic.Bool
}

func (b *body) Read(p []byte) (int, error) {
	if b.left.Load() {
		return 0, errAbandoned
	}
	return b.ReadCloser.Read(p)
}

// ForeignRoots reports whether the environment names certificates to trust. A proxy that ends TLS needs such, and may
// answer for the service.
func ForeignRoots() bool {
	for _, name := range []string{"SSL_CERT_FILE", "SSL_CERT_DIR", "AWS_CA_BUNDLE"} {
		if os.Getenv(name) != "" {
			return true
		}
	}
	return false
}
