package awskms

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/smithy-go"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/backends/sealed"
)

// Errors that wrap those of package backends. ErrThrottled passes; the others stay until
// somebody changes something in AWS or in the configuration.
var (
	// ErrThrottled: the account's quota of requests is used up, and was until the deadline or
	// until too many calls had to be repeated.
	ErrThrottled = fmt.Errorf("%w: AWS throttles the calls", backends.ErrUnavailable)
	// ErrDenied: a permission is missing; the text says which. It is never retried.
	ErrDenied = fmt.Errorf("%w: AWS denies access", backends.ErrRefused)
	// ErrCredentials: there are none, or AWS does not accept them.
	ErrCredentials = fmt.Errorf("%w: AWS credentials are missing or not accepted", backends.ErrRefused)
	// ErrDisabled: the key is disabled.
	ErrDisabled = fmt.Errorf("%w: the KMS key is disabled", backends.ErrRefused)
	// ErrRegion: the key, or the endpoint, is another region's.
	ErrRegion = fmt.Errorf("%w: wrong AWS region", backends.ErrRefused)
)

// errNotYet: KMS does not know a key that it just made.
var errNotYet = errors.New("the key is new, and not known everywhere yet")

// stateError: the key's state does not allow the call.
type stateError struct{ smithy.APIError }

// gaveUp is the error of what ended because ctx did.
func gaveUp(ctx context.Context) error {
	return fmt.Errorf("%w: AWS did not answer in time: %w", backends.ErrUnavailable, context.Cause(ctx))
}

// explain turns an error of the SDK into one that says what to do.
func (c *client) explain(op operation, err error) error {
	var api smithy.APIError
	if errors.As(err, &api) {
		return c.explainCode(op, api, statusOf(err))
	}
	var unreadable *smithy.DeserializationError
	switch {
	case errors.Is(err, ErrCredentials):
		return err
	case errors.As(err, &unreadable):
		return fmt.Errorf("%w: the answer to kms:%s can't be read; is %s a KMS? %w", backends.ErrUnavailable, op.name,
			c.where(), err)
	}
	return fmt.Errorf("%w: no answer from %s: %w", backends.ErrUnavailable, c.where(), err)
}

// where is what calls go to.
func (c *client) where() string {
	if c.cfg.Endpoint != "" {
		return c.cfg.Endpoint
	}
	return "AWS KMS in " + c.cfg.Region
}

// statusOf is the HTTP status of the answer that err is about, or 0.
func statusOf(err error) int {
	var response *awshttp.ResponseError
	if errors.As(err, &response) {
		return response.HTTPStatusCode()
	}
	return 0
}

// refusal reports whether err is a refusal by AWS itself, after which nothing was signed. What comes from another
// endpoint than AWS's own over TLS may be about another try than the last.
func refusal(err error) bool {
	var api smithy.APIError
	var response *awshttp.ResponseError
	if !errors.As(err, &api) || !errors.As(err, &response) || response.Response == nil ||
		response.Response.Response == nil {
		return false
	}
	status, request := response.HTTPStatusCode(), response.Response.Request
	switch {
	case status < 400 || status >= 500 || status == http.StatusRequestTimeout:
		return false
	case api.ErrorCode() == "" || api.ErrorCode() == "UnknownError" || response.ServiceRequestID() == "":
		return false // not AWS's own code
	case request == nil || request.URL.Scheme != "https" || !ownHost.MatchString(request.URL.Hostname()):
		return false
	}
	return true
}

// ownHost are AWS's own endpoints of KMS.
var ownHost = regexp.MustCompile(`^kms(-fips)?\.[a-z0-9-]+\.(amazonaws\.com(\.cn)?|api\.aws)$`)

