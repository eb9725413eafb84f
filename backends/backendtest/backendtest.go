// Package backendtest is the suite that every backend passes.
package backendtest

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/ethereum/go-ethereum/crypto"
	"github.com/google/go-cmp/cmp"
	"github.com/keyward/keyward/backends"
)

// Options fits the suite to a device.
type Options struct {
	Signatures int // for each of the tests that sign much; 0: 64
	// Unknown is a well-formed URI of a key that the device never had. "": a
	// key is made and destroyed to have one.
	Unknown string
	// Keys is how many keys the device can hold at a time, at least 2; 0: more than are
	// made here. Where a test makes more, the oldest are destroyed.
	Keys int
}

// Run holds the backend that open gives to its contract. open is called for each subtest,
// gives an empty backend, and cleans up after itself; Close may be called before that.
func Run(t *testing.T, opts Options, open func(t *testing.T) backends.Backend) {
	if opts.Signatures == 0 {
		opts.Signatures = 64
	}
	s := &suite{opts}
	for _, test := range []struct {
		name string
		run  func(*testing.T, backends.Backend)
	}{
		{"Generate", s.generate},
		{"Find", s.find},
		{"Sign", s.sign},
		{"SignManyDigests", s.signMany},
		{"SignParallel", s.signParallel},
		{"Destroy", s.destroy},
		{"Full", s.full},
		{"NotFound", s.notFound},
		{"ContextDone", s.contextDone},
		{"Deadline", s.deadline},
		{"Close", s.close},
		{"CloseWaits", s.closeWaits},
		{"List", s.list},
		{"Status", s.status},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, open(t)) })
	}
}

type suite struct{ Options }

func (s *suite) generate(t *testing.T, b backends.Backend) {
	uris, points := map[string]bool{}, map[string]bool{}
	r := s.rack(b)
	for i := range 5 {
		k := r.generate(t, fmt.Sprintf("keyward-generate-%d", i))
		uris[k.URI()] = true
		points[string(point(k))] = true
		switch k.Protection() {
		case backends.Resident, backends.Wrapped, backends.Sealed:
		default:
			t.Errorf("Protection() = %q", k.Protection())
		}
		if _, err := crypto.UnmarshalPubkey(point(k)); err != nil {
			t.Errorf("public key %x is not on secp256k1: %v", point(k), err)
		}
	}
	if len(uris) != 5 || len(points) != 5 {
		t.Errorf("5 keys have %d URIs and %d public keys", len(uris), len(points))
	}
	// Two keys of one label are two keys all the same.
	if a, b := r.generate(t, "keyward-twin"), r.generate(t, "keyward-twin"); a.URI() == b.URI() {
		t.Errorf("two keys have the URI %q", a.URI())
	}
}

func (s *suite) find(t *testing.T, b backends.Backend) {
	other := Generate(t, b, "keyward-other")
	k := Generate(t, b, "keyward-find; 100% ü")
	for range 3 {
		again, err := b.Key(t.Context(), k.URI())
		if err != nil {
			t.Fatalf("Key(%q): %v", k.URI(), err)
		}
		if diff := cmp.Diff(point(k), point(again)); diff != "" {
			t.Errorf("public key changed (-generated +found):\n%s", diff)
		}
		if again.URI() != k.URI() || again.Protection() != k.Protection() {
			t.Errorf("found %q, %q, want %q, %q", again.URI(), again.Protection(), k.URI(), k.Protection())
		}
		Verify(t, again, [32]byte{1})
	}
	if bytes.Equal(point(other), point(k)) {
		t.Error("found another key")
	}
}

func (s *suite) sign(t *testing.T, b backends.Backend) {
	k := Generate(t, b, "keyward-sign")
	for _, digest := range [][32]byte{
		{},
		[32]byte(bytes.Repeat([]byte{0xff}, 32)),
		[32]byte(crypto.S256().Params().N.Bytes()),
		{31: 1},
		{0: 0x80},
	} {
		Verify(t, k, digest)
	}
}

