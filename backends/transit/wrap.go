package transit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/backends/sealed"
	"github.com/keyward/keyward/internal/secret"
)

// errNotVault: an answer lacks what Vault's answers have. Another try may succeed.
var errNotVault = fmt.Errorf("%w: an answer is not as Vault's are", backends.ErrUnavailable)

// wrapper encrypts file keys with a transit key.
//
// The file key passes through buffers of net/http and of TLS, which can't be wiped. It opens only one file, and the
// signing key in there never leaves this process.
type wrapper struct {
	c     *client
	unfit atomic.Pointer[error] // what the transit key was last found to lack; nil: nothing
}

var (
	_ sealed.Wrapper  = (*wrapper)(nil)
	_ sealed.Rotating = (*wrapper)(nil)
)

// description is what of a transit key's description matters here.
// https://developer.hashicorp.com/vault/api-docs/secret/transit#read-key
type description struct {
	Type                 string `json:"type"`
	Derived              bool   `json:"derived"`
	Exportable           bool   `json:"exportable"`
	AllowPlaintextBackup bool   `json:"allow_plaintext_backup"`
	SupportsEncryption   bool   `json:"supports_encryption"`
	LatestVersion        int    `json:"latest_version"`
	MinEncryptionVersion int    `json:"min_encryption_version"`
}

// check refuses a key that does not protect what it seals.
func (d *description) check(path string) error {
	for _, c := range []struct {
		bad bool
		why string
	}{
		{!d.SupportsEncryption, fmt.Sprintf("its type is %q; make one of type aes256-gcm96", d.Type)},
		{!d.Derived, "it has no derivation, so it would open any session's key for any other; make one with derived=true"},
		{d.Exportable, "it can be exported (exportable), which can't be undone; make another"},
		{d.AllowPlaintextBackup, "it can be backed up in the clear (allow_plaintext_backup), which can't be undone; make " +
			"another"},
	} {
		if c.bad {
			return fmt.Errorf("%w: %s: %s: vault write %s type=aes256-gcm96 derived=true", ErrUnsafeKey, path, c.why, path)
		}
	}
	return nil
}

// name names a transit key in key files: namespace, mount and key.
func (w *wrapper) name() string {
	return fmt.Sprintf("transit namespace=%s key=%s/keys/%s", w.c.cfg.Namespace, w.c.cfg.Mount, w.c.cfg.Key)
}

// parseName returns the name of the transit key in a key file, which must be of the client's namespace and mount.
func (w *wrapper) parseName(name string) (key string, err error) {
	key, ok := strings.CutPrefix(name, fmt.Sprintf("transit namespace=%s key=%s/keys/", w.c.cfg.Namespace, w.c.cfg.Mount))
	if !ok || !keyName.MatchString(key) || hasDots(key) {
		return "", fmt.Errorf("%w: the key is sealed by %q, and this backend uses %q", backends.ErrUnavailable, name,
			w.name())
	}
	return key, nil
}

func (w *wrapper) path(what, key string) string { return w.c.cfg.Mount + "/" + what + "/" + key }

// describe reads the description of the key that seals, and refuses one that is not fit to.
func (w *wrapper) describe(ctx context.Context) (*description, error) {
	op := operation{method: http.MethodGet, path: w.path("keys", w.c.cfg.Key), capability: "read"}
	d, err := call[description](ctx, w.c, op, nil)
	if err != nil {
		return nil, err
	}
	if err := d.check(op.path); err != nil {
		w.unfit.Store(&err)
		return nil, err
	}
	w.unfit.Store(nil)
	return d, nil
}

// Wrap implements [sealed.Wrapper]. It looks at the transit key first: with one that has no derivation Vault would
// ignore the context.
func (w *wrapper) Wrap(ctx context.Context, key *secret.Buffer, bind sealed.Binding) (sealed.Wrapped, error) {
	ctx, end, err := w.c.begin(ctx)
	if err != nil {
		return sealed.Wrapped{}, err
	}
	defer end()
	if _, err := w.describe(ctx); err != nil {
		return sealed.Wrapped{}, err
	}
	in := struct {
		Plaintext []byte `json:"plaintext"`
		Context   []byte `json:"context"`
	}{Context: bind.Bytes()}
	_ = key.Use(func(k []byte) error { in.Plaintext = bytes.Clone(k); return nil })
	defer clear(in.Plaintext)
	op := operation{method: http.MethodPost, path: w.path("encrypt", w.c.cfg.Key), capability: "update"}
	out, err := call[struct {
		Ciphertext string `json:"ciphertext"`
	}](ctx, w.c, op, in)
	if err != nil {
		return sealed.Wrapped{}, err
	}
	if _, err := version(out.Ciphertext); err != nil {
		return sealed.Wrapped{}, fmt.Errorf("%w: %w", errNotVault, err)
	}
	return sealed.Wrapped{Key: w.name(), Blob: []byte(out.Ciphertext)}, nil
}

