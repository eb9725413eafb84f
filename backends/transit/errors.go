package transit

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/backends/internal/kmscall"
	"github.com/keyward/keyward/backends/sealed"
)

// Errors that wrap those of package backends. ErrSealed passes when an operator unseals Vault; the others stay until
// somebody changes something in Vault or in the configuration.
var (
	// ErrSealed: Vault is sealed or down for maintenance.
	ErrSealed = fmt.Errorf("%w: Vault is sealed or down for maintenance", backends.ErrUnavailable)
	// ErrDenied: the token's policies miss a capability; the text says which.
	ErrDenied = fmt.Errorf("%w: Vault denies access", backends.ErrRefused)
	// ErrLogin: Vault does not accept the credential.
	ErrLogin = fmt.Errorf("%w: Vault does not accept the login", backends.ErrRefused)
	// ErrUnsafeKey: the transit key does not protect what it seals.
	ErrUnsafeKey = fmt.Errorf("%w: the transit key is not fit to seal with", backends.ErrRefused)
)

// answerError is an answer of Vault that is no success.
type answerError struct {
	status   int
	vaults   bool          // it has the form of Vault's answers; another program's, such as a proxy's, has not
	messages []string      // of the answer's "errors"
	after    time.Duration // that it asks to wait
}

// Error shows what Vault says, quoted and bounded. Answers to logins are not shown: Vault quotes a secret ID in some.
func (e *answerError) Error() string {
	text := strings.Join(e.messages, "; ")
	if len(text) > 300 {
		text = text[:300]
	}
	return fmt.Sprintf("status %d: %q", e.status, text)
}

// says reports whether one of Vault's messages contains text.
func (e *answerError) says(text string) bool {
	for _, m := range e.messages {
		if strings.Contains(m, text) {
			return true
		}
	}
	return false
}

// readError is the error of an answer whose status is no success.
func readError(answer *http.Response, body []byte) *answerError {
	var content struct {
		Errors []string `json:"errors"`
	}
	err := json.Unmarshal(body, &content)
	e := &answerError{status: answer.StatusCode, vaults: err == nil && content.Errors != nil, messages: content.Errors}
	if seconds, err := strconv.Atoi(answer.Header.Get("Retry-After")); err == nil && seconds > 0 {
		e.after = time.Duration(min(seconds, 3600)) * time.Second
	}
	return e
}

// operation is a path of Vault's API that is called.
type operation struct {
	method     string
	path       string // without "/v1/"
	capability string // that a policy has to give the token on the path
	root       bool   // the path is in the root namespace alone
}

// explain turns a failure of op into an error that says what to do. Errors that have a class keep it.
func (c *client) explain(op operation, err error) error {
	var e *answerError
	switch {
	case err == nil, errors.Is(err, backends.ErrUnavailable), errors.Is(err, backends.ErrRefused):
		return err
	case !errors.As(err, &e):
		return fmt.Errorf("%w: no answer from %s: %w", backends.ErrUnavailable, c.base, err)
	}
	switch {
	case e.status == http.StatusServiceUnavailable:
		return fmt.Errorf("%w: if it is sealed, run: vault operator unseal: %w", ErrSealed, e)
	case e.status == http.StatusTooManyRequests:
		return fmt.Errorf("%w: a quota of Vault's is used up; raise it (sys/quotas/rate-limit), or lower in_flight: %w",
			backends.ErrUnavailable, e)
	case !e.vaults:
		return fmt.Errorf("%w: what answers at %s is not Vault: %w", backends.ErrUnavailable, c.base, e)
	case e.status == http.StatusForbidden:
		return fmt.Errorf("%w: allow %q on %q in a policy of the token, or replace the token: %w", ErrDenied, op.capability,
			op.path, e)
	case e.status == http.StatusNotFound && len(e.messages) == 0 && op.capability == "read" &&
		!strings.HasPrefix(op.path, "auth/"):
		return fmt.Errorf("%w: %s is not there; if Vault's keys were deleted, what they sealed is lost: %w",
			backends.ErrKeyNotFound, op.path, e)
	case e.status == http.StatusNotFound:
		return fmt.Errorf("%w: Vault has no %s: check mount and namespace: %w", backends.ErrRefused, op.path, e)
	case e.status == http.StatusBadRequest && e.says("encryption key not found"):
		return fmt.Errorf("%w: Vault has no transit key for %s: %w", backends.ErrKeyNotFound, op.path, e)
	case e.status == http.StatusBadRequest && e.says("disallowed by policy (too old)"):
		return fmt.Errorf("%w: it was sealed by a version of the transit key below min_decryption_version; lower that, "+
			"then run: keyward key rewrap: %w",
			backends.ErrRefused, e)
	case e.status == http.StatusBadRequest && op.capability == "update" && isDamage(e):
		return fmt.Errorf("%w, or sealed for another session, or by a key of that name in another Vault: %w",
			sealed.ErrDamaged, e)
	case e.status >= 500, e.status == http.StatusPreconditionFailed, e.status == http.StatusRequestTimeout,
		e.status == 472, e.status == 473:
		return fmt.Errorf("%w: %s can't answer now: %w", backends.ErrUnavailable, c.base, e)
	}
	return fmt.Errorf("%w: Vault refuses %s: %w", backends.ErrRefused, op.path, e)
}

// isDamage reports whether e is transit's answer to a ciphertext that it did not make, or not for the context.
func isDamage(e *answerError) bool {
	return e.says("message authentication failed") || e.says("invalid ciphertext") || e.says("no such key version")
}

// classify is the client's [kmscall.Config.Classify].
func classify(err error) (kmscall.Class, time.Duration) {
	var e *answerError
	switch {
	case errors.As(err, &e) && (e.status == http.StatusTooManyRequests || e.status == http.StatusPreconditionFailed):
		return kmscall.Throttled, e.after // Vault did nothing
	case errors.Is(err, backends.ErrUnavailable):
		return kmscall.Unanswered, 0
	}
	return kmscall.Final, 0
}