// explainCode explains an exception of AWS.
func (c *client) explainCode(op operation, e smithy.APIError, status int) error {
	says := e.ErrorCode() + ": " + e.ErrorMessage()
	switch e.ErrorCode() {
	case "ThrottlingException", "Throttling", "TooManyRequestsException", "RequestLimitExceeded":
		return fmt.Errorf("%w: kms:%s in %s; its quota is shared by the whole account: "+
			"raise it in AWS Service Quotas, or lower in_flight: %s", ErrThrottled, op.name, c.cfg.Region, says)
	case "AccessDeniedException", "AccessDenied":
		return fmt.Errorf("%w: allow kms:%s on %s in the IAM policy of the agent's role, or in the key's policy: %s",
			ErrDenied, op.name, op.on, says)
	case "ExpiredTokenException", "ExpiredToken", "RequestExpired":
		return fmt.Errorf("%w: they have expired: renew them where the agent gets them (aws sso login, the role's "+
			"session, the credentials file): %s", ErrCredentials, says)
	case "UnrecognizedClientException", "InvalidClientTokenId", "MissingAuthenticationToken",
		"MissingAuthenticationTokenException":
		return fmt.Errorf("%w: AWS does not know the access key: %s", ErrCredentials, says)
	case "InvalidSignatureException", "SignatureDoesNotMatch", "IncompleteSignatureException", "IncompleteSignature":
		return c.explainSignature(e, says)
	case "NotFoundException":
		if op.fresh {
			return fmt.Errorf("%w: %w: %s", errNotYet, backends.ErrKeyNotFound, says)
		}
		return fmt.Errorf("%w: %s has no %s: %s", backends.ErrKeyNotFound, c.where(), op.on, says)
	case "DisabledException", "KMSInvalidStateException":
		return &stateError{e} // which call explains
	case "InvalidCiphertextException", "IncorrectKeyException":
		return fmt.Errorf("%w: KMS can't decrypt it with %s for this session, account and chain: %s", sealed.ErrDamaged,
			op.on, says)
	case "InvalidKeyUsageException", "UnsupportedOperationException":
		return fmt.Errorf("%s is a key of a kind that can't do kms:%s: %s", op.on, op.name, says)
	case "LimitExceededException":
		return fmt.Errorf("the account has all the KMS keys or aliases that AWS allows: destroy some, raise the quota in "+
			"AWS Service Quotas, or use class \"sealed\": %s", says)
	case "KMSInternalException", "DependencyTimeoutException", "KeyUnavailableException", "InternalFailure",
		"InternalServerError", "ServiceUnavailable", "ServiceUnavailableException":
		return fmt.Errorf("%w: trouble inside %s: %s", backends.ErrUnavailable, c.where(), says)
	}
	if status >= 500 {
		return fmt.Errorf("%w: trouble inside %s: %s", backends.ErrUnavailable, c.where(), says)
	}
	return fmt.Errorf("AWS refuses kms:%s on %s: %s", op.name, op.on, says)
}

// explainSignature explains why AWS does not accept a request's signature.
func (c *client) explainSignature(e smithy.APIError, says string) error {
	switch {
	case strings.Contains(e.ErrorMessage(), "scoped to a valid region"):
		return fmt.Errorf("%w: %s is not an endpoint of region %s: set region and endpoint of the backend to the same "+
			"region: %s",
			ErrRegion, c.where(), c.cfg.Region, says)
	case strings.Contains(e.ErrorMessage(), "expired") || strings.Contains(e.ErrorMessage(), "not yet current"):
		return fmt.Errorf("%w: this host's clock is %s: set it right: %s", ErrCredentials,
			time.Now().UTC().Format(time.RFC3339), says)
	}
	return fmt.Errorf("%w: the secret access key is not the access key's: %s", ErrCredentials, says)
}

// explainState tells a key that is disabled from one that is being deleted, which KMS reports
// by the same exceptions.
func (c *client) explainState(ctx context.Context, op operation, e *stateError) error {
	state := types.KeyStateDisabled
	if strings.Contains(e.ErrorMessage(), "pending deletion") {
		state = types.KeyStatePendingDeletion
	}
	when := ""
	describe := operation{name: "DescribeKey", on: op.on}
	if out, err := call(ctx, c, describe, c.api.DescribeKey, &kms.DescribeKeyInput{KeyId: &op.on}); err == nil &&
		out.KeyMetadata != nil {
		state = out.KeyMetadata.KeyState
		if d := out.KeyMetadata.DeletionDate; d != nil {
			when = " on " + d.UTC().Format(time.RFC3339)
		}
	} else {
		c.log.Debug("asking for a key's state", "key", op.on, "error", err)
	}
	switch state {
	case types.KeyStatePendingDeletion, types.KeyStatePendingReplicaDeletion:
		return fmt.Errorf("%w: AWS deletes %s%s; until then it can be brought back: aws kms cancel-key-deletion, then aws "+
			"kms enable-key",
			backends.ErrKeyNotFound, op.on, when)
	case types.KeyStateDisabled:
		return fmt.Errorf("%w: %s: enable it: aws kms enable-key --key-id %s", ErrDisabled, op.on, op.on)
	}
	return fmt.Errorf("%w: %s is in state %s: %s", backends.ErrUnavailable, op.on, state, e.ErrorMessage())
}

// text is *s, or "" if AWS left it out.
func text(s *string) string { return aws.ToString(s) }