func (s *suite) signMany(t *testing.T, b backends.Backend) {
	k := Generate(t, b, "keyward-many")
	for range s.Signatures {
		Verify(t, k, randomDigest())
	}
}

func (s *suite) signParallel(t *testing.T, b backends.Backend) {
	const callers = 16
	keys := 3
	if s.Keys != 0 {
		keys = min(keys, s.Keys)
	}
	var ks []backends.Key
	for i := range keys {
		ks = append(ks, Generate(t, b, fmt.Sprintf("keyward-parallel-%d", i)))
	}
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() {
			for j := range max(s.Signatures/callers, 2) {
				k, digest := ks[(i+j)%keys], randomDigest()
				if err := verify(t.Context(), k, digest); err != nil {
					t.Errorf("signing in parallel: %v", err)
				}
			}
		})
	}
	wg.Wait()
}

func (s *suite) destroy(t *testing.T, b backends.Backend) {
	k, stays := Generate(t, b, "keyward-destroy"), Generate(t, b, "keyward-destroy")
	if err := b.Destroy(t.Context(), k.URI()); err != nil {
		t.Fatalf("Destroy: %v", err)
	}
	if _, err := b.Key(t.Context(), k.URI()); !errors.Is(err, backends.ErrKeyNotFound) {
		t.Errorf("Key after Destroy: %v, want ErrKeyNotFound", err)
	}
	if _, err := k.SignDigest(t.Context(), [32]byte{1}); !errors.Is(err, backends.ErrKeyNotFound) {
		t.Errorf("SignDigest after Destroy: %v, want ErrKeyNotFound", err)
	}
	if err := b.Destroy(t.Context(), k.URI()); !errors.Is(err, backends.ErrKeyNotFound) {
		t.Errorf("second Destroy: %v, want ErrKeyNotFound", err)
	}
	Verify(t, stays, randomDigest())
}

// full fills the device: one key more is refused, and none is lost by that.
func (s *suite) full(t *testing.T, b backends.Backend) {
	if s.Keys == 0 {
		return
	}
	var ks []backends.Key
	for i := range s.Keys {
		ks = append(ks, Generate(t, b, fmt.Sprintf("keyward-full-%d", i)))
	}
	if k, err := b.Generate(t.Context(), backends.KeyAttributes{Label: "keyward-more"}); err == nil {
		t.Errorf("Generate on a full device = %s", k.URI())
	}
	for _, k := range ks {
		Verify(t, k, randomDigest())
	}
	if err := b.Destroy(t.Context(), ks[0].URI()); err != nil {
		t.Fatal(err)
	}
	Verify(t, Generate(t, b, "keyward-more"), randomDigest())
}

