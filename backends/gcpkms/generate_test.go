package gcpkms

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"cloud.google.com/go/kms/apiv1/kmspb"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/backends/backendtest"
	"github.com/keyward/keyward/backends/gcpkms/kmsfake"
)

func TestGenerateMakes(t *testing.T) {
	b, s := start(t, Config{DestroyAfter: 48 * time.Hour})
	s.SetPending(2)
	k := generate(t, b, "keyward-0123456789abcdef")
	made := s.Newest()
	if !strings.HasPrefix(made.Name, ring+"/cryptoKeys/keyward-0123456789abcdef-") {
		t.Errorf("name %q", made.Name)
	}
	if k.URI() != "gcpkms:"+made.Name+"/cryptoKeyVersions/1" {
		t.Errorf("URI %q", k.URI())
	}
	want := map[string]string{
		"keyward-session": "keyward-0123456789abcdef",
		"keyward-account": "0x36615cf349d7f6344891b1e7ca7c72883f5dc049",
		"keyward-chain":   "2741",
	}
	if diff := cmp.Diff(want, made.Labels); diff != "" {
		t.Errorf("labels (-want +got):\n%s", diff)
	}
	if d := made.DestroyScheduledDuration.AsDuration(); d != 48*time.Hour {
		t.Errorf("destroyed keys can be restored for %v", d)
	}
}

func TestLabels(t *testing.T) {
	for _, label := range []string{"keyward-1", "b32-", "b32-aaaa", "", "Upper", "keyward-find; 100% ü",
		strings.Repeat("A", 36)} {
		all, err := labels(backends.KeyAttributes{Label: label})
		if err != nil {
			t.Errorf("labels(%q): %v", label, err)
			continue
		}
		if got, ours := sessionLabel(all); got != label || !ours {
			t.Errorf("sessionLabel(%q) = %q, %v, want %q", all, got, ours, label)
		}
	}
	for _, attrs := range []backends.KeyAttributes{{Label: strings.Repeat("A", 80)}, {Account: "0x!"}} {
		if all, err := labels(attrs); err == nil {
			t.Errorf("labels(%v) = %v", attrs, all)
		}
	}
	for _, other := range []map[string]string{nil, {"app": "x"}, {labelSession: "b32-!"}} {
		if got, ours := sessionLabel(other); ours {
			t.Errorf("sessionLabel(%v) = %q, which is not ours", other, got)
		}
	}
}

// TestGenerateLeavesNothing: whenever Generate fails, no usable key is left that is not told of.
func TestGenerateLeavesNothing(t *testing.T) {
	down := always(kmsfake.Fault{Err: status.Error(codes.Unavailable, "down")})
	denied := always(kmsfake.Fault{Err: status.Error(codes.PermissionDenied, "no")})
	for _, test := range []struct {
		name   string
		faults map[string]*kmsfake.Fault
		want   error
		left   int // usable keys
		says   string
	}{
		{"not permitted", map[string]*kmsfake.Fault{"CreateCryptoKey": denied}, backends.ErrRefused, 0,
			"cloudkms.cryptoKeys.create is missing on " + ring},
		{"no key ring", map[string]*kmsfake.Fault{"CreateCryptoKey": always(kmsfake.Fault{Err: status.Error(codes.NotFound,
			"no ring")})}, backends.ErrRefused, 0, "gcloud kms keyrings create"},
		{"down", map[string]*kmsfake.Fault{"CreateCryptoKey": down}, backends.ErrUnavailable, 0, ""},
		{"every answer lost", map[string]*kmsfake.Fault{"CreateCryptoKey": always(kmsfake.Fault{Cut: true})},
			backends.ErrUnavailable, 0, ""},
		{"public key not permitted", map[string]*kmsfake.Fault{"GetPublicKey": denied}, backends.ErrRefused, 0,
			"cloudkms.cryptoKeyVersions.viewPublicKey"},
		{"generation failed", map[string]*kmsfake.Fault{"GetCryptoKeyVersion": always(kmsfake.Fault{
			Change: change(func(v *kmspb.CryptoKeyVersion) { v.State = kmspb.CryptoKeyVersion_GENERATION_FAILED }),
		}), "GetPublicKey": always(kmsfake.Fault{Err: status.Error(codes.FailedPrecondition, "failed")})}, errMade, 0,
			"GENERATION_FAILED"},
		{"not destroyed either", map[string]*kmsfake.Fault{"GetPublicKey": denied, "DestroyCryptoKeyVersion": denied},
			backends.ErrRefused, 1, "may be left behind as " + ring},
	} {
		t.Run(test.name, func(t *testing.T) {
			b, s := start(t, Config{OpTimeout: 2 * time.Second})
			for method, f := range test.faults {
				s.Fault(method, f)
			}
			_, err := b.Generate(t.Context(), backends.KeyAttributes{Label: "keyward-1"})
			if !errors.Is(err, test.want) || !strings.Contains(err.Error(), test.says) {
				t.Errorf("error %v, want %v that says %q", err, test.want, test.says)
			}
			if n := s.InState(kmspb.CryptoKeyVersion_ENABLED); n != test.left {
				t.Errorf("%d usable keys are left, want %d", n, test.left)
			}
		})
	}
}

