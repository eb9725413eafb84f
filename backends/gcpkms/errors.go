package gcpkms

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/backends/internal/kmscall"
)

// Errors that stay in this package; operators see them wrapped.
var (
	// errCorrupted: an answer is not what the service sent, or the service got another question
	// than we asked. It is asked again.
	errCorrupted = errors.New("an answer was corrupted on the way")
	// errState: the key version is in a state in which it can't do what was asked.
	errState = errors.New("the key version's state does not permit it")
)

// operation is a method of the service: what we say of it, and the IAM permission that it needs.
type operation struct {
	what       string
	permission string
}

var (
	opCreate    = operation{"making a key", "cloudkms.cryptoKeys.create"}
	opPublicKey = operation{"reading the public key", "cloudkms.cryptoKeyVersions.viewPublicKey"}
	opState     = operation{"reading the key's state", "cloudkms.cryptoKeyVersions.get"}
	opSign      = operation{"signing", "cloudkms.cryptoKeyVersions.useToSign"}
	opDestroy   = operation{"destroying the key", "cloudkms.cryptoKeyVersions.destroy"}
	opList      = operation{"listing keys", "cloudkms.cryptoKeys.list"}
)

// explain makes of the service's error one that says what the operator has to do, and wraps a
// sentinel where that is clear. resource is what the operation was about.
func (op operation) explain(resource string, err error) error {
	st, ok := status.FromError(err)
	if err == nil || !ok {
		return err
	}
	switch st.Code() {
	case codes.PermissionDenied:
		return fmt.Errorf("%w: %s: %w", backends.ErrRefused, op.denied(resource, st), err)
	case codes.Unauthenticated:
		if !credentialsRefused(st) {
			return err
		}
		return fmt.Errorf("%w: Google does not accept the credentials, or they have expired; renew the application "+
			"default credentials: %w", backends.ErrRefused, err)
	case codes.NotFound:
		if op == opCreate || op == opList {
			return fmt.Errorf("%w: there is no key ring %s, or not at this endpoint; check key_ring, or make it (gcloud kms "+
				"keyrings create): %w", backends.ErrRefused, resource, err)
		}
		return fmt.Errorf("%w: %w", backends.ErrKeyNotFound, err)
	case codes.InvalidArgument:
		if strings.Contains(strings.ToLower(st.Message()), "crc32c") {
			return fmt.Errorf("%w: %w", errCorrupted, err)
		}
		return fmt.Errorf("%w: Google finds fault with the request; check that the location of key_ring is one that the "+
			"endpoint serves and that has HSMs: %w", backends.ErrRefused, err)
	case codes.FailedPrecondition:
		return fmt.Errorf("%w: %w", errState, err)
	case codes.ResourceExhausted:
		return fmt.Errorf("the project's quota %s is used up (IAM & Admin, Quotas, shows it): %w", quota(st), err)
	}
	return err
}

// denied says what permission is missing where, or what else Google has against the call.
func (op operation) denied(resource string, st *status.Status) string {
	info := errorInfo(st)
	switch info.GetReason() {
	case "SERVICE_DISABLED":
		return "the Cloud KMS API is not enabled in the project (gcloud services enable cloudkms.googleapis.com)"
	case "BILLING_DISABLED":
		return "billing is not enabled in the project"
	case "SECURITY_POLICY_VIOLATED":
		return "a VPC Service Controls perimeter forbids it"
	}
	permission := op.permission
	if p := info.GetMetadata()["permission"]; p != "" {
		permission = p
	}
	return fmt.Sprintf("%s is missing on %s; grant the agent a role that has it", permission, resource)
}

func errorInfo(st *status.Status) *errdetails.ErrorInfo {
	for _, d := range st.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok {
			return info
		}
	}
	return nil
}

func quota(st *status.Status) string {
	if m := errorInfo(st).GetMetadata()["quota_metric"]; m != "" {
		return m
	}
	return "of this kind of request"
}

// credentialsRefused reports whether an Unauthenticated came from the service, or from the
// token endpoint for good. That no token could be fetched comes as the same code, but may pass.
func credentialsRefused(st *status.Status) bool {
	_, fetching, ok := strings.Cut(st.Message(), "per-RPC creds failed")
	return !ok || strings.Contains(fetching, "invalid_grant") || strings.Contains(fetching, "invalid_client") ||
		strings.Contains(fetching, "unauthorized_client")
}

// notDone reports whether err is a refusal by the service, after which nothing was signed.
func notDone(err error) bool {
	s := grpcStatus(nil)
	if !errors.As(err, &s) {
		return false
	}
	switch st := s.GRPCStatus(); st.Code() {
	case codes.PermissionDenied, codes.NotFound, codes.FailedPrecondition, codes.InvalidArgument, codes.Unauthenticated:
		return true
	case codes.ResourceExhausted: // without this detail it may be gRPC's own, about the size of an answer
		for _, d := range st.Details() {
			if _, ok := d.(*errdetails.QuotaFailure); ok {
				return true
			}
		}
		return errorInfo(st).GetMetadata()["quota_metric"] != ""
	}
	return false
}

// classify tells kmscall what may be repeated.
func classify(err error) (kmscall.Class, time.Duration) {
	if errors.Is(err, errCorrupted) {
		return kmscall.Unanswered, 0
	}
	st := new(status.Status) // of no error
	if s := grpcStatus(nil); errors.As(err, &s) {
		st = s.GRPCStatus()
	}
	switch st.Code() {
	case codes.ResourceExhausted:
		return kmscall.Throttled, retryDelay(st)
	case codes.Unavailable, codes.Internal, codes.Unknown, codes.Aborted, codes.DeadlineExceeded, codes.Canceled,
		codes.DataLoss:
		return kmscall.Unanswered, retryDelay(st)
	case codes.Unauthenticated:
		if !credentialsRefused(st) {
			return kmscall.Unanswered, 0
		}
	}
	return kmscall.Final, 0
}

// grpcStatus is what errors that came over gRPC have.
type grpcStatus interface{ GRPCStatus() *status.Status }

// retryDelay is how long the service asks to wait.
func retryDelay(st *status.Status) time.Duration {
	for _, d := range st.Details() {
		if info, ok := d.(*errdetails.RetryInfo); ok {
			return max(info.GetRetryDelay().AsDuration(), 0)
		}
	}
	return 0
}