func (s *suite) notFound(t *testing.T, b backends.Backend) {
	uri := s.Unknown
	if uri == "" {
		k := Generate(t, b, "keyward-unknown")
		uri = k.URI()
		if err := b.Destroy(t.Context(), uri); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := b.Key(t.Context(), uri); !errors.Is(err, backends.ErrKeyNotFound) {
		t.Errorf("Key(%q): %v, want ErrKeyNotFound", uri, err)
	}
	if err := b.Destroy(t.Context(), uri); !errors.Is(err, backends.ErrKeyNotFound) {
		t.Errorf("Destroy(%q): %v, want ErrKeyNotFound", uri, err)
	}
	for _, malformed := range []string{"", "nonsense", "pkcs11:"} {
		if _, err := b.Key(t.Context(), malformed); err == nil {
			t.Errorf("Key(%q) succeeded", malformed)
		}
		if err := b.Destroy(t.Context(), malformed); err == nil {
			t.Errorf("Destroy(%q) succeeded", malformed)
		}
	}
}
func (s *suite) list(t *testing.T, b backends.Backend) {
	l, ok := b.(backends.Lister)
	if !ok {
		return
	}
	want := map[string]string{}
	r := s.rack(b)
	r.destroyed = func(uri string) { delete(want, uri) }
	for _, label := range []string{"keyward-a", "keyward-ab", "other"} {
		k := r.generate(t, label)
		if label != "other" {
			want[k.URI()] = label
		}
		checkList(t, l, want)
	}
}

// checkList wants those keys, label by URI, to be all whose label starts with keyward-a, and each to sign.
func checkList(t *testing.T, l backends.Lister, want map[string]string) {
	t.Helper()
	list, err := l.Keys(t.Context(), "keyward-a")
	if err != nil {
		t.Fatalf("Keys: %v", err)
	}
	got := map[string]string{}
	for _, e := range list {
		got[e.Key.URI()] = e.Label
		Verify(t, e.Key, randomDigest())
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Keys (-want +got):\n%s", diff)
	}
}

func (s *suite) status(t *testing.T, b backends.Backend) {
	p, ok := b.(backends.Prober)
	if !ok {
		return
	}
	if st := p.Status(t.Context()); st.State != "ready" || st.Detail == "" {
		t.Errorf("Status = %+v, want ready and a detail", st)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if st := p.Status(t.Context()); st.State != "unavailable" || st.Detail == "" {
		t.Errorf("Status after Close = %+v, want unavailable and a reason", st)
	}
}

// rack generates keys on a device that may have room for few.
type rack struct {
	b         backends.Backend
	keys      int // 0: any number
	has       []string
	destroyed func(uri string) // told of a key that had to go
}

func (s *suite) rack(b backends.Backend) *rack {
	return &rack{b: b, keys: s.Keys, destroyed: func(string) {}}
}

// generate makes a key, having destroyed the oldest if there is no room.
func (r *rack) generate(t *testing.T, label string) backends.Key {
	t.Helper()
	if r.keys != 0 && len(r.has) == r.keys {
		if err := r.b.Destroy(t.Context(), r.has[0]); err != nil {
			t.Fatalf("Destroy: %v", err)
		}
		r.destroyed(r.has[0])
		r.has = r.has[1:]
	}
	k := Generate(t, r.b, label)
	r.has = append(r.has, k.URI())
	return k
}

// calls makes one call of each method that takes a context, and returns the errors.
func calls(ctx context.Context, b backends.Backend, k backends.Key) map[string]error {
	_, generate := b.Generate(ctx, backends.KeyAttributes{Label: "keyward-none"})
	_, find := b.Key(ctx, k.URI())
	_, sign := k.SignDigest(ctx, [32]byte{1})
	errs := map[string]error{
		"Generate": generate, "Key": find, "SignDigest": sign, "Destroy": b.Destroy(ctx, k.URI()),
	}
	if l, ok := b.(backends.Lister); ok {
		_, errs["Keys"] = l.Keys(ctx, "")
	}
	return errs
}

// Generate makes a key.
func Generate(t *testing.T, b backends.Backend, label string) backends.Key {
	t.Helper()
	k, err := b.Generate(t.Context(), backends.KeyAttributes{Label: label,
		Account: "0x36615Cf349d7F6344891B1e7CA7C72883F5dc049", ChainID: 2741})
	if err != nil {
		t.Fatalf("Generate: %v", err)
	}
	return k
}

// Verify signs digest with k, and checks the signature, its low S among the rest.
func Verify(t *testing.T, k backends.Key, digest [32]byte) {
	t.Helper()
	if err := verify(t.Context(), k, digest); err != nil {
		t.Fatal(err)
	}
}

func verify(ctx context.Context, k backends.Key, digest [32]byte) error {
	sig, err := k.SignDigest(ctx, digest)
	if err != nil {
		return fmt.Errorf("SignDigest(%x): %w", digest, err)
	}
	// VerifySignature refuses a high S.
	if !crypto.VerifySignature(point(k), digest[:], sig[:]) {
		return fmt.Errorf("SignDigest(%x) = %x, which does not verify", digest, sig)
	}
	if _, err := backends.Recoverable(point(k), digest, sig); err != nil {
		return fmt.Errorf("SignDigest(%x) = %x: %w", digest, sig, err)
	}
	return nil
}

// point is k's public key, 65 bytes.
func point(k backends.Key) []byte { return crypto.FromECDSAPub(k.Public()) }

func randomDigest() (d [32]byte) {
	rand.Read(d[:])
	return d
}
