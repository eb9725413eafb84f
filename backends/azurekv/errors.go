package azurekv

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/backends/internal/kmscall"
)

// Errors that stay in this package; operators see them wrapped.
var (
	// errGarbled: an answer is not about what was asked, or lacks something. It is asked for again.
	errGarbled = errors.New("the vault's answer is garbled")
	// errToken: there is no access token to be had.
	errToken = errors.New("no access token")
	// errKey: a key is not one that this backend can use.
	errKey = errors.New("not a key that can be used")
	// errDisabled: the key is there, and signs nothing.
	errDisabled = fmt.Errorf("%w: the key is disabled; enable it (az keyvault key set-attributes --enabled true)",
		backends.ErrRefused)
	// errDeleting: the key is on its way to being deleted.
	errDeleting = errors.New("the key is being deleted")
)

// operation is a call of the vault: what we say of it, and the permissions that it needs: the data
// action of role-based access control, in a vault and a Managed HSM, and that of an access policy.
type operation struct {
	what            string
	vault, hsm, old string
}

var (
	opCreate = operation{"making a key", "keys/create/action", "keys/create", "create"}
	opGet    = operation{"reading the public key", "keys/read", "keys/read/action", "get"}
	opSign   = operation{"signing", "keys/sign/action", "keys/sign/action", "sign"}
	opDelete = operation{"destroying the key", "keys/delete", "keys/delete", "delete"}
	opList   = operation{"listing keys", "keys/read", "keys/read/action", "list"}
	opPurge  = operation{"purging the key", "keys/purge/action", "keys/deletedKeys/delete", "purge"}
)

// missing is the sentence about a permission.
func (op operation) missing(v vault) string {
	if v.managedHSM {
		return fmt.Sprintf("Microsoft.KeyVault/managedHsm/%s is missing on %s; assign the agent a local role of the HSM "+
			"that has it", op.hsm, v.url)
	}
	return fmt.Sprintf("Microsoft.KeyVault/vaults/%s is missing on %s; assign the agent a role that has it (a vault "+
		"with access policies: the key permission %q)", op.vault, v.url, op.old)
}

// explain makes of an error one that says what the operator has to do, and wraps a sentinel
// where that is clear.
func (op operation) explain(v vault, err error) error {
	var answer *azcore.ResponseError
	var dns *net.DNSError
	var cert *tls.CertificateVerificationError
	switch {
	case err == nil:
		return nil
	case errors.Is(err, errToken):
		if tokenMayCome(err) {
			return err
		}
		return fmt.Errorf("%w: Azure gives no token; check the agent's managed identity, AZURE_CLIENT_ID and the like, or "+
			"whether its secret has expired: %w", backends.ErrRefused, &oneLine{errToken.Error(), err})
	case errors.As(err, &answer):
		return op.explainAnswer(v, answer)
	case errors.As(err, &dns) && dns.IsNotFound:
		return fmt.Errorf("%w: there is no host %s; check the vault's name: %w", backends.ErrUnavailable, dns.Name, err)
	case errors.As(err, &cert):
		return fmt.Errorf("%w: the certificate of %s is not trusted; does a proxy open the connection: %w",
			backends.ErrRefused, v.url, err)
	}
	return err
}

// oneLine shortens what an SDK's error says, which may be a dump of the whole answer, and keeps the error.
type oneLine struct {
	text string
	err  error
}

func (e *oneLine) Error() string { return e.text }
func (e *oneLine) Unwrap() error { return e.err }

