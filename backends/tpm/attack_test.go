package tpm

import (
	"bytes"
	"errors"
	"testing"

	"github.com/ethereum/go-ethereum/common"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/backends/sealed"
	"github.com/keyward/keyward/internal/swtpm"
)

// wrap seals a secret for a binding and returns both.
func wrap(t *testing.T, d *device, label string) (sealed.Wrapped, sealed.Binding) {
	t.Helper()
	bind := sealed.Binding{Label: label, Signer: common.Address{1}, Account: "0x01", ChainID: 2741}
	plain := buffer(t, "0123456789abcdef0123456789abcdef")
	defer plain.Close()
	w, err := d.Wrap(t.Context(), plain, bind)
	if err != nil {
		t.Fatal(err)
	}
	return w, bind
}

// The TPM itself opens a secret for its own session, signer, account and chain alone, and what is altered for nobody.
// None of that costs a try of the PIN.
func TestAttacks(t *testing.T) {
	emulator := swtpm.Start(t)
	d := openTest(t, emulator, Config{Key: newKey(t, emulator, "123456"), PINs: pins(t, "123456"), PCRs: 1 << 7}).dev
	w, bind := wrap(t, d, "keyward-x")
	opened, err := d.Unwrap(t.Context(), w, bind)
	if err != nil {
		t.Fatal(err)
	}
	if want := buffer(t, "0123456789abcdef0123456789abcdef"); !opened.Equal(want) {
		t.Error("another secret came out")
	}
	for name, other := range map[string]sealed.Binding{
		"session": {Label: "keyward-y", Signer: bind.Signer, Account: bind.Account, ChainID: bind.ChainID},
		"signer":  {Label: bind.Label, Signer: common.Address{2}, Account: bind.Account, ChainID: bind.ChainID},
		"account": {Label: bind.Label, Signer: bind.Signer, Account: "0x02", ChainID: bind.ChainID},
		"chain":   {Label: bind.Label, Signer: bind.Signer, Account: bind.Account, ChainID: 1},
	} {
		if _, err := d.Unwrap(t.Context(), w, other); !errors.Is(err, sealed.ErrDamaged) {
			t.Errorf("for another %s: %v, want ErrDamaged", name, err)
		}
	}
	for i := range w.Blob {
		if i%5 != 0 && i > 8 {
			continue
		}
		for _, flip := range []byte{0x01, 0x80} {
			altered := sealed.Wrapped{Key: w.Key, Blob: bytes.Clone(w.Blob)}
			altered.Blob[i] ^= flip
			if _, err := d.Unwrap(t.Context(), altered, bind); !errors.Is(err, sealed.ErrDamaged) {
				t.Errorf("byte %d of %d altered: %v, want ErrDamaged", i, len(w.Blob), err)
			}
		}
	}
	for n := range w.Blob {
		if _, err := d.Unwrap(t.Context(), sealed.Wrapped{Key: w.Key, Blob: w.Blob[:n]}, bind); !errors.Is(err,
			sealed.ErrDamaged) {
			t.Errorf("cut to %d bytes: %v, want ErrDamaged", n, err)
		}
	}
	if l := failedTries(t, emulator); l.Failed != 0 {
		t.Errorf("%d PIN tries failed, want none", l.Failed)
	}
}

// Parts of two blobs don't make a third, and a blob opens under no other storage key, in this TPM or another.
func TestSwappedParts(t *testing.T) {
	emulator := swtpm.Start(t)
	d := openTest(t, emulator, Config{Key: newKey(t, emulator, ""), PCRs: 1 << 7}).dev
	w, bind := wrap(t, d, "keyward-x")
	v, otherBind := wrap(t, d, "keyward-y")
	mine, err := parseBlob(w.Blob)
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := parseBlob(v.Blob)
	if err != nil {
		t.Fatal(err)
	}
	mixed := *mine
	mixed.private = theirs.private
	unbound := *mine
	unbound.pcrs, unbound.pcrDigest = 0, nil
	for name, b := range map[string]*blob{"another's private part": &mixed, "without its PCRs": &unbound} {
		for _, bind := range []sealed.Binding{bind, otherBind} {
			if _, err := d.Unwrap(t.Context(), sealed.Wrapped{Key: w.Key, Blob: b.marshal()}, bind); !errors.Is(err,
				sealed.ErrDamaged) {
				t.Errorf("%s, for %s: %v, want ErrDamaged", name, bind.Label, err)
			}
		}
	}
	stranger := openTest(t, emulator, Config{Key: newKey(t, emulator, "")}).dev
	if _, err := stranger.Unwrap(t.Context(), w, bind); !errors.Is(err, backends.ErrUnavailable) {
		t.Errorf("another storage key's: %v, want ErrUnavailable", err)
	}
	w.Key = stranger.keyName()
	if _, err := stranger.Unwrap(t.Context(), w, bind); !errors.Is(err, sealed.ErrDamaged) {
		t.Errorf("another storage key's under this one's name: %v, want ErrDamaged", err)
	}
}

// FuzzBlob: what parseBlob accepts, marshal returns byte for byte, and check does not panic.
func FuzzBlob(f *testing.F) {
	f.Add((&blob{public: []byte{1}, private: []byte{2}}).marshal())
	f.Add((&blob{pcrs: 1 << 7, pcrDigest: make([]byte, 32), public: []byte{0, 8, 0, 11}}).marshal())
	f.Fuzz(func(t *testing.T, data []byte) {
		b, err := parseBlob(data)
		if err != nil {
			if !errors.Is(err, sealed.ErrDamaged) {
				t.Errorf("parseBlob = %v, want ErrDamaged", err)
			}
			return
		}
		if !bytes.Equal(b.marshal(), data) {
			t.Errorf("marshal = %x, want %x", b.marshal(), data)
		}
		_ = b.check()
	})
}

func TestParse(t *testing.T) {
	for text, want := range map[string]PCRs{"": 0, "7": 1 << 7, "0,7,23": 1 | 1<<7 | 1<<23} {
		got, err := ParsePCRs(text)
		if err != nil || got != want || got.String() != text {
			t.Errorf("ParsePCRs(%q) = %v (%q), %v", text, got, got, err)
		}
	}
	for _, text := range []string{"24", "7,", ",7", "7,7", "7,1", "07", "-1", "7 ", "a"} {
		if got, err := ParsePCRs(text); err == nil {
			t.Errorf("ParsePCRs(%q) = %v, want an error", text, got)
		}
	}
	k := Key{Handle: firstOurs, Name: append([]byte{0, 0x0b}, make([]byte, 32)...)}
	if got, err := ParseKey(k.HandleHex(), k.NameHex()); err != nil || got.Handle != k.Handle ||
		!bytes.Equal(got.Name, k.Name) {
		t.Errorf("ParseKey = %+v, %v", got, err)
	}
	for _, bad := range [][2]string{{"0x80000000", k.NameHex()}, {"0x81800000", k.NameHex()}, {"x", k.NameHex()},
		{k.HandleHex(), k.NameHex()[2:]}, {k.HandleHex(), ""}} {
		if _, err := ParseKey(bad[0], bad[1]); err == nil {
			t.Errorf("ParseKey(%q, %q) succeeded", bad[0], bad[1])
		}
	}
}
