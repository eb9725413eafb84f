// Package gcpkms keeps secp256k1 keys in Google Cloud KMS, in its HSMs.
//
// A session has a CryptoKey of its own in the configured key ring, with one version. Calls are
// bounded and repeated as package kmscall says; the client library's own retries are off.
//
// # Integrity
//
// Every digest goes out with its CRC-32C, and an answer counts only if the service says that
// it has checked that, names the key that was asked for, its protection level is HSM, and the
// CRC-32C of what it returns fits. What does not fit is asked for again.
// (https://cloud.google.com/kms/docs/data-integrity-guidelines)
package gcpkms

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	kms "cloud.google.com/go/kms/apiv1"
	"google.golang.org/api/option"
	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/keepalive"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/backends/internal/kmscall"
)

// Config says which key ring to use, and how. Credentials are the application default ones
// (https://cloud.google.com/docs/authentication/application-default-credentials).
type Config struct {
	Name    string // in errors and logs
	KeyRing string // projects/P/locations/L/keyRings/R

	// DestroyAfter is for how long a destroyed key can still be restored, from 24 hours to
	// 120 days; 0: Google's default, 30 days. It is fixed when a key is made.
	DestroyAfter time.Duration

	Endpoint  string        // host:port of a regional or private endpoint; "": cloudkms.googleapis.com:443
	InFlight  int           // calls at a time; 0: 32
	OpTimeout time.Duration // of one operation, repetitions included; 0: 10 s
	Logger    *slog.Logger  // nil: nothing is logged
}

const (
	minDestroyAfter = 24 * time.Hour
	maxDestroyAfter = 120 * 24 * time.Hour
)

// Backend is a key ring.
type Backend struct {
	cfg    Config
	log    *slog.Logger
	client *kms.KeyManagementClient
	calls  *kmscall.Caller

	closing sync.Once
	mu      sync.Mutex
	gone    map[string]bool // versions, by name, that a list found destroyed
}

var (
	_ backends.Backend = (*Backend)(nil)
	_ backends.Lister  = (*Backend)(nil)
	_ backends.Prober  = (*Backend)(nil)
)

// Open finds credentials and makes a client. It does not call the service: whether that can be
// reached and permits what is needed, Status and the first call say.
// An error means that the configuration is wrong or there are no credentials.
func Open(ctx context.Context, cfg Config) (*Backend, error) {
	if _, err := parseKeyRing(cfg.KeyRing); err != nil {
		return nil, fmt.Errorf("gcpkms %s: %w", cfg.Name, err)
	}
	if cfg.DestroyAfter != 0 && (cfg.DestroyAfter < minDestroyAfter || cfg.DestroyAfter > maxDestroyAfter) {
		return nil, fmt.Errorf("gcpkms %s: keys can be restored for 24 hours to 120 days, not for %v", cfg.Name,
			cfg.DestroyAfter)
	}
	opts := []option.ClientOption{option.WithGRPCDialOption(grpc.WithKeepaliveParams(keepalive.ClientParameters{
		Time: time.Minute, Timeout: 10 * time.Second, // a dead connection is found, an idle one is kept
	})), option.WithGRPCDialOption(grpc.WithDisableRetry())} // a retry that kmscall does not see would hide a doubt
	if cfg.Endpoint != "" {
		opts = append(opts, option.WithEndpoint(cfg.Endpoint))
	}
	client, err := kms.NewKeyManagementClient(ctx, opts...)
	if err != nil {
		return nil, fmt.Errorf("gcpkms %s: no client, most likely for want of credentials (gcloud auth "+
			"application-default login, or GOOGLE_APPLICATION_CREDENTIALS): %w", cfg.Name, err)
	}
	client.CallOptions = &kms.KeyManagementCallOptions{} // no retries and time-outs but kmscall's
	b := &Backend{
		cfg: cfg, client: client, gone: map[string]bool{}, log: cfg.Logger,
		calls: kmscall.New(kmscall.Config{InFlight: cfg.InFlight, Timeout: cfg.OpTimeout, Classify: classify}),
	}
	if b.log == nil {
		b.log = slog.New(slog.DiscardHandler)
	}
	b.log = b.log.With("backend", cfg.Name)
	return b, nil
}

// Close waits for calls in flight, then closes the connection.
func (b *Backend) Close() error {
	err := b.calls.Close()
	if err == nil {
		b.closing.Do(func() { err = b.client.Close() })
	}
	if err != nil {
		return fmt.Errorf("gcpkms %s: closing: %w", b.cfg.Name, err)
	}
	return nil
}

// troubleLasts is for how long a call that failed makes the backend unavailable in Status.
const troubleLasts = time.Minute

// Status reports whether there is a connection and how the last call ended. It makes no call, so it uses
// no quota and needs no permission.
func (b *Backend) Status(ctx context.Context) backends.Status {
	if b.calls.Closed() {
		return backends.Status{State: "unavailable", Detail: "closed"}
	}
	ago, trouble := b.calls.Trouble()
	if trouble != nil && ago < troubleLasts {
		return backends.Status{State: "unavailable", Detail: fmt.Sprintf("%v ago: %v", ago.Round(time.Second), trouble)}
	}
	if err := b.connect(ctx); err != nil {
		return backends.Status{State: "unavailable", Detail: err.Error()}
	}
	detail := "Google Cloud KMS, HSM, " + b.cfg.KeyRing
	if trouble != nil {
		detail += fmt.Sprintf("; the last call failed, %v ago: %v", ago.Round(time.Second), trouble)
	}
	return backends.Status{State: "ready", Detail: detail}
}

// connection is the client's only connection: Open asks for no pool.
func (b *Backend) connection() *grpc.ClientConn {
	//lint:ignore SA1019 deprecated for clients with a pool of connections, and no other function tells a connection's state
	return b.client.Connection()
}

// connect waits until there is a connection, TLS included.
func (b *Backend) connect(ctx context.Context) error {
	conn := b.connection()
	for tried := false; ; {
		state := conn.GetState()
		switch {
		case state == connectivity.Ready:
			return nil
		case state == connectivity.Connecting:
			tried = true
		case state == connectivity.TransientFailure && tried:
			return fmt.Errorf("no connection to %s", conn.Target())
		}
		conn.Connect()
		if !conn.WaitForStateChange(ctx, state) {
			return fmt.Errorf("no connection to %s: %w (state %v)", conn.Target(), context.Cause(ctx), state)
		}
	}
}