func (op operation) explainAnswer(v vault, answer *azcore.ResponseError) error {
	inner := innerCode(answer)
	err := &oneLine{strings.TrimSpace(fmt.Sprintf("HTTP %d %s", answer.StatusCode, inner)), answer}
	switch answer.StatusCode {
	case http.StatusUnauthorized:
		return fmt.Errorf("%w: the vault does not accept the credentials, or they have expired; renew them, and check "+
			"that they are of the vault's tenant: %w", backends.ErrRefused, err)
	case http.StatusForbidden:
		switch inner {
		case "KeyDisabled":
			return fmt.Errorf("%w: %w", errDisabled, err)
		case "ForbiddenByFirewall", "ForbiddenByConnection":
			return fmt.Errorf("%w: the vault's firewall does not let this address in: %w", backends.ErrRefused, err)
		}
		return fmt.Errorf("%w: %s: %w", backends.ErrRefused, op.missing(v), err)
	case http.StatusNotFound:
		if op == opCreate || op == opList {
			return fmt.Errorf("%w: %s does not know what it is asked; check the vault's name: %w", backends.ErrRefused, v.url,
				err)
		}
		return fmt.Errorf("%w: %w", backends.ErrKeyNotFound, err)
	case http.StatusConflict:
		switch inner {
		case "ObjectIsDeletedButRecoverable", "ObjectIsBeingDeleted":
			return fmt.Errorf("%w: %w", errDeleting, err)
		}
	case http.StatusBadRequest:
		return fmt.Errorf("%w: the vault finds fault with the request; check that it has keys of the configured type (a "+
			"vault of the standard tier has no EC-HSM): %w", backends.ErrRefused, err)
	case http.StatusTooManyRequests:
		return fmt.Errorf("the vault throttles: more transactions than it allows in 10 seconds: %w", err)
	}
	return err
}

// refusal reports whether err is a refusal by the vault itself, after which nothing was signed.
func refusal(err error) bool {
	var answer *azcore.ResponseError
	if !errors.As(err, &answer) || answer.RawResponse == nil || answer.ErrorCode == "" {
		return false
	}
	if answer.StatusCode < 400 || answer.StatusCode >= 500 || answer.StatusCode == http.StatusRequestTimeout {
		return false
	}
	header := answer.RawResponse.Header
	return header.Get("X-Ms-Request-Id") != "" && strings.HasPrefix(header.Get("Content-Type"), "application/json")
}

// innerCode is the more exact code in an error's body, "" if there is none
// (https://learn.microsoft.com/azure/key-vault/general/rest-error-codes).
func innerCode(err *azcore.ResponseError) string {
	if err.RawResponse == nil {
		return ""
	}
	body, readErr := runtime.Payload(err.RawResponse)
	var answer struct {
		Error struct{ InnerError struct{ Code string } }
	}
	if readErr != nil || json.Unmarshal(body, &answer) != nil {
		return ""
	}
	return answer.Error.InnerError.Code
}

// classify tells kmscall what may be repeated.
func classify(err error) (kmscall.Class, time.Duration) {
	var answer *azcore.ResponseError
	switch {
	case errors.Is(err, backends.ErrRefused), errors.Is(err, backends.ErrUnavailable),
		errors.Is(err, backends.ErrKeyNotFound),
		errors.Is(err, backends.ErrBadSignature), errors.Is(err, errDeleting), errors.Is(err, errKey):
		return kmscall.Final, 0
	case !errors.As(err, &answer): // the network, or what can't be decoded
		return kmscall.Unanswered, 0
	case answer.StatusCode == http.StatusTooManyRequests:
		return kmscall.Throttled, retryAfter(answer.RawResponse)
	case answer.StatusCode >= 500 || answer.StatusCode == http.StatusRequestTimeout:
		return kmscall.Unanswered, retryAfter(answer.RawResponse)
	}
	return kmscall.Final, 0
}

// retryAfter is how long the service asks to wait (RFC 9110, section 10.2.3, in seconds).
func retryAfter(resp *http.Response) time.Duration {
	if resp == nil {
		return 0
	}
	seconds, err := strconv.Atoi(resp.Header.Get("Retry-After"))
	if err != nil || seconds < 0 {
		return 0
	}
	return time.Duration(min(seconds, 3600)) * time.Second
}

// credential marks errors of getting a token, so that they can be told from the vault's.
type credential struct{ azcore.TokenCredential }

func (c credential) GetToken(ctx context.Context, opts policy.TokenRequestOptions) (azcore.AccessToken, error) {
	token, err := c.TokenCredential.GetToken(ctx, opts)
	if err != nil {
		return token, fmt.Errorf("%w: %w", errToken, err)
	}
	return token, nil
}

// tokenMayCome reports whether the token's issuer could not be reached or had a fault of its own.
// That no credential is configured does not pass by itself.
func tokenMayCome(err error) bool {
	var failed *azidentity.AuthenticationFailedError
	if !errors.As(err, &failed) {
		var network net.Error
		return errors.As(err, &network) || errors.Is(err, context.DeadlineExceeded)
	}
	return failed.RawResponse == nil || failed.RawResponse.StatusCode >= 500 ||
		failed.RawResponse.StatusCode == http.StatusTooManyRequests
}
