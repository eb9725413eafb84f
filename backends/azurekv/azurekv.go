// Package azurekv keeps secp256k1 keys in an Azure Key Vault or a Managed HSM.
//
// A session has a key of its own, of which it uses one version. Calls are bounded and repeated as
// package kmscall says; the client library's own retries are off.
//
// Azure's answers carry no checksums. Each names the key and version that it is about, which
// is compared, and a signature is verified by the agent before it is released.
package azurekv

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azkeys"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/backends/internal/kmscall"
)

// Kinds of key that Azure has for secp256k1.
const (
	EC    = "EC"     // kept by software: what a vault of the standard tier has
	ECHSM = "EC-HSM" // kept by an HSM: vaults of the premium tier, and Managed HSMs
)

// Config says which vault to use, and how. Credentials are those that azidentity's
// DefaultAzureCredential finds.
type Config struct {
	Name    string // in errors and logs
	Vault   string // https://NAME.vault.azure.net or https://NAME.managedhsm.azure.net
	KeyType string // EC or ECHSM; "": ECHSM

	// Purge destroys keys at once instead of leaving them to be recovered for as long as the vault
	// says. It needs one more permission, and a vault without purge protection.
	Purge bool

	InFlight  int           // calls at a time; 0: 32
	OpTimeout time.Duration // of one operation, repetitions included; 0: 10 s
	Logger    *slog.Logger  // nil: nothing is logged

	// Dial connects to the vault and the token's issuer; nil: as net.Dialer does.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// Backend is a vault or a Managed HSM.
type Backend struct {
	cfg   Config
	log   *slog.Logger
	vault vault
	http  *http.Client

	foreignRoots bool // a proxy may end TLS, and answer for the vault
	client       *azkeys.Client
	calls        *kmscall.Caller
}

var (
	_ backends.Backend = (*Backend)(nil)
	_ backends.Lister  = (*Backend)(nil)
	_ backends.Prober  = (*Backend)(nil)
)

// Open makes a client. It does not call the vault: whether that can be reached and permits what
// is needed, Status and the first call say. An error means that the configuration is wrong.
func Open(cfg Config) (*Backend, error) {
	if cfg.KeyType == "" {
		cfg.KeyType = ECHSM
	}
	if cfg.InFlight == 0 {
		cfg.InFlight = 32
	}
	v, err := parseVault(cfg.Vault)
	switch {
	case err != nil:
		return nil, fmt.Errorf("azurekv %s: %w", cfg.Name, err)
	case cfg.KeyType != EC && cfg.KeyType != ECHSM:
		return nil, fmt.Errorf("azurekv %s: key type %q is neither %s nor %s", cfg.Name, cfg.KeyType, EC, ECHSM)
	case v.managedHSM && cfg.KeyType != ECHSM:
		return nil, fmt.Errorf("azurekv %s: a Managed HSM has keys of type %s only", cfg.Name, ECHSM)
	}
	b := &Backend{
		cfg: cfg, vault: v, log: cfg.Logger, http: newHTTPClient(cfg), foreignRoots: kmscall.ForeignRoots(),
		calls: kmscall.New(kmscall.Config{InFlight: cfg.InFlight, Timeout: cfg.OpTimeout, Classify: classify}),
	}
	if b.log == nil {
		b.log = slog.New(slog.DiscardHandler)
	}
	b.log = b.log.With("backend", cfg.Name)
	if b.client, err = b.newClient(); err != nil {
		return nil, fmt.Errorf("azurekv %s: %w", cfg.Name, err)
	}
	return b, nil
}

// newHTTPClient keeps as many connections as there are calls at a time.
func newHTTPClient(cfg Config) *http.Client {
	dial := cfg.Dial
	if dial == nil {
		dial = (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}).DialContext
	}
	return &http.Client{
		Transport: &http.Transport{
			Proxy: http.ProxyFromEnvironment, DialContext: dial,
			TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12}, TLSHandshakeTimeout: 10 * time.Second,
			ForceAttemptHTTP2: true, MaxIdleConnsPerHost: cfg.InFlight, IdleConnTimeout: 5 * time.Minute,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

func (b *Backend) newClient() (*azkeys.Client, error) {
	found, err := azidentity.NewDefaultAzureCredential(&azidentity.DefaultAzureCredentialOptions{
		ClientOptions: policy.ClientOptions{Transport: b.http},
	})
	if err != nil {
		return nil, fmt.Errorf("no credentials: %w", err)
	}
	return azkeys.NewClient(b.vault.url, credential{found}, &azkeys.ClientOptions{ClientOptions: azcore.ClientOptions{
		Retry: policy.RetryOptions{MaxRetries: -1}, // none but kmscall's
		Transport: vaultOnly{&http.Client{Transport: kmscall.Transport{Base: b.http.Transport},
			CheckRedirect: b.http.CheckRedirect}, b.vault.host},
	}})
}

// vaultOnly sends requests, which have the agent's token on them, to the vault alone: the link to a list's
// next page is the vault's to choose.
type vaultOnly struct {
	client *http.Client
	host   string
}

func (v vaultOnly) Do(req *http.Request) (*http.Response, error) {
	if req.URL.Scheme != "https" || req.URL.Host != v.host {
		return nil, fmt.Errorf("%w: a request to %s://%s, which is not the vault", errGarbled, req.URL.Scheme, req.URL.Host)
	}
	return v.client.Do(req)
}

// Close waits for calls in flight, then closes the connections.
func (b *Backend) Close() error {
	if err := b.calls.Close(); err != nil {
		return fmt.Errorf("azurekv %s: closing: %w", b.cfg.Name, err)
	}
	b.http.CloseIdleConnections()
	return nil
}

// troubleLasts is for how long a call that failed makes the backend unavailable in Status.
const troubleLasts = time.Minute

// Status reports whether the vault answers at all and how the last call ended. What it asks the vault
// is anonymous, so it needs no permission and is none of the transactions that are limited.
func (b *Backend) Status(ctx context.Context) backends.Status {
	if b.calls.Closed() {
		return backends.Status{State: "unavailable", Detail: "closed"}
	}
	ago, trouble := b.calls.Trouble()
	if trouble != nil && ago < troubleLasts {
		return backends.Status{State: "unavailable", Detail: fmt.Sprintf("%v ago: %v", ago.Round(time.Second), trouble)}
	}
	if err := b.connect(ctx); err != nil {
		return backends.Status{State: "unavailable", Detail: fmt.Sprintf("no connection: %v", err)}
	}
	detail := fmt.Sprintf("%s, keys of type %s, %s", b.vault.kind(), b.cfg.KeyType, b.vault.url)
	if trouble != nil {
		detail += fmt.Sprintf("; the last call failed, %v ago: %v", ago.Round(time.Second), trouble)
	}
	return backends.Status{State: "ready", Detail: detail}
}

// connect asks for the page that a vault has for probes. A Managed HSM may not know it; any answer will do.
func (b *Backend) connect(ctx context.Context) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, b.vault.url+"/healthstatus", nil)
	if err != nil {
		return err
	}
	resp, err := b.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<16)) // so that the connection is kept
	return err
}
