package gcpkms

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"cloud.google.com/go/kms/apiv1/kmspb"
	"github.com/ethereum/go-ethereum/crypto"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/backends/backendtest"
	"github.com/keyward/keyward/backends/gcpkms/kmsfake"
)

// refusal is an error as the service gives it, with its reason.
func refusal(code codes.Code, reason string, metadata map[string]string, details ...string) error {
	st, err := status.New(code, "as the service says: "+strings.Join(details, " ")).WithDetails(
		&errdetails.ErrorInfo{Reason: reason, Domain: "cloudkms.googleapis.com", Metadata: metadata})
	if err != nil {
		panic(err)
	}
	return st.Err()
}

func throttled(delay time.Duration) error {
	st, err := status.New(codes.ResourceExhausted, "Quota exceeded").WithDetails(
		&errdetails.ErrorInfo{Reason: "RATE_LIMIT_EXCEEDED",
			Metadata: map[string]string{"quota_metric": "cloudkms.googleapis.com/hsm_asymmetric_requests"}},
		&errdetails.RetryInfo{RetryDelay: durationpb.New(delay)})
	if err != nil {
		panic(err)
	}
	return st.Err()
}

// once and always are faults that end, or do not.
func once(f kmsfake.Fault) *kmsfake.Fault   { f.Times = 1; return &f }
func always(f kmsfake.Fault) *kmsfake.Fault { return &f }

func change[T proto.Message](f func(T)) func(proto.Message) {
	return func(m proto.Message) { f(m.(T)) }
}

type signAnswer = *kmspb.AsymmetricSignResponse

func TestSignFaults(t *testing.T) {
	denied := refusal(codes.PermissionDenied, "IAM_PERMISSION_DENIED",
		map[string]string{"permission": "cloudkms.cryptoKeyVersions.useToSign"})
	for _, test := range []struct {
		name  string
		fault *kmsfake.Fault
		calls int    // of AsymmetricSign; 0: more than one
		want  error  // nil: it signs
		says  string // in the error
	}{
		{"throttled once", once(kmsfake.Fault{Err: throttled(0)}), 2, nil, ""},
		{"throttled for longer than there is time", always(kmsfake.Fault{Err: throttled(time.Hour)}), 1,
			backends.ErrUnavailable, "hsm_asymmetric_requests"},
		{"service down once", once(kmsfake.Fault{Err: status.Error(codes.Unavailable, "down")}), 2, nil, ""},
		{"internal error once", once(kmsfake.Fault{Err: status.Error(codes.Internal, "oops")}), 2, nil, ""},
		{"connection cut after the request was sent", once(kmsfake.Fault{Cut: true}), 2, nil, ""},
		{"access denied", always(kmsfake.Fault{Err: denied}), 1, backends.ErrRefused,
			"cloudkms.cryptoKeyVersions.useToSign is missing on " + ring},
		{"access denied, no details", always(kmsfake.Fault{Err: status.Error(codes.PermissionDenied, "no")}), 1,
			backends.ErrRefused, "cloudkms.cryptoKeyVersions.useToSign is missing on " + ring},
		{"API disabled", always(kmsfake.Fault{Err: refusal(codes.PermissionDenied, "SERVICE_DISABLED", nil)}), 1,
			backends.ErrRefused, "gcloud services enable"},
		{"credentials expired", always(kmsfake.Fault{Err: status.Error(codes.Unauthenticated,
			"Request had invalid authentication credentials.")}), 1, backends.ErrRefused,
			"renew the application default credentials"},
		{"wrong location", always(kmsfake.Fault{Err: status.Error(codes.InvalidArgument, "location is not served here")}), 1,
			backends.ErrRefused, "location of key_ring"},
		{"digest corrupted on the way once", once(kmsfake.Fault{Err: status.Error(codes.InvalidArgument,
			"digest_crc32c did not match")}), 2, nil, ""},
		{"digest not checked once", once(kmsfake.Fault{Change: change(func(a signAnswer) { a.VerifiedDigestCrc32C = false })}), 2, nil, ""},
		{"signature corrupted once", once(kmsfake.Fault{Change: change(func(a signAnswer) { a.Signature[9] ^= 1 })}), 2, nil,
			""},
		{"no checksum once", once(kmsfake.Fault{Change: change(func(a signAnswer) { a.SignatureCrc32C = nil })}), 2, nil, ""},
		{"answer about another key once", once(kmsfake.Fault{Change: change(func(a signAnswer) { a.Name += "0" })}), 2, nil,
			""},
		{"signature by software", always(kmsfake.Fault{Change: change(func(a signAnswer) { a.ProtectionLevel = kmspb.ProtectionLevel_SOFTWARE })}), 1, backends.ErrRefused, "SOFTWARE"},
		{"signature is no DER", always(kmsfake.Fault{Change: change(func(a signAnswer) {
			a.Signature = []byte("signature")
			a.SignatureCrc32C = checksum(a.Signature)
		})}), 1, backends.ErrBadSignature, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			b, s := start(t, Config{})
			k := generate(t, b, "keyward-1")
			s.Fault("AsymmetricSign", test.fault)
			digest := [32]byte{1, 2, 3}
			sig, err := k.SignDigest(t.Context(), digest)
			if n := s.Calls("AsymmetricSign"); n != test.calls {
				t.Errorf("%d calls, want %d", n, test.calls)
			}
			if test.want == nil {
				if err != nil {
					t.Fatal(err)
				}
				if _, err := backends.Recoverable(crypto.FromECDSAPub(k.Public()), digest, sig); err != nil {
					t.Error(err)
				}
				return
			}
			if !errors.Is(err, test.want) || !strings.Contains(fmt.Sprint(err), test.says) {
				t.Errorf("error %v, want %v that says %q", err, test.want, test.says)
			}
			if errors.Is(test.want, backends.ErrRefused) == errors.Is(err, backends.ErrUnavailable) &&
				test.want != backends.ErrBadSignature {
				t.Errorf("error %v: a refusal is no invitation to try again", err)
			}
			// a refusal, rather than nonsense
			if certain := errors.Is(err, backends.ErrNotSigned); certain != (test.fault.Err != nil) {
				t.Errorf("error %v, certain %v", err, certain)
			}
			s.Fault("AsymmetricSign", nil)
			backendtest.Verify(t, k, digest) // nothing is lost
		})
	}
}

