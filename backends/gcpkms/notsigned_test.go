package gcpkms

import (
	"context"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"

	kms "cloud.google.com/go/kms/apiv1"
	"google.golang.org/api/option"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/status"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/backends/gcpkms/kmsfake"
)

// Each code of the service, as the answer to every try: certain is what the service refuses.
func TestRefusal(t *testing.T) {
	b, s := start(t, Config{OpTimeout: 400 * time.Millisecond})
	k := generate(t, b, "keyward-1")
	for code := codes.Canceled; code <= codes.Unauthenticated; code++ {
		var certain bool
		switch code {
		case codes.PermissionDenied, codes.NotFound, codes.FailedPrecondition, codes.InvalidArgument, codes.Unauthenticated:
			certain = true
		}
		s.Fault("AsymmetricSign", always(kmsfake.Fault{Err: status.Error(code, "as the service says")}))
		if _, err := k.SignDigest(t.Context(), [32]byte{1}); err == nil || errors.Is(err, backends.ErrNotSigned) != certain {
			t.Errorf("%v: %v, certain %v, want %v", code, err, !certain, certain)
		}
	}
	s.Fault("AsymmetricSign", always(kmsfake.Fault{Err: throttled(time.Hour)}))
	if _, err := k.SignDigest(t.Context(), [32]byte{1}); !errors.Is(err, backends.ErrNotSigned) {
		t.Errorf("the server's quota: %v, want ErrNotSigned", err)
	}
}

// A call without a connection sends nothing. One that sent something before the connection went is in doubt.
func TestNoConnection(t *testing.T) {
	b, s := start(t, Config{OpTimeout: time.Second})
	k := generate(t, b, "keyward-1")
	asked := make(chan struct{})
	s.Fault("AsymmetricSign", always(kmsfake.Fault{Err: status.Error(codes.Unavailable, "going down"),
		Asked: func() { close(asked) }, Times: 1}))
	closed := make(chan error)
	go func() {
		<-asked
		closed <- s.Close()
	}()
	if _, err := k.SignDigest(t.Context(), [32]byte{1}); err == nil || errors.Is(err, backends.ErrNotSigned) {
		t.Errorf("answered, then no connection: %v, want doubt", err)
	}
	if err := <-closed; err != nil {
		t.Fatal(err)
	}
	for b.connection().GetState() == connectivity.Ready {
		time.Sleep(time.Millisecond)
	}
	if _, err := k.SignDigest(t.Context(), [32]byte{1}); !errors.Is(err, backends.ErrNotSigned) ||
		!errors.Is(err, backends.ErrUnavailable) {
		t.Errorf("no connection: %v, want ErrNotSigned and ErrUnavailable", err)
	}
}

// tokens are credentials that are there until spent.
type tokens struct{ spent atomic.Bool }

func (*tokens) RequireTransportSecurity() bool { return false }

func (c *tokens) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	if c.spent.Load() {
		return nil, errors.New("invalid_grant")
	}
	return nil, nil
}

// A try that gets no token sends nothing. That is no refusal of the try before it, which is in doubt.
func TestNoToken(t *testing.T) {
	b, s := start(t, Config{})
	k := generate(t, b, "keyward-1")
	creds := &tokens{}
	client, err := kms.NewKeyManagementClient(t.Context(), option.WithEndpoint(s.Endpoint),
		option.WithGRPCDialOption(grpc.WithPerRPCCredentials(creds)))
	if err != nil {
		t.Fatal(err)
	}
	client.CallOptions = b.client.CallOptions
	b.client.Close()
	b.client = client
	s.Fault("AsymmetricSign", once(kmsfake.Fault{Err: status.Error(codes.Unavailable, "busy"),
		Asked: func() { creds.spent.Store(true) }}))
	if _, err := k.SignDigest(t.Context(), [32]byte{1}); !errors.Is(err, backends.ErrRefused) ||
		errors.Is(err, backends.ErrNotSigned) {
		t.Errorf("answered, then no token: %v, want ErrRefused and doubt", err)
	}
	if _, err := k.SignDigest(t.Context(), [32]byte{1}); !errors.Is(err, backends.ErrNotSigned) {
		t.Errorf("no token: %v, want ErrNotSigned", err)
	}
}

// A caller that leaves before there is a connection has signed nothing, and its request is not sent later.
func TestLeftBeforeTheConnection(t *testing.T) {
	b, s := start(t, Config{OpTimeout: 10 * time.Second})
	k := generate(t, b, "keyward-1")
	real := s.Endpoint
	held, err := net.Listen("tcp", "127.0.0.1:0") // takes connections, and does not answer before release
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	release := make(chan struct{})
	go forward(held, real, release)
	cfg := b.cfg
	cfg.Endpoint = held.Addr().String()
	slow, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer slow.Close()
	calls := s.Calls("AsymmetricSign")
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := (&key{slow, k.name, k.pub}).SignDigest(ctx, [32]byte{1}); !errors.Is(err, backends.ErrNotSigned) {
		t.Errorf("left before the connection: %v, want ErrNotSigned", err)
	}
	close(release)
	if _, err := (&key{slow, k.name, k.pub}).SignDigest(t.Context(), [32]byte{2}); err != nil {
		t.Errorf("with the connection: %v", err)
	}
	if n := s.Calls("AsymmetricSign") - calls; n != 1 {
		t.Errorf("the service got %d requests, want 1", n)
	}
}

// forward passes connections of l on to addr, from release on.
func forward(l net.Listener, addr string, release <-chan struct{}) {
	for {
		from, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer from.Close()
			<-release
			to, err := net.Dial("tcp", addr)
			if err != nil {
				return
			}
			defer to.Close()
			go io.Copy(to, from)
			io.Copy(from, to)
		}()
	}
}