// A lost answer costs no second key.
func TestGenerateAnswerLost(t *testing.T) {
	b, s := start(t, Config{})
	s.Fault("CreateCryptoKey", once(kmsfake.Fault{Cut: true}))
	backendtest.Verify(t, generate(t, b, "keyward-1"), [32]byte{1})
	if n := s.InState(kmspb.CryptoKeyVersion_ENABLED); n != 1 {
		t.Errorf("%d keys, want 1", n)
	}
}

// Who gives up while a key is being made leaves none.
func TestGenerateAbandoned(t *testing.T) {
	b, s := start(t, Config{})
	ctx, cancel := context.WithCancel(t.Context())
	s.Fault("GetPublicKey", always(kmsfake.Fault{Delay: time.Hour}))
	s.Fault("GetCryptoKeyVersion", once(kmsfake.Fault{Change: func(proto.Message) { cancel() }}))
	if _, err := b.Generate(ctx, backends.KeyAttributes{Label: "keyward-1"}); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want Canceled", err)
	}
	if n := s.InState(kmspb.CryptoKeyVersion_ENABLED); n != 0 {
		t.Errorf("%d usable keys are left", n)
	}
}

func TestDestroyAnswerLost(t *testing.T) {
	b, s := start(t, Config{})
	k := generate(t, b, "keyward-1")
	s.Fault("DestroyCryptoKeyVersion", once(kmsfake.Fault{Cut: true}))
	if err := b.Destroy(t.Context(), k.URI()); err != nil {
		t.Errorf("Destroy: %v", err)
	}
	if n := s.InState(kmspb.CryptoKeyVersion_DESTROY_SCHEDULED); n != 1 {
		t.Errorf("%d versions are scheduled for destruction, want 1", n)
	}
}

func TestDestroyNotPermitted(t *testing.T) {
	b, s := start(t, Config{})
	k := generate(t, b, "keyward-1")
	s.Fault("DestroyCryptoKeyVersion", always(kmsfake.Fault{Err: status.Error(codes.PermissionDenied, "no")}))
	err := b.Destroy(t.Context(), k.URI())
	if !errors.Is(err, backends.ErrRefused) || !strings.Contains(err.Error(),
		"cloudkms.cryptoKeyVersions.destroy is missing on "+k.name) {
		t.Errorf("error %v, want the missing permission", err)
	}
	backendtest.Verify(t, k, [32]byte{1})
}

// A URI outside the key ring is not asked for, whatever the credentials permit.
func TestOtherKeyRing(t *testing.T) {
	b, s := start(t, Config{})
	calls := s.TotalCalls()
	for _, uri := range []string{
		"gcpkms:projects/p-1/locations/europe-west6/keyRings/keyward2/cryptoKeys/k/cryptoKeyVersions/1",
		"gcpkms:" + ring + "/cryptoKeys/k",
		"gcpkms:" + ring + "/cryptoKeys/../cryptoKeyVersions/1",
		"gcpkms:" + ring + "/cryptoKeys/k/cryptoKeyVersions/1/x",
		"gcpkms:" + ring + "/cryptoKeys/k/cryptoKeyVersions/latest",
	} {
		if _, err := b.Key(t.Context(), uri); !errors.Is(err, backends.ErrKeyNotFound) {
			t.Errorf("Key(%q): %v, want ErrKeyNotFound", uri, err)
		}
	}
	if n := s.TotalCalls() - calls; n != 0 {
		t.Errorf("%d calls", n)
	}
}