// A persisting corruption is given up.
func TestCorruptedAlways(t *testing.T) {
	b, s := start(t, Config{OpTimeout: 2 * time.Second})
	k := generate(t, b, "keyward-1")
	s.Fault("AsymmetricSign", always(kmsfake.Fault{Change: change(func(a signAnswer) { a.Signature[9] ^= 1 })}))
	if _, err := k.SignDigest(t.Context(), [32]byte{1}); !errors.Is(err, backends.ErrUnavailable) ||
		!errors.Is(err, errCorrupted) {
		t.Errorf("error %v, want ErrUnavailable and errCorrupted", err)
	}
}

// A signature of another key is intact, and only verification can tell.
func TestSignatureOfAnotherKey(t *testing.T) {
	b, s := start(t, Config{})
	k, other := generate(t, b, "keyward-1"), generate(t, b, "keyward-2")
	digest := [32]byte{5}
	s.Fault("AsymmetricSign", always(kmsfake.Fault{Change: change(func(a signAnswer) {
		der, err := kmsfake.Sign(s.PrivateKey(other.name), digest[:])
		if err != nil {
			t.Error(err)
		}
		a.Signature, a.SignatureCrc32C = der, checksum(der)
	})}))
	sig, err := k.SignDigest(t.Context(), digest)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := backends.Recoverable(crypto.FromECDSAPub(k.Public()), digest, sig); !errors.Is(err,
		backends.ErrBadSignature) {
		t.Errorf("error %v, want ErrBadSignature", err)
	}
}

func TestSlow(t *testing.T) {
	b, s := start(t, Config{})
	k := generate(t, b, "keyward-1")
	s.Fault("AsymmetricSign", always(kmsfake.Fault{Delay: time.Hour}))
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := k.SignDigest(ctx, [32]byte{1})
	if !errors.Is(err, backends.ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v, want ErrUnavailable and DeadlineExceeded", err)
	}
	s.Fault("AsymmetricSign", nil)
	backendtest.Verify(t, k, [32]byte{1})
}

