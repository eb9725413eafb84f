package softhsmtest

import (
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"cloud.google.com/go/kms/apiv1/kmspb"

	"github.com/keyward/keyward/backends/awskms/kmsfake"
	"github.com/keyward/keyward/backends/azurekv/kvfake"
	gcpfake "github.com/keyward/keyward/backends/gcpkms/kmsfake"
	"github.com/keyward/keyward/internal/testca"
)

// internet is what an agent reaches through a proxy that leaves TLS alone: fakes under the names of the real services.
type internet struct {
	t   *testing.T
	ca  *testca.CA
	env []string

	mu    sync.Mutex
	hosts map[string]dialer // by name
	conns []net.Conn        // that there were
}

type dialer func(ctx context.Context, network, addr string) (net.Conn, error)

func newInternet(t *testing.T) *internet {
	t.Helper()
	ca, err := testca.New()
	if err != nil {
		t.Fatal(err)
	}
	roots := filepath.Join(t.TempDir(), "roots.pem")
	if err := ca.WriteFile(roots); err != nil {
		t.Fatal(err)
	}
	net := &internet{t: t, ca: ca, hosts: map[string]dialer{}}
	server := httptest.NewServer(net)
	t.Cleanup(server.Close)
	net.env = []string{trustEnv + "=" + roots, "HTTPS_PROXY=" + server.URL, "https_proxy=", "NO_PROXY=", "no_proxy=",
		"SSL_CERT_DIR=", "AWS_CA_BUNDLE="}
	return net
}

// route has host be reached by dial from now on; nil: it is down. Connections are cut.
func (n *internet) route(host string, dial dialer) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.hosts[host] = dial
	for _, c := range n.conns {
		c.Close()
	}
	n.conns = nil
}

// ServeHTTP is the method CONNECT: RFC 9110, section 9.3.6.
func (n *internet) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	host, port, err := net.SplitHostPort(r.Host)
	if r.Method != http.MethodConnect || err != nil || port != "443" {
		http.Error(w, "no way to "+r.Host, http.StatusForbidden)
		return
	}
	n.mu.Lock()
	up := n.hosts[host] != nil
	n.mu.Unlock()
	if !up {
		http.Error(w, host+" is down", http.StatusBadGateway)
		return
	}
	from, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	io.WriteString(from, "HTTP/1.1 200 OK\r\n\r\n") // a client that is gone is found by connect
	n.connect(from, host)
}

// connect passes on what comes and goes, until one of the two sides ends it.
func (n *internet) connect(from net.Conn, host string) {
	defer from.Close()
	n.mu.Lock()
	dial := n.hosts[host]
	n.conns = append(n.conns, from)
	n.mu.Unlock()
	if dial == nil {
		return
	}
	to, err := dial(context.Background(), "tcp", host)
	if err != nil {
		return
	}
	defer to.Close()
	go func() {
		io.Copy(to, from)
		to.Close()
	}()
	io.Copy(from, to)
}

// agent starts an agent with that configuration on this internet.
func (n *internet) agent(conf string) *Agent {
	n.t.Helper()
	a := newAgent(n.t, os.Executable, tempDir(n.t))
	a.env = n.env
	a.must(os.Mkdir(a.Dir, 0o700))
	a.must(os.WriteFile(filepath.Join(a.Dir, "config.toml"), []byte(conf), 0o600))
	a.Start()
	n.t.Cleanup(a.finish)
	return a
}

// to dials that address, whatever is asked for.
func to(addr string) dialer {
	return func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", addr)
	}
}

