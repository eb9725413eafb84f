// Package transit seals session keys with the transit secrets engine of HashiCorp Vault or OpenBao.
//
// Transit has no secp256k1, so it can't hold a session's key. It holds a key that never leaves it and encrypts file
// keys with it: see package sealed for the files. A session's key is in locked memory while it signs.
//
// # What is bound to what
//
// The transit key must be one with derivation. Vault derives a key of its own for each session from the context that
// comes with a call, which is the [sealed.Binding]: session, signer, account and chain. What was encrypted for one
// session does not decrypt for another. A transit key that can be exported, or backed up in the clear, is refused.
//
// # Calls
//
// Package kmscall bounds the calls in flight and repeats what Vault throttled or did not answer. No call makes a
// signature, so every failure leaves it certain that nothing was signed.
//
// # Tokens
//
// Calls carry a token: one from a file, or one that a login returned (AppRole, Kubernetes). A token is renewed when
// two thirds of its life are over. When Vault refuses it, its source is read again, so a credential can be replaced
// without a restart. Package documentation: https://developer.hashicorp.com/vault/api-docs/secret/transit
package transit

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/backends/internal/kmscall"
	"github.com/keyward/keyward/backends/sealed"
)

// Config says which transit key to use, and how.
type Config struct {
	Name      string // in errors and logs
	Address   string // URL of Vault: https://HOST:PORT, or http:// and a loopback address
	Namespace string // "": the root namespace, or a server without namespaces
	CAFile    string // PEM; only its certificates are trusted. "": the system's
	Mount     string // of the transit engine; "": "transit"
	Key       string // the transit key that seals. Keys that another one sealed are opened with that one.
	Auth      Auth

	Dir      string        // see [sealed.Config]
	CacheFor time.Duration // see [sealed.Config]
	InFlight int           // calls at a time; 0: 32
	Timeout  time.Duration // of one operation, repetitions included; 0: 10 s
	Logger   *slog.Logger  // nil: nothing is logged
}

var (
	mountName     = regexp.MustCompile(`^[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*$`)
	keyName       = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,128}$`)
	namespaceName = regexp.MustCompile(`^([A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*)?$`)
)

// Check says what is wrong with c. It opens no file.
func (c *Config) Check() error {
	if err := CheckAddress(c.Address); err != nil {
		return err
	}
	switch {
	case !namespaceName.MatchString(c.Namespace) || hasDots(c.Namespace):
		return fmt.Errorf("namespace %q: want names of letters, digits and any of \"_.-\", with slashes between", c.Namespace)
	case c.Mount != "" && (!mountName.MatchString(c.Mount) || hasDots(c.Mount)):
		return fmt.Errorf("mount %q: want a path such as \"transit\", without a slash at its ends", c.Mount)
	case !keyName.MatchString(c.Key) || hasDots(c.Key):
		return fmt.Errorf("key %q: want a transit key's name: up to 128 letters, digits and any of \"_.-\"", c.Key)
	case c.InFlight < 0 || c.Timeout < 0:
		return errors.New("the number of calls in flight and the timeout can't be negative")
	}
	return c.Auth.check()
}

// hasDots reports whether a part of path is "." or "..", which HTTP clients and servers resolve.
func hasDots(path string) bool {
	for part := range strings.SplitSeq(path, "/") {
		if part == "." || part == ".." {
			return true
		}
	}
	return false
}

// CheckAddress says what is wrong with the URL of a Vault. Without TLS, tokens and file keys would cross the network
// in the clear, so http:// is for loopback addresses.
func CheckAddress(address string) error {
	u, err := url.Parse(address)
	switch {
	case err != nil || u.Hostname() == "" || u.Scheme != "https" && u.Scheme != "http":
		return fmt.Errorf("address %q: want a URL such as https://vault.example:8200", address)
	case u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.Path != "" && u.Path != "/":
		return fmt.Errorf("address %q: want a scheme, a host and a port, and nothing else", u.Redacted())
	case u.Scheme == "http" && !isLoopback(u.Hostname()):
		return fmt.Errorf("address %q: the token and keys would cross the network in the clear; use https://", address)
	}
	return nil
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// client makes calls to Vault.
type client struct {
	cfg    Config
	log    *slog.Logger
	base   string // the address, without a slash at its end
	http   *http.Client
	caller *kmscall.Caller
	tokens *tokens

	mu      sync.Mutex
	calls   sync.WaitGroup // operations under way; added to under mu
	closing bool
}

// Open makes a Backend. It reads the CA file. Vault need not be there, and is not called before Open returns.
func Open(cfg Config) (*sealed.Backend, error) {
	c, err := newClient(cfg)
	if err != nil {
		return nil, fmt.Errorf("transit %s: %w", cfg.Name, err)
	}
	b, err := sealed.Open(sealed.Config{
		Name: "transit " + cfg.Name, Dir: cfg.Dir, Wrapper: &wrapper{c: c}, CacheFor: cfg.CacheFor, Logger: cfg.Logger,
	})
	if err != nil {
		return nil, errors.Join(err, c.close())
	}
	return b, nil
}

func newClient(cfg Config) (*client, error) {
	if err := cfg.Check(); err != nil {
		return nil, err
	}
	if cfg.Mount == "" {
		cfg.Mount = "transit"
	}
	if cfg.InFlight == 0 {
		cfg.InFlight = 32
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = 10 * time.Second
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	roots, err := readRoots(cfg.CAFile)
	if err != nil {
		return nil, err
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots}
	transport.MaxIdleConnsPerHost = cfg.InFlight // so that a burst leaves its connections for the next
	c := &client{
		cfg: cfg, log: cfg.Logger.With("backend", cfg.Name), base: strings.TrimSuffix(cfg.Address, "/"),
		http:   &http.Client{Transport: transport, CheckRedirect: checkRedirect},
		caller: kmscall.New(kmscall.Config{InFlight: cfg.InFlight, Timeout: cfg.Timeout, Classify: classify}),
	}
	c.tokens = startTokens(c)
	return c, nil
}

// readRoots reads the certificates to trust; nil: the system's.
func readRoots(path string) (*x509.CertPool, error) {
	if path == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("ca_file: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("ca_file %s has no certificate in PEM", path)
	}
	return roots, nil
}

// checkRedirect lets a standby send a request on to the active server, once, and never from TLS to none. The Vault
// client does the same.
func checkRedirect(req *http.Request, via []*http.Request) error {
	switch {
	case len(via) > 1:
		return errors.New("the Vault server redirects more than once")
	case req.URL.Scheme != via[0].URL.Scheme:
		return fmt.Errorf("the Vault server redirects from %s to %s", via[0].URL.Scheme, req.URL.Scheme)
	}
	return nil
}

// begin counts an operation in, unless it must not begin, and gives it its deadline; end counts it out.
func (c *client) begin(ctx context.Context) (_ context.Context, end func(), err error) {
	if ctx.Err() != nil {
		return nil, nil, fmt.Errorf("%w: not begun: %w", backends.ErrUnavailable, context.Cause(ctx))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closing {
		return nil, nil, fmt.Errorf("%w: the backend is closed", backends.ErrUnavailable)
	}
	c.calls.Add(1)
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	return ctx, func() { cancel(); c.calls.Done() }, nil
}

// close waits for operations under way and wipes the token.
func (c *client) close() error {
	c.mu.Lock()
	c.closing = true
	c.mu.Unlock()
	c.calls.Wait()
	err := errors.Join(c.caller.Close(), c.tokens.close())
	c.http.CloseIdleConnections()
	return err
}