// Destroyed keys stay in the service's list for ever; each is asked for once.
func TestListPagesAndRemembers(t *testing.T) {
	b, s := start(t, Config{})
	var live int
	for i := range 8 { // three pages
		k := generate(t, b, "keyward-1")
		if i%2 == 0 {
			s.SetState(k.name, kmspb.CryptoKeyVersion_DESTROYED)
		} else {
			live++
		}
	}
	for range 2 {
		keys, err := b.Keys(t.Context(), "keyward-")
		if err != nil || len(keys) != live {
			t.Fatalf("%d keys, %v, want %d", len(keys), err, live)
		}
	}
	before := s.Calls("GetPublicKey")
	if _, err := b.Keys(t.Context(), "keyward-"); err != nil {
		t.Fatal(err)
	}
	if n := s.Calls("GetPublicKey") - before; n != live {
		t.Errorf("%d public keys were read, want %d", n, live)
	}
	if pages := s.Calls("ListCryptoKeys"); pages != 9 {
		t.Errorf("%d pages were read, want 9", pages)
	}
}

// A page that fails or does not come in time is asked for again.
func TestPageFails(t *testing.T) {
	for name, f := range map[string]*kmsfake.Fault{
		"throttled": once(kmsfake.Fault{Err: throttled(0)}),
		"slow":      once(kmsfake.Fault{Delay: time.Minute}),
		"cut":       once(kmsfake.Fault{Cut: true}),
	} {
		b, s := start(t, Config{OpTimeout: 3 * time.Second})
		for range 7 { // three pages
			generate(t, b, "keyward-1")
		}
		s.Fault("ListCryptoKeys", f)
		if keys, err := b.Keys(t.Context(), ""); err != nil || len(keys) != 7 {
			t.Errorf("%s: %d keys, %v, want 7", name, len(keys), err)
		}
	}
}

// The service may call the project by its number.
func TestProjectNumber(t *testing.T) {
	b, s := start(t, Config{})
	k := generate(t, b, "keyward-1")
	byNumber := func(name string) string { return strings.Replace(name, "projects/p-1/", "projects/123456/", 1) }
	s.Fault("AsymmetricSign", always(kmsfake.Fault{Change: change(func(a signAnswer) { a.Name = byNumber(a.Name) })}))
	s.Fault("GetPublicKey", always(kmsfake.Fault{Change: change(func(a *kmspb.PublicKey) { a.Name = byNumber(a.Name) })}))
	s.Fault("ListCryptoKeys", always(kmsfake.Fault{Change: change(func(a *kmspb.ListCryptoKeysResponse) {
		for _, ck := range a.CryptoKeys {
			ck.Name = byNumber(ck.Name)
		}
	})}))
	backendtest.Verify(t, k, [32]byte{1})
	keys, err := b.Keys(t.Context(), "")
	if err != nil || len(keys) != 1 || keys[0].Key.URI() != k.URI() {
		t.Errorf("Keys = %v, %v, want %s", keys, err, k.URI())
	}
}

func TestStatusCostsNoCall(t *testing.T) {
	b, s := start(t, Config{})
	for range 3 {
		if st := b.Status(t.Context()); st.State != "ready" {
			t.Errorf("Status = %+v, want ready", st)
		}
	}
	if n := s.TotalCalls(); n != 0 {
		t.Errorf("%d calls", n)
	}
	k := generate(t, b, "keyward-1")
	s.Fault("AsymmetricSign", once(kmsfake.Fault{Err: status.Error(codes.PermissionDenied, "no")}))
	if _, err := k.SignDigest(t.Context(), [32]byte{1}); err == nil {
		t.Fatal("signed")
	}
	if st := b.Status(t.Context()); st.State != "unavailable" || !strings.Contains(st.Detail, "useToSign") {
		t.Errorf("Status after a refusal = %+v", st)
	}
	backendtest.Verify(t, k, [32]byte{1})
	if st := b.Status(t.Context()); st.State != "ready" {
		t.Errorf("Status after a signature = %+v", st)
	}
}

func TestStatusUnreachable(t *testing.T) {
	b, s := start(t, Config{})
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	conn := b.connection()
	st := b.Status(ctx)
	// that the server is gone is noticed later
	for st.State == "ready" && conn.WaitForStateChange(ctx, connectivity.Ready) {
		st = b.Status(ctx)
	}
	if st.State != "unavailable" || !strings.Contains(st.Detail, "no connection") {
		t.Errorf("Status = %+v", st)
	}
}
