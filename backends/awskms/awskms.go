// Package awskms keeps keys in AWS Key Management Service, in one of two ways.
//
// [Open]: each session has a KMS key of its own (ECC_SECG_P256K1), which never leaves AWS's
// HSMs; AWS is asked for each signature. [OpenSealed]: keys are made by the agent and sealed
// (package sealed) with one KMS key for all; AWS is asked to open a key before it signs.
//
// # Calls
//
// Package kmscall bounds the calls in flight and repeats what AWS throttled or did not answer,
// for as long as the request's deadline and a budget that all requests share allow; the SDK's own
// retries are off. What makes a key is not repeated when its answer is lost, and what AWS denies
// never is. Every error says what the operator has to do.
//
// Credentials come from the SDK's standard chain: environment, shared files, SSO, web
// identity, container and instance roles. When AWS refuses them the chain is asked anew, so
// that they can be replaced without a restart.
package awskms

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/kms"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/backends/internal/kmscall"
)

// Config says which KMS to use, and how.
type Config struct {
	Name     string // in errors and logs
	Region   string // "": as the SDK finds it (AWS_REGION, the profile)
	Profile  string // in the shared configuration files; "": AWS_PROFILE, or the default one
	Endpoint string // URL; "": AWS's for the region

	InFlight int           // calls at a time; 0: 32
	Timeout  time.Duration // of one operation, repeats included; 0: 10 s
	Logger   *slog.Logger  // nil: nothing is logged

	// Host tells this agent's keys from those of others in the account, in tags and aliases;
	// "": the host's name. Letters, digits, and any of "._-".
	Host string
	// DeletionDays is the waiting period before AWS deletes a key that was destroyed, during
	// which it can be brought back; 7 to 30; 0: 30.
	DeletionDays int
}

const (
	defaultInFlight = 32
	defaultTimeout  = 10 * time.Second
)

// client makes calls to KMS.
type client struct {
	cfg   Config
	log   *slog.Logger
	api   *kms.Client
	creds *aws.CredentialsCache
	idle  func() // closes idle connections

	caller *kmscall.Caller

	mu      sync.Mutex
	calls   sync.WaitGroup // operations under way; added to under mu
	closing bool
}

var hostName = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

// newClient reads the SDK's configuration. AWS is not called.
func newClient(ctx context.Context, cfg Config) (*client, error) {
	if err := cfg.complete(); err != nil {
		return nil, fmt.Errorf("awskms %s: %w", cfg.Name, err)
	}
	transport := awshttp.NewBuildableClient().WithTransportOptions(func(t *http.Transport) {
		t.MaxIdleConnsPerHost = cfg.InFlight // so that a burst leaves its connections for the next
		t.MaxIdleConns = cfg.InFlight + 10
	})
	load := func(ctx context.Context) (aws.Config, error) {
		return config.LoadDefaultConfig(ctx, config.WithRegion(cfg.Region), config.WithSharedConfigProfile(cfg.Profile))
	}
	loaded, err := load(ctx)
	if err != nil {
		return nil, fmt.Errorf("awskms %s: reading AWS's configuration: %w", cfg.Name, err)
	}
	if loaded.Region == "" {
		return nil, fmt.Errorf("awskms %s: no AWS region: set region in the backend's section, or AWS_REGION", cfg.Name)
	}
	cfg.Region = loaded.Region
	c := &client{
		cfg: cfg, log: cfg.Logger.With("backend", cfg.Name),
		creds:  aws.NewCredentialsCache(chain{load}),
		caller: kmscall.New(kmscall.Config{InFlight: cfg.InFlight, Timeout: cfg.Timeout, Classify: classify}),
	}
	httpClient := transport.Freeze().(*http.Client)
	// of KMS alone: credentials come by another client
	httpClient.Transport = kmscall.Transport{Base: httpClient.Transport}
	c.idle = httpClient.CloseIdleConnections
	c.api = kms.NewFromConfig(loaded, func(o *kms.Options) {
		o.HTTPClient = httpClient
		o.Credentials = c.creds
		o.Retryer = aws.NopRetryer{}
		if cfg.Endpoint != "" {
			o.BaseEndpoint = &cfg.Endpoint
		}
	})
	return c, nil
}

