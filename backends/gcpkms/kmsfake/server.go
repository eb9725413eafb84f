// Package kmsfake is a Google Cloud KMS on loopback, for tests: gRPC over TLS, the caller's
// token checked, real signatures, key states as documented, and faults to order. Its keys are not
// protected by anything, and no build of the agent has it.
package kmsfake

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"cloud.google.com/go/kms/apiv1/kmspb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/keyward/keyward/internal/testca"
)

// Server is a service with one key ring.
type Server struct {
	kmspb.UnimplementedKeyManagementServiceServer
	KeyRing  string // resource name
	Endpoint string // host:port

	ca      *testca.CA
	account *rsa.PrivateKey // of the one service account that it knows
	grpc    *grpc.Server
	served  chan error

	mu      sync.Mutex
	conns   map[net.Conn]bool
	keys    []*cryptoKey // in the order in which they were made
	faults  map[string]*Fault
	calls   map[string]int
	page    int // most keys in a page
	pending int // looks at a new version's state before it is generated
}

// Fault is what goes wrong in calls of one method.
type Fault struct {
	Times  int                 // calls that it befalls; 0: all
	Err    error               // returned without doing anything
	Delay  time.Duration       // before doing anything, unless the caller leaves
	Asked  func()              // called before anything else; nil: nothing is
	Cut    bool                // what was asked is done, then the connection is cut
	Change func(proto.Message) // what was asked is done, then its answer is changed
	Then   *Fault              // what befalls the calls after these; nil: nothing
}

// Start starts a server for the key ring of that resource name, on a free port of loopback.
// Its certificate is by ca.
func Start(keyRing string, ca *testca.CA) (*Server, error) {
	tlsConfig, err := ca.Server("127.0.0.1", "localhost")
	if err != nil {
		return nil, err
	}
	account, err := newAccount()
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &Server{
		KeyRing: keyRing, Endpoint: l.Addr().String(), ca: ca, account: account,
		served: make(chan error, 1), page: 3, conns: map[net.Conn]bool{}, faults: map[string]*Fault{},
		calls: map[string]int{},
	}
	s.grpc = grpc.NewServer(grpc.Creds(credentials.NewTLS(tlsConfig)), grpc.UnaryInterceptor(s.intercept))
	kmspb.RegisterKeyManagementServiceServer(s.grpc, s)
	go func() { s.served <- s.grpc.Serve(&listener{l, s}) }()
	return s, nil
}

// newAccount makes the key of the one service account that there is, once, since that is slow.
var newAccount = sync.OnceValues(func() (*rsa.PrivateKey, error) { return rsa.GenerateKey(rand.Reader, 2048) })

// Close stops the server. It may be called again.
func (s *Server) Close() error {
	s.grpc.Stop()
	err := <-s.served
	s.served <- err
	if errors.Is(err, grpc.ErrServerStopped) {
		return nil // before it had begun to serve
	}
	return err
}

// Env writes the files that a client needs into dir and returns the environment variables that
// name them: the certificate authority's and a service account's key.
func (s *Server) Env(dir string) (map[string]string, error) {
	env := map[string]string{
		"SSL_CERT_FILE":                  filepath.Join(dir, "gcp-ca.pem"),
		"GOOGLE_APPLICATION_CREDENTIALS": filepath.Join(dir, "gcp-account.json"),
	}
	der, err := x509.MarshalPKCS8PrivateKey(s.account)
	if err != nil {
		return nil, err
	}
	account, err := json.Marshal(map[string]string{
		"type": "service_account", "project_id": "fake", "private_key_id": "1", "client_id": "1",
		"client_email": "keyward@fake.iam.gserviceaccount.com", "token_uri": "https://" + s.Endpoint + "/token",
		"private_key": string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})),
	})
	if err != nil {
		return nil, err
	}
	return env, errors.Join(
		s.ca.WriteFile(env["SSL_CERT_FILE"]),
		os.WriteFile(env["GOOGLE_APPLICATION_CREDENTIALS"], account, 0o600))
}

// Fault has f befall method, a name like AsymmetricSign, from now on. Nil: nothing.
func (s *Server) Fault(method string, f *Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults[method] = f
}

// Calls is how often a method was called.
func (s *Server) Calls(method string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls[method]
}

// TotalCalls is how often any method was called.
func (s *Server) TotalCalls() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.calls {
		n += c
	}
	return n
}

// intercept checks who calls, and lets faults happen.
func (s *Server) intercept(ctx context.Context, req any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any,
	error) {
	fault := s.begin(path.Base(info.FullMethod))
	if err := s.authenticate(ctx); err != nil {
		return nil, err
	}
	if fault.Asked != nil {
		fault.Asked()
	}
	select {
	case <-time.After(fault.Delay):
	case <-ctx.Done():
		return nil, status.FromContextError(ctx.Err()).Err()
	}
	if fault.Err != nil {
		return nil, fault.Err
	}
	answer, err := handle(ctx, req)
	if err == nil && fault.Change != nil {
		changed := proto.Clone(answer.(proto.Message))
		fault.Change(changed)
		answer = changed
	}
	if fault.Cut {
		s.cut()
	}
	return answer, err
}

// begin counts a call, and returns the fault that befalls it.
func (s *Server) begin(method string) Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls[method]++
	f := s.faults[method]
	if f == nil {
		return Fault{}
	}
	if f.Times == 1 {
		s.faults[method] = f.Then
	} else if f.Times > 1 {
		f.Times--
	}
	return *f
}

// authenticate checks the caller's token: a JWT that the service account signed itself
// (https://google.aip.dev/auth/4111).
func (s *Server) authenticate(ctx context.Context) error {
	md, _ := metadata.FromIncomingContext(ctx)
	token, ok := strings.CutPrefix(strings.Join(md.Get("authorization"), ""), "Bearer ")
	parts := strings.Split(token, ".")
	if !ok || len(parts) != 3 {
		return status.Error(codes.Unauthenticated, "Request is missing required authentication credential.")
	}
	sig, sigErr := base64.RawURLEncoding.DecodeString(parts[2])
	digest := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	claims, claimsErr := base64.RawURLEncoding.DecodeString(parts[1])
	var c struct {
		Exp   int64
		Scope string
	}
	if errors.Join(sigErr, claimsErr, json.Unmarshal(claims, &c),
		rsa.VerifyPKCS1v15(&s.account.PublicKey, crypto.SHA256, digest[:], sig)) != nil ||
		time.Now().Unix() > c.Exp || !strings.Contains(c.Scope, "cloud-platform") {
		return status.Error(codes.Unauthenticated, "Request had invalid authentication credentials.")
	}
	return nil
}

// cut closes all connections.
func (s *Server) cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		c.Close()
	}
}

// listener knows the connections that it accepted, so that they can be cut.
type listener struct {
	net.Listener
	s *Server
}

func (l *listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	l.s.conns[c] = true
	return &conn{c, l.s}, nil
}

type conn struct {
	net.Conn
	s *Server
}

func (c *conn) Close() error {
	c.s.mu.Lock()
	delete(c.s.conns, c.Conn)
	c.s.mu.Unlock()
	return c.Conn.Close()
}

// String says where the server is.
func (s *Server) String() string { return fmt.Sprintf("fake Cloud KMS at %s", s.Endpoint) }