// aws serves a fake under two names, AWS's own and that of an endpoint of somebody else.
func (n *internet) aws(fake *kmsfake.Server) dialer {
	n.t.Helper()
	config, err := n.ca.Server(awsHost, otherHost)
	if err != nil {
		n.t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(fake)
	server.TLS = config
	server.Config.SetKeepAlivesEnabled(false) // a connection that is kept may be cut while a request is written to it
	server.StartTLS()
	n.t.Cleanup(server.Close)
	creds := kmsfake.DefaultCredentials
	n.env = append(n.env, "AWS_ACCESS_KEY_ID="+creds.AccessKeyID, "AWS_SECRET_ACCESS_KEY="+creds.SecretAccessKey,
		"AWS_SESSION_TOKEN=",
		"AWS_REGION=us-east-1", "AWS_PROFILE=", "AWS_CONFIG_FILE=/dev/null", "AWS_SHARED_CREDENTIALS_FILE=/dev/null")
	return to(server.Listener.Addr().String())
}

const (
	awsHost   = "kms.us-east-1.amazonaws.com"
	otherHost = "kms.example.org"
	azureHost = "keyward.vault.azure.net"
	azureAuth = "login.microsoftonline.com"
)

// stranger answers with a certificate that nobody trusts.
func stranger(t *testing.T) dialer {
	server := httptest.NewUnstartedServer(http.NotFoundHandler())
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	t.Cleanup(server.Close)
	return to(server.Listener.Addr().String())
}

// without has host be reached by dial.
func (n *internet) without(host string, dial dialer) func() {
	return func() { n.route(host, dial) }
}

// TestChargesOfAWS: KMS under its own name, where its refusals are believed.
func TestChargesOfAWS(t *testing.T) {
	net, fake := newInternet(t), &kmsfake.Server{}
	real := net.aws(fake)
	net.route(awsHost, real)
	a := net.agent("[backends.kms]\ntype = \"awskms\"\nclass = \"resident\"\ntimeout = \"3s\"\nhost = \"web-1\"\n")
	heal := func() { fake.Clear(); net.route(awsHost, real) }
	order := func(faults ...kmsfake.Fault) func() {
		return func() { orderFaults(fake, "Sign", faults) }
	}
	refused := kmsfake.Fault{Code: "AccessDeniedException"} // ends a call that would be repeated until its time is over
	failures := []failure{
		{"down", net.without(awsHost, nil), heal, true},
		{"a stranger's TLS", net.without(awsHost, stranger(t)), heal, true},
		{"throttled, then refused", order(kmsfake.Fault{Code: "ThrottlingException"},
			kmsfake.Fault{Code: "LimitExceededException"}, refused), heal, true},
		{"500, then refused", order(kmsfake.Fault{Code: "KMSInternalException", Status: 500}, refused), heal, false},
		{"503, then refused", order(kmsfake.Fault{Code: "DependencyTimeoutException", Status: 503}, refused), heal, false},
		{"408, then refused", order(kmsfake.Fault{Code: "ThrottlingException", Status: 408}, refused), heal, false},
		{"cut after the signature", order(kmsfake.Fault{Cut: true}, refused), heal, false},
		{"cut before it", order(kmsfake.Fault{CutHard: true}, refused), heal, false},
		{"too slow", order(kmsfake.Fault{Delay: time.Minute}, refused), heal, false},
		{"a garbled success", order(kmsfake.Fault{Alter: func([]byte) []byte { return []byte("{}") }}, refused), heal, false},
		{"another key's signature", order(kmsfake.Fault{OtherKey: true}, refused), heal, false},
	}
	for _, code := range []string{"AccessDeniedException", "DisabledException", "KMSInvalidStateException",
		"NotFoundException",
		"ExpiredTokenException", "InvalidKeyUsageException"} {
		failures = append(failures, failure{code, order(kmsfake.Fault{Code: code}), heal, true})
	}
	a.charges(t, a.ActiveSession(transferSpec(100), userAccount), failures)
}

// orderFaults has a fault befall each of the next calls, and the last of them all further calls.
func orderFaults(fake *kmsfake.Server, operation string, faults []kmsfake.Fault) {
	for _, f := range faults[:len(faults)-1] {
		fake.Inject(operation, 1, f)
	}
	fake.Inject(operation, -1, faults[len(faults)-1])
}

// TestChargesOfAnEndpoint: an endpoint of somebody else may answer for KMS. Only what never reached it is certain.
func TestChargesOfAnEndpoint(t *testing.T) {
	net, fake := newInternet(t), &kmsfake.Server{}
	real := net.aws(fake)
	net.route(otherHost, real)
	a := net.agent("[backends.kms]\ntype = \"awskms\"\nclass = \"resident\"\ntimeout = \"3s\"\nhost = " +
		"\"web-1\"\nendpoint = \"https://" + otherHost + "\"\n")
	heal := func() { fake.Clear(); net.route(otherHost, real) }
	a.charges(t, a.ActiveSession(transferSpec(100), userAccount), []failure{
		{"down", net.without(otherHost, nil), heal, true},
		{"refused", func() { orderFaults(fake, "Sign", []kmsfake.Fault{{Code: "AccessDeniedException"}}) }, heal, false},
		{"disabled", func() { orderFaults(fake, "Sign", []kmsfake.Fault{{Code: "DisabledException"}}) }, heal, false},
	})
}

// TestChargesOfASealingKMS: KMS only opens the key, whatever goes wrong with that. No signature is made by it.
func TestChargesOfASealingKMS(t *testing.T) {
	net, fake := newInternet(t), &kmsfake.Server{}
	real := net.aws(fake)
	net.route(awsHost, real)
	a := net.agent("[backends.kms]\ntype = \"awskms\"\nclass = \"sealed\"\ntimeout = \"3s\"\nkey = \"" +
		fake.NewWrappingKey() + "\"\n")
	heal := func() { fake.Clear(); net.route(awsHost, real) }
	failures := []failure{{"down", net.without(awsHost, nil), heal, true}}
	refused := kmsfake.Fault{Code: "AccessDeniedException"}
	for name, f := range map[string]kmsfake.Fault{
		"refused": refused, "500": {Code: "KMSInternalException", Status: 500}, "cut after it was opened": {Cut: true},
		"cut":      {CutHard: true},
		"too slow": {Delay: time.Minute}, "garbled": {Alter: func([]byte) []byte { return []byte("{}") }},
	} {
		failures = append(failures, failure{name, func() { orderFaults(fake, "Decrypt", []kmsfake.Fault{f, refused}) }, heal,
			true})
	}
	a.charges(t, a.ActiveSession(transferSpec(100), userAccount), failures)
}

// TestChargesOfAzure: a vault under Azure's name.
func TestChargesOfAzure(t *testing.T) {
	net := newInternet(t)
	vault, err := kvfake.Start(azureHost, net.ca)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(vault.Close)
	vault.SetKeepAlivesEnabled(false)
	for name, value := range kvfake.Env {
		net.env = append(net.env, name+"="+value)
	}
	net.route(azureAuth, vault.Dial)
	net.route(azureHost, vault.Dial)
	a := net.agent("[backends.vault]\ntype = \"azurekv\"\nvault = \"" + vault.URL + "\"\ntimeout = \"3s\"\n")
	heal := func() { vault.Fault("Sign", nil); net.route(azureHost, vault.Dial); net.route(azureAuth, vault.Dial) }
	refused := kvfake.Fault{Status: 403, Code: "Forbidden"}
	failures := []failure{
		{"down", net.without(azureHost, nil), heal, true},
		{"no token", func() { a.Stop(); net.route(azureAuth, nil); a.Start() }, heal, true},
		{"a stranger's TLS", net.without(azureHost, stranger(t)), heal, true},
	}
	for _, f := range []struct {
		name    string
		fault   kvfake.Fault
		certain bool
	}{
		{"denied", refused, true},
		{"disabled", kvfake.Fault{Status: 403, Code: "KeyDisabled"}, true},
		{"no such key", kvfake.Fault{Status: 404, Code: "KeyNotFound"}, true},
		{"throttled", kvfake.Fault{Status: 429, Code: "Throttled"}, true},
		{"500", kvfake.Fault{Status: 500, Code: "InternalServerError"}, false},
		{"503", kvfake.Fault{Status: 503, Code: "ServiceUnavailable"}, false},
		{"408", kvfake.Fault{Status: 408, Code: "RequestTimeout"}, false},
		{"cut after the signature", kvfake.Fault{Cut: true}, false},
		{"too slow", kvfake.Fault{Delay: time.Minute}, false},
		{"a garbled success", kvfake.Fault{Change: func([]byte) []byte { return []byte("{}") }}, false},
	} {
		f.fault.Times, f.fault.Then = 1, &refused
		failures = append(failures, failure{f.name, func() { f := f.fault; vault.Fault("Sign", &f) }, heal, f.certain})
	}
	a.charges(t, a.ActiveSession(transferSpec(100), userAccount), failures)
}

// TestChargesOfGoogle: Google Cloud KMS over gRPC.
func TestChargesOfGoogle(t *testing.T) {
	const ring = "projects/p-1/locations/europe-west6/keyRings/keyward"
	net := newInternet(t)
	fake, err := gcpfake.Start(ring, net.ca)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { fake.Close() })
	env, err := fake.Env(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	net.env = append(net.env, "GOOGLE_APPLICATION_CREDENTIALS="+env["GOOGLE_APPLICATION_CREDENTIALS"])
	const host = "google"
	real := to(fake.Endpoint)
	net.route(host, real)
	a := net.agent(fmt.Sprintf("[backends.ring]\ntype = \"gcpkms\"\nkey_ring = %q\ntimeout = \"3s\"\nendpoint = %q\n",
		ring, net.listen(host)))
	heal := func() { fake.Fault("AsymmetricSign", nil); net.route(host, real) }
	gone := func(dial dialer) func() {
		return func() {
			net.route(host, dial)
			await(t, "the agent to see that its connection is gone",
				func() bool { return a.backendStatus("ring").State != "ready" })
		}
	}
	refused := gcpfake.Fault{Err: status.Error(codes.PermissionDenied, "no")}
	failures := []failure{
		{"down", gone(nil), heal, true},
		{"a stranger's TLS", gone(stranger(t)), heal, true},
	}
	add := func(name string, f gcpfake.Fault, certain bool) {
		f.Times, f.Then = 1, &refused
		failures = append(failures, failure{name, func() { f := f; fake.Fault("AsymmetricSign", &f) }, heal, certain})
	}
	for code, certain := range map[codes.Code]bool{
		codes.PermissionDenied: true, codes.NotFound: true, codes.FailedPrecondition: true, codes.InvalidArgument: true,
		codes.Unauthenticated: true,
		codes.Unavailable:     false, codes.DeadlineExceeded: false, codes.Canceled: false, codes.Internal: false,
		codes.Unknown: false,
		codes.Aborted: false, codes.DataLoss: false, codes.ResourceExhausted: false,
	} {
		add(code.String(), gcpfake.Fault{Err: status.Error(code, "as the service says")}, certain)
	}
	quota, err := status.New(codes.ResourceExhausted, "quota").WithDetails(&errdetails.QuotaFailure{})
	if err != nil {
		t.Fatal(err)
	}
	add("the server's quota", gcpfake.Fault{Err: quota.Err()}, true)
	add("cut after the signature", gcpfake.Fault{Cut: true}, false)
	add("too slow", gcpfake.Fault{Delay: time.Minute}, false)
	add("a garbled success", gcpfake.Fault{Change: func(m proto.Message) { m.(*kmspb.AsymmetricSignResponse).SignatureCrc32C = nil }}, false)
	a.charges(t, a.ActiveSession(transferSpec(100), userAccount), failures)
}

// listen is an address that connects to host, for a client that uses no proxy.
func (n *internet) listen(host string) string {
	n.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { l.Close() })
	go func() {
		for {
			from, err := l.Accept()
			if err != nil {
				return
			}
			go n.connect(from, host)
		}
	}()
	return l.Addr().String()
}