// complete checks c and fills in what is left to us.
func (c *Config) complete() error {
	if c.InFlight < 0 || c.Timeout < 0 {
		return errors.New("the number of calls in flight and the timeout can't be negative")
	}
	if c.DeletionDays != 0 && (c.DeletionDays < 7 || c.DeletionDays > 30) {
		return fmt.Errorf("a waiting period of %d days: AWS allows 7 to 30", c.DeletionDays)
	}
	if c.Host == "" {
		name, err := os.Hostname()
		if err != nil {
			return fmt.Errorf("the host's name: %w; set host in the backend's section", err)
		}
		c.Host = name
	}
	if !hostName.MatchString(c.Host) {
		return fmt.Errorf("host %q: use up to 64 letters, digits, dots, dashes and underscores", c.Host)
	}
	if c.InFlight == 0 {
		c.InFlight = defaultInFlight
	}
	if c.Timeout == 0 {
		c.Timeout = defaultTimeout
	}
	if c.DeletionDays == 0 {
		c.DeletionDays = 30
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return nil
}

// chain is the SDK's chain of credential sources, built anew each time it is asked: files that
// were read once are read again.
type chain struct {
	load func(context.Context) (aws.Config, error)
}

func (c chain) Retrieve(ctx context.Context) (aws.Credentials, error) {
	cfg, err := c.load(ctx)
	if err != nil {
		return aws.Credentials{}, fmt.Errorf("%w: %w", ErrCredentials, err)
	}
	creds, err := cfg.Credentials.Retrieve(ctx)
	if err != nil {
		return aws.Credentials{}, fmt.Errorf("%w: there are none that the SDK can find: %w", ErrCredentials, err)
	}
	return creds, nil
}

// begin counts an operation in, unless it must not begin, and gives it its deadline; end counts it out.
func (c *client) begin(ctx context.Context) (_ context.Context, end func(), err error) {
	if ctx.Err() != nil {
		return nil, nil, gaveUp(ctx)
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

// wrap gives err, of the operation what, the backend's name.
func (c *client) wrap(what string, err error) error {
	return fmt.Errorf("awskms %s: %s: %w", c.cfg.Name, what, err)
}

// close waits for operations under way, so that none is cut off between making a key and naming it.
func (c *client) close() error {
	c.mu.Lock()
	c.closing = true
	c.mu.Unlock()
	c.calls.Wait()
	err := c.caller.Close()
	c.idle()
	if err != nil {
		return c.wrap("closing", err)
	}
	return nil
}

// scheme starts the URI of a resident key; its ARN follows.
const scheme = "awskms:"

var keyARN = regexp.MustCompile(`^arn:aws[a-z-]*:kms:([a-z0-9-]+):[0-9]{12}:key/([A-Za-z0-9-]+)$`)

// parseURI returns the ARN in a resident key's URI, which has to be of the client's region.
func (c *client) parseURI(uri string) (string, error) {
	arn, ok := strings.CutPrefix(uri, scheme)
	if !ok || !keyARN.MatchString(arn) {
		return "", fmt.Errorf("key URI %q is not of the form awskms:arn:aws:kms:REGION:ACCOUNT:key/ID", uri)
	}
	return arn, c.checkRegion(arn)
}

// checkRegion refuses a key of another region. It may well exist, so this is not ErrKeyNotFound.
func (c *client) checkRegion(arn string) error {
	m := keyARN.FindStringSubmatch(arn)
	if m == nil {
		return fmt.Errorf("%q is not a KMS key's ARN", arn)
	}
	if m[1] != c.cfg.Region {
		return fmt.Errorf("%w: %s is in %s, and the backend uses %s: configure a backend for that region",
			ErrRegion, arn, m[1], c.cfg.Region)
	}
	return nil
}
