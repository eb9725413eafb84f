package openpgp_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/ethereum/go-ethereum/crypto"
	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/backends/backendtest"
	"github.com/keyward/keyward/backends/openpgp"
	"github.com/keyward/keyward/internal/cardsim"
	"github.com/keyward/keyward/internal/pcsc"
)

// asGPG runs commands with the admin PIN verified, as gpg would to make a key of its own.
func asGPG(t *testing.T, cmds ...pcsc.Command) {
	t.Helper()
	c, err := pcsc.Dial()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	card, err := c.Open(cardsim.ReaderName + " 00 00")
	if err != nil {
		t.Fatal(err)
	}
	defer card.Close()
	all := append([]pcsc.Command{
		{INS: insSelect, P1: 4, Data: []byte{0xD2, 0x76, 0, 1, 0x24, 1}},
		{INS: insVerify, P2: 0x83, Data: []byte(adminPIN)},
	}, cmds...)
	for _, cmd := range all {
		if _, sw, err := card.Do(cmd); err != nil || sw != pcsc.OK {
			t.Fatalf("command %02X %02X%02X: status %v, %v", cmd.INS, cmd.P1, cmd.P2, sw, err)
		}
	}
}

var (
	secp256k1   = []byte{0x13, 0x2B, 0x81, 0x04, 0x00, 0x0A}
	fingerprint = []byte(strings.Repeat("\xAB", 20))
	// What gpg does to have a key: algorithm, key, fingerprint.
	gpgMakesKeys = []pcsc.Command{
		{INS: insPut, P2: 0xC1, Data: secp256k1}, {INS: insGenerate, P1: 0x80, Data: []byte{0xB6, 0}},
		{INS: insPut, P2: 0xC7, Data: fingerprint},
		{INS: insPut, P2: 0xC3, Data: secp256k1}, {INS: insGenerate, P1: 0x80, Data: []byte{0xA4, 0}}, // no fingerprint
	}
)

// TestForeignKeysAreNotTouched: Generate refuses, nothing else sees them, and only the one
// that the operator named is overwritten.
func TestForeignKeysAreNotTouched(t *testing.T) {
	for name, cfg := range map[string]cardsim.OpenPGPConfig{"YubiKey": {}, "Other": {Generic: true}} {
		t.Run(name, func(t *testing.T) {
			c := given(t, cfg)
			asGPG(t, gpgMakesKeys...)
			puts := c.Count(insPut)
			b := open(t, config())
			_, err := b.Generate(t.Context(), backends.KeyAttributes{Label: "keyward-x"})
			if !errors.Is(err, openpgp.ErrNoSlot) || !errors.Is(err, backends.ErrRefused) ||
				!strings.Contains(err.Error(), strings.Repeat("AB", 20)) {
				t.Errorf("Generate = %v, want ErrNoSlot that names the fingerprint and is an ErrRefused", err)
			}
			if list, err := b.Keys(t.Context(), ""); err != nil || len(list) != 0 {
				t.Errorf("Keys = %v, %v, want none", list, err)
			}
			if n := c.Count(insPut) - puts; n != 0 {
				t.Errorf("the card was changed by %d PUT DATA", n)
			}
			conf := config()
			conf.Overwrite = []string{strings.Repeat("ab", 20)}
			b = open(t, conf)
			k := backendtest.Generate(t, b, "keyward-x")
			backendtest.Verify(t, k, [32]byte{1})
			if !strings.Contains(k.URI(), "slot=sig") {
				t.Errorf("the key is %s, want it in the slot that was named", k.URI())
			}
			if _, err := b.Generate(t.Context(), backends.KeyAttributes{}); !errors.Is(err, openpgp.ErrNoSlot) {
				t.Errorf("Generate = %v, want ErrNoSlot", err)
			}
		})
	}
}

// TestReplacedKey: gpg generates or imports a key over ours. It is not taken for ours, nor touched.
func TestReplacedKey(t *testing.T) {
	header := append([]byte{0x4D, 42, 0xB6, 0, 0x7F, 0x48, 2, 0x92, 32, 0x5F, 0x48, 32},
		[]byte(strings.Repeat("\x01", 32))...)
	for name, cmd := range map[string]pcsc.Command{
		"generated": {INS: insGenerate, P1: 0x80, Data: []byte{0xB6, 0}},
		"imported":  {INS: 0xDB, P1: 0x3F, P2: 0xFF, Data: header},
	} {
		t.Run(name, func(t *testing.T) {
			b, k := signer(t, given(t, cardsim.OpenPGPConfig{}), "sig")
			asGPG(t, cmd)
			if _, err := k.SignDigest(t.Context(), [32]byte{1}); !errors.Is(err, backends.ErrKeyNotFound) {
				t.Errorf("SignDigest = %v, want ErrKeyNotFound", err)
			}
			if err := b.Destroy(t.Context(), k.URI()); !errors.Is(err, backends.ErrKeyNotFound) {
				t.Errorf("Destroy = %v, want ErrKeyNotFound", err)
			}
			if _, err := b.Generate(t.Context(), backends.KeyAttributes{}); !errors.Is(err, openpgp.ErrNoSlot) {
				t.Errorf("Generate = %v, want ErrNoSlot", err)
			}
		})
	}
}