func TestKeyStates(t *testing.T) {
	for state, want := range map[kmspb.CryptoKeyVersion_CryptoKeyVersionState]error{
		kmspb.CryptoKeyVersion_DISABLED:           backends.ErrRefused,
		kmspb.CryptoKeyVersion_DESTROY_SCHEDULED:  backends.ErrKeyNotFound,
		kmspb.CryptoKeyVersion_DESTROYED:          backends.ErrKeyNotFound,
		kmspb.CryptoKeyVersion_PENDING_GENERATION: backends.ErrUnavailable,
		kmspb.CryptoKeyVersion_IMPORT_FAILED:      backends.ErrRefused,
	} {
		t.Run(state.String(), func(t *testing.T) {
			b, s := start(t, Config{})
			k := generate(t, b, "keyward-1")
			setState := func() { s.SetState(k.name, state) } // a look at it may end PENDING_GENERATION
			setState()
			if _, err := k.SignDigest(t.Context(), [32]byte{1}); !errors.Is(err, want) {
				t.Errorf("SignDigest: %v, want %v", err, want)
			}
			setState()
			if _, err := b.Key(t.Context(), k.URI()); !errors.Is(err, want) {
				t.Errorf("Key: %v, want %v", err, want)
			}
			setState()
			keys, err := b.Keys(t.Context(), "")
			if len(keys) != 0 || (err != nil) != (want == backends.ErrUnavailable) {
				t.Errorf("Keys: %v, %v", keys, err)
			}
			s.SetState(k.name, kmspb.CryptoKeyVersion_ENABLED)
			backendtest.Verify(t, k, [32]byte{2}) // an operator has enabled or restored it
		})
	}
}

// Without the permission to see the state, the error tells which one that is.
func TestStateNotPermitted(t *testing.T) {
	b, s := start(t, Config{})
	k := generate(t, b, "keyward-1")
	s.SetState(k.name, kmspb.CryptoKeyVersion_DISABLED)
	s.Fault("GetCryptoKeyVersion", always(kmsfake.Fault{Err: status.Error(codes.PermissionDenied, "no")}))
	_, err := k.SignDigest(t.Context(), [32]byte{1})
	if !errors.Is(err, backends.ErrRefused) || !strings.Contains(err.Error(),
		"cloudkms.cryptoKeyVersions.get is missing") {
		t.Errorf("error %v, want the missing permission", err)
	}
}

func TestPublicKeyIsChecked(t *testing.T) {
	type answer = *kmspb.PublicKey
	resum := func(a answer) { a.PemCrc32C = checksum([]byte(a.Pem)) }
	for name, test := range map[string]struct {
		change func(answer)
		want   error // nil: any
	}{
		"corrupted":     {func(a answer) { a.Pem = strings.Replace(a.Pem, "M", "N", 1) }, errCorrupted},
		"no checksum":   {func(a answer) { a.PemCrc32C = nil }, errCorrupted},
		"another key's": {func(a answer) { a.Name += "0" }, errCorrupted},
		"P-256": {func(a answer) { a.Algorithm = kmspb.CryptoKeyVersion_EC_SIGN_P256_SHA256 },
			backends.ErrKeyNotFound},
		"software": {func(a answer) { a.ProtectionLevel = kmspb.ProtectionLevel_SOFTWARE }, backends.ErrRefused},
		"no PEM":   {func(a answer) { a.Pem = "key"; resum(a) }, nil},
		"two PEMs": {func(a answer) { a.Pem += a.Pem; resum(a) }, nil},
		"private":  {func(a answer) { a.Pem = strings.ReplaceAll(a.Pem, "PUBLIC", "PRIVATE"); resum(a) }, nil},
		"no SPKI": {func(a answer) { a.Pem = "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"; resum(a) },
			nil},
	} {
		t.Run(name, func(t *testing.T) {
			b, s := start(t, Config{OpTimeout: 2 * time.Second})
			k := generate(t, b, "keyward-1")
			s.Fault("GetPublicKey", always(kmsfake.Fault{Change: change(test.change)}))
			if _, err := b.Key(t.Context(), k.URI()); err == nil || test.want != nil && !errors.Is(err, test.want) {
				t.Errorf("error %v, want %v", err, test.want)
			}
		})
	}
}