// Unwrap implements [sealed.Wrapper].
func (w *wrapper) Unwrap(ctx context.Context, wrapped sealed.Wrapped, bind sealed.Binding) (*secret.Buffer, error) {
	ctx, end, err := w.c.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer end()
	name, err := w.parseName(wrapped.Key)
	if err != nil {
		return nil, err
	}
	if _, err := version(string(wrapped.Blob)); err != nil {
		return nil, fmt.Errorf("%w: %w", sealed.ErrDamaged, err)
	}
	in := struct {
		Ciphertext string `json:"ciphertext"`
		Context    []byte `json:"context"`
	}{string(wrapped.Blob), bind.Bytes()}
	op := operation{method: http.MethodPost, path: w.path("decrypt", name), capability: "update"}
	out, err := call[struct {
		Plaintext []byte `json:"plaintext"`
	}](ctx, w.c, op, in)
	if err != nil {
		return nil, err
	}
	return secret.Take(out.Plaintext)
}

// version returns the version of the transit key in a ciphertext: "vault:v3:" and base64.
func version(ciphertext string) (int, error) {
	rest, ok := strings.CutPrefix(ciphertext, "vault:v")
	number, content, found := strings.Cut(rest, ":")
	n, err := strconv.Atoi(number)
	if !ok || !found || err != nil || n < 1 || strconv.Itoa(n) != number || content == "" {
		return 0, errors.New("what is wrapped is not a ciphertext of transit, vault:vVERSION:BASE64")
	}
	return n, nil
}

// Current implements [sealed.Rotating]: what the newest version of the configured key sealed is current.
func (w *wrapper) Current(ctx context.Context) (func(sealed.Wrapped) bool, error) {
	ctx, end, err := w.c.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer end()
	d, err := w.describe(ctx)
	if err != nil {
		return nil, err
	}
	return func(wrapped sealed.Wrapped) bool {
		n, err := version(string(wrapped.Blob))
		return err == nil && wrapped.Key == w.name() && n == d.LatestVersion
	}, nil
}

// probeEvery is how long the result of a call stands for the state of Vault.
const probeEvery = time.Minute

// Status implements [sealed.Wrapper]. It is what the last call said of Vault. If that was a while ago, it asks for
// the key.
func (w *wrapper) Status(ctx context.Context) backends.Status {
	unavailable := func(err error) backends.Status {
		return backends.Status{State: "unavailable", Detail: fmt.Sprintf("transit %s: asking Vault: %v", w.c.cfg.Name, err)}
	}
	ctx, end, err := w.c.begin(ctx)
	if err != nil {
		return unavailable(err)
	}
	defer end()
	ago, err := w.c.caller.Trouble()
	if ago > probeEvery || errors.Is(err, backends.ErrUnavailable) {
		err = w.probe(ctx)
	}
	if err != nil {
		return unavailable(err)
	}
	if err := w.unfit.Load(); err != nil {
		return unavailable(*err)
	}
	return backends.Status{State: "ready", Detail: "sealed by " + w.path("keys", w.c.cfg.Key) + " of " + w.c.base}
}

// probe asks for Vault's health, which needs no token, and then for the key.
func (w *wrapper) probe(ctx context.Context) error {
	if err := w.c.health(ctx); err != nil {
		return err
	}
	_, err := w.describe(ctx)
	return err
}

// health says what is wrong with the server. https://developer.hashicorp.com/vault/api-docs/system/health
func (c *client) health(ctx context.Context) error {
	op := operation{method: http.MethodGet, path: "sys/health?standbyok=true&perfstandbyok=true", root: true}
	var e *answerError
	switch err := c.send(ctx, op, nil, nil, nil); {
	case err == nil:
		return nil
	case !errors.As(err, &e):
		return c.explain(op, err)
	case e.status == http.StatusServiceUnavailable:
		return fmt.Errorf("%w: run: vault operator unseal", ErrSealed)
	case e.status == http.StatusNotImplemented:
		return fmt.Errorf("%w: Vault at %s is not initialized", backends.ErrUnavailable, c.base)
	case e.status == http.StatusNotFound, e.status == http.StatusForbidden, e.status == http.StatusMethodNotAllowed:
		return nil // a proxy in front does not let it through; the key tells
	default:
		return fmt.Errorf("%w: Vault at %s says of its health: status %d", backends.ErrUnavailable, c.base, e.status)
	}
}

// Close implements [sealed.Wrapper].
func (w *wrapper) Close() error { return w.c.close() }