// TestImportedKeyIsNotResident: a key that was outside of the card is not ours, not even under our mark.
func TestImportedKeyIsNotResident(t *testing.T) {
	scalar := []byte(strings.Repeat("\x01", 32))
	private, err := crypto.ToECDSA(scalar)
	if err != nil {
		t.Fatal(err)
	}
	given(t, cardsim.OpenPGPConfig{})
	asGPG(t, pcsc.Command{INS: insPut, P2: 0xC1, Data: secp256k1},
		pcsc.Command{INS: 0xDB, P1: 0x3F, P2: 0xFF, Data: append([]byte{0x4D, 42, 0xB6, 0, 0x7F, 0x48, 2, 0x92, 32, 0x5F,
			0x48, 32}, scalar...)},
		pcsc.Command{INS: insPut, P2: 0xC7, Data: crypto.PubkeyToAddress(private.PublicKey).Bytes()})
	b := open(t, config())
	if list, err := b.Keys(t.Context(), ""); err != nil || len(list) != 0 {
		t.Errorf("Keys = %v, %v, want none", list, err)
	}
}

// TestForeignRecord: what somebody else keeps where labels go is not overwritten.
func TestForeignRecord(t *testing.T) {
	c := given(t, cardsim.OpenPGPConfig{})
	asGPG(t, pcsc.Command{INS: insPut, P1: 1, P2: 2, Data: []byte("my note")})
	puts := c.Count(insPut)
	b := open(t, config())
	if _, err := b.Generate(t.Context(), backends.KeyAttributes{Label: "keyward-x"}); err == nil ||
		!strings.Contains(err.Error(), "0102") {
		t.Errorf("Generate = %v, want an error that names the data object", err)
	}
	if n := c.Count(insPut) - puts; n != 0 {
		t.Errorf("the card was changed by %d PUT DATA", n)
	}
}

// TestInterruptedGenerate: pulled at each of its steps, it leaves no key of ours, and a slot that can be
// used again.
func TestInterruptedGenerate(t *testing.T) {
	steps := []cardsim.Fault{
		{INS: insPut, Skip: 0}, {INS: insPut, Skip: 1}, {INS: insGenerate, Skip: 0}, {INS: insPut, Skip: 2},
		{INS: insPut, Skip: 3}, {INS: insPut, Skip: 4},
	}
	for i, fault := range steps {
		c := given(t, cardsim.OpenPGPConfig{})
		cfg := config()
		cfg.Slots = []string{"sig"}
		b := open(t, cfg)
		fault.Do = cardsim.UnplugBefore
		c.Fail(fault)
		_, err := b.Generate(t.Context(), backends.KeyAttributes{Label: "keyward-x"})
		wantUnavailable(t, "Generate", err, "")
		c.Heal()
		pcscd.AwaitEmpty(t, 0)
		pcscd.Insert(t, 0, c.Card)
		if list, err := b.Keys(t.Context(), ""); err != nil || len(list) != 0 {
			t.Errorf("step %d: Keys = %v, %v, want none", i, list, err)
		}
		backendtest.Verify(t, backendtest.Generate(t, b, "keyward-y"), [32]byte{1})
		isFree(t, 0)
	}
}

// TestAbandonedGenerate: nobody waits any more, at each step from the first change to the closing of
// the card, which comes after the key is complete. No key of ours is left.
func TestAbandonedGenerate(t *testing.T) {
	steps := []cardsim.Fault{
		{INS: insPut, Skip: 0}, {INS: insGenerate, Skip: 0}, {INS: insPut, Skip: 2}, {INS: insPut, Skip: 3},
		{INS: insPut, Skip: 4},
		{INS: insVerify, Skip: 1}, // VERIFY with P1 FF, before closing
	}
	for i, fault := range steps {
		c := given(t, cardsim.OpenPGPConfig{})
		b := open(t, config())
		fault.Do = cardsim.Hang
		before := c.Count(fault.INS)
		c.Fail(fault)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() {
			_, err := b.Generate(ctx, backends.KeyAttributes{Label: "keyward-x"})
			done <- err
		}()
		for c.Count(fault.INS) != before+fault.Skip+1 {
			time.Sleep(time.Millisecond)
		}
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("step %d: Generate = %v, want Canceled", i, err)
		}
		c.Heal()
		if list, err := b.Keys(t.Context(), ""); err != nil || len(list) != 0 { // waits for its turn
			t.Errorf("step %d: Keys = %v, %v, want none", i, list, err)
		}
		backendtest.Verify(t, backendtest.Generate(t, b, "keyward-y"), [32]byte{1})
		backendtest.Verify(t, backendtest.Generate(t, b, "keyward-z"), [32]byte{1})
	}
}
