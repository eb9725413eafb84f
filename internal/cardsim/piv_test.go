package cardsim

import (
	"bytes"
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/go-piv/piv-go/v2/piv"
)

// readerName is what libpcsclite calls a reader.
func readerName(reader int) string {
	return ReaderName + " 00 0" + string(rune('0'+reader))
}

func open(t *testing.T, reader int) *piv.YubiKey {
	t.Helper()
	yk, err := piv.Open(readerName(reader))
	if err != nil {
		t.Fatal(err)
	}
	return yk
}

// newKey generates a P-256 key in 9d.
func newKey(t *testing.T, yk *piv.YubiKey, pin piv.PINPolicy, touch piv.TouchPolicy) *piv.ECDSAPrivateKey {
	t.Helper()
	policy := piv.Key{Algorithm: piv.AlgorithmEC256, PINPolicy: pin, TouchPolicy: touch}
	pub, err := yk.GenerateKey(piv.DefaultManagementKey, piv.SlotKeyManagement, policy)
	if err != nil {
		t.Fatal(err)
	}
	return privateKeyOf(t, yk, pub)
}

func privateKeyOf(t *testing.T, yk *piv.YubiKey, pub crypto.PublicKey) *piv.ECDSAPrivateKey {
	t.Helper()
	key, err := yk.PrivateKey(piv.SlotKeyManagement, pub, piv.KeyAuth{PINPolicy: piv.PINPolicyNever})
	if err != nil {
		t.Fatal(err)
	}
	return key.(*piv.ECDSAPrivateKey)
}

func sign(key *piv.ECDSAPrivateKey) error {
	digest := bytes.Repeat([]byte{7}, 32)
	sig, err := key.Sign(rand.Reader, digest, crypto.SHA256)
	if err == nil && !ecdsa.VerifyASN1(key.Public().(*ecdsa.PublicKey), digest, sig) {
		err = errors.New("the signature is wrong")
	}
	return err
}

func wantError(t *testing.T, err error, text string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), text) {
		t.Errorf("error %v, want one with %q", err, text)
	}
}

func TestTwoCards(t *testing.T) {
	p := StartPCSCD(t)
	p.Insert(t, 0, NewYubiKey(Firmware543, 111))
	p.Insert(t, 1, NewYubiKey(Firmware571, 222))
	for reader, want := range []uint32{111, 222} {
		yk := open(t, reader)
		if serial, err := yk.Serial(); err != nil || serial != want {
			t.Errorf("reader %d: serial number %d, %v; want %d", reader, serial, err, want)
		}
		if _, err := yk.FormFactor(); err != nil {
			t.Error(err)
		}
		if err := yk.Close(); err != nil {
			t.Error(err)
		}
		p.AwaitFree(t, reader)
	}
}

func TestAttestationLeadsToTheRoot(t *testing.T) {
	p := StartPCSCD(t)
	p.Insert(t, 0, NewYubiKey(Firmware571, 4711))
	yk := open(t, 0)
	defer yk.Close()
	key := newKey(t, yk, piv.PINPolicyOnce, piv.TouchPolicyCached)
	issuer, err := yk.AttestationCertificate()
	if err != nil {
		t.Fatal(err)
	}
	cert, err := yk.Attest(piv.SlotKeyManagement)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(AttestationRoot())
	verifier := piv.Verifier{Roots: roots}
	got, err := verifier.Verify(issuer, cert)
	if err != nil {
		t.Fatal(err)
	}
	want := piv.Attestation{
		Version:     piv.Version{Major: 5, Minor: 7, Patch: 1},
		Serial:      4711,
		Formfactor:  piv.FormfactorUSBAKeychain,
		PINPolicy:   piv.PINPolicyOnce,
		TouchPolicy: piv.TouchPolicyCached,
		Slot:        piv.SlotKeyManagement,
	}
	if *got != want {
		t.Errorf("attestation %+v, want %+v", *got, want)
	}
	if !cert.PublicKey.(*ecdsa.PublicKey).Equal(key.Public()) {
		t.Error("another key is attested")
	}
	if _, err := piv.Verify(issuer, cert); err == nil {
		t.Error("the attestation leads to Yubico's root")
	}
}

func TestPINPolicies(t *testing.T) {
	p := StartPCSCD(t)
	card := NewYubiKey(Firmware543, 1)
	p.Insert(t, 0, card)
	yk := open(t, 0)
	defer yk.Close()
	verify := func() {
		t.Helper()
		if err := yk.VerifyPIN(DefaultPIN); err != nil {
			t.Fatal(err)
		}
	}
	key := newKey(t, yk, piv.PINPolicyAlways, piv.TouchPolicyNever)
	wantError(t, sign(key), "6982")
	verify()
	if err := sign(key); err != nil {
		t.Error(err)
	}
	wantError(t, sign(key), "6982") // a PIN is for one use
	key = newKey(t, yk, piv.PINPolicyOnce, piv.TouchPolicyNever)
	verify()
	for range 2 {
		if err := sign(key); err != nil {
			t.Error(err)
		}
	}
	wantError(t, yk.VerifyPIN("000000"), "2 retries")
	wantError(t, sign(key), "6982") // a wrong PIN takes back the right one
	wantError(t, yk.VerifyPIN("000000"), "1 retry")
	verify() // gives back all tries
	for range 3 {
		err := yk.VerifyPIN("000000")
		if err == nil {
			t.Fatal("a wrong PIN was taken")
		}
	}
	wantError(t, yk.VerifyPIN(DefaultPIN), "6983")
	if n := len(card.PINTries()); n != 9 {
		t.Errorf("%d tries, want 9", n)
	}
	if err := yk.Unblock(DefaultPUK, "654321"); err != nil {
		t.Fatal(err)
	}
	if err := yk.VerifyPIN("654321"); err != nil {
		t.Error(err)
	}
	wantError(t, yk.SetPIN("654321", "12345"), "6a80") // too short
}

// The PIN outlives a handle, but not another applet, a reset, or a loss of power.
func TestSecurityStatus(t *testing.T) {
	p := StartPCSCD(t)
	card := NewYubiKey(Firmware543, 1)
	p.Insert(t, 0, card)
	yk := open(t, 0)
	pub := newKey(t, yk, piv.PINPolicyOnce, piv.TouchPolicyNever).Public()
	verified := func() error {
		t.Helper()
		yk := open(t, 0)
		defer yk.Close()
		return sign(privateKeyOf(t, yk, pub))
	}
	verify := func() {
		t.Helper()
		if err := yk.VerifyPIN(DefaultPIN); err != nil {
			t.Fatal(err)
		}
	}
	verify()
	yk.Close()
	if err := verified(); err != nil {
		t.Errorf("another handle, at once: %v", err)
	}
	yk = open(t, 0)
	if _, err := yk.FormFactor(); err != nil { // selects the management applet
		t.Fatal(err)
	}
	yk.Close()
	wantError(t, verified(), "6982")
	yk = open(t, 0)
	verify()
	yk.Close()
	p.Remove(0)
	p.Insert(t, 0, card)
	wantError(t, verified(), "6982")
}

func TestMoveAndDelete(t *testing.T) {
	for _, tc := range []struct {
		firmware Firmware
		want     string
	}{{Firmware543, "6d00"}, {Firmware571, "9000"}} {
		app := NewPIV(tc.firmware, 1)
		card := NewCard(app)
		want(t, card, "00a4040005a000000308", "61114f0600001000010079074f05a0000003089000")
		app.admin = true
		app.keys[0x9d] = &pivKey{private: generateKey(tc.firmware, algP256), origin: originGenerated}
		want(t, card, "00f6829d", tc.want)
		if (app.keys[0x82] != nil) != (tc.want == "9000") {
			t.Errorf("%v: after the move: %v", tc.firmware, app.keys)
		}
		if tc.want != "9000" {
			continue
		}
		want(t, card, "00f6829d", "6a88") // nothing there
		want(t, card, "00f6ff82", "9000")
		want(t, card, "00f70082", "6a88")
	}
}

// Metadata came with firmware 5.3, and a management key that is for AES with 5.4.
func TestWhatOlderFirmwareLacks(t *testing.T) {
	key := strings.Repeat("07", 16)
	for _, tc := range []struct {
		firmware      Firmware
		metadata, aes string
	}{
		{Firmware{5, 2, 7}, "6d00", "6a80"},
		{Firmware{5, 3, 0}, "010103 02020001 050101 9000", "6a80"},
		{Firmware543, "010103 02020001 050101 9000", "9000"},
	} {
		app := NewPIV(tc.firmware, 1)
		card := NewCard(app)
		want(t, card, "00a4040005a000000308", "61114f0600001000010079074f05a0000003089000")
		want(t, card, "00f7009b00", tc.metadata)
		app.admin = true
		want(t, card, "00ffffff 13 089b10"+key, tc.aes)
		want(t, card, "00ffffff 1b 039b18"+key+key[:16], "9000")
	}
}

func TestUnplugAndPlug(t *testing.T) {
	p := StartPCSCD(t)
	card := NewYubiKey(Firmware543, 1)
	for _, tc := range []struct {
		kind FaultKind
		text string // "" if the command is answered
	}{{UnplugBefore, "too short: 0"}, {UnplugDuring, "too short: 0"}, {UnplugAfter, ""}} {
		p.Insert(t, 0, card)
		yk := open(t, 0)
		key := newKey(t, yk, piv.PINPolicyNever, piv.TouchPolicyNever)
		card.Fail(Fault{INS: insAuthenticate, Do: tc.kind})
		err := sign(key)
		if tc.text == "" && err != nil {
			t.Errorf("kind %d: %v", tc.kind, err)
		} else if tc.text != "" {
			wantError(t, err, tc.text)
		}
		yk.Close() // fails: the card is gone
		p.AwaitEmpty(t, 0)
		p.AwaitFree(t, 0)
	}
	p.Insert(t, 0, card)
	if err := open(t, 0).Close(); err != nil {
		t.Error(err)
	}
}

func TestPCSCDKilled(t *testing.T) {
	p := StartPCSCD(t)
	p.Insert(t, 0, NewYubiKey(Firmware543, 1))
	yk := open(t, 0)
	p.Kill()
	if _, err := yk.Serial(); err == nil {
		t.Error("a card answers without pcscd")
	}
	yk.Close() // fails: nobody is there
	if _, err := piv.Cards(); err == nil {
		t.Error("cards without pcscd")
	}
	if err := p.Restart(); err != nil {
		t.Fatal(err)
	}
	yk = open(t, 0)
	defer yk.Close()
	if _, err := yk.Serial(); err != nil {
		t.Error(err)
	}
}

func TestHungCardIsFreedByUnplugging(t *testing.T) {
	p := StartPCSCD(t)
	card := NewYubiKey(Firmware543, 1)
	p.Insert(t, 0, card)
	yk := open(t, 0)
	card.Fail(Fault{INS: insSerial, Do: Hang})
	failed := make(chan error)
	go func() {
		_, err := yk.Serial()
		failed <- err
	}()
	for card.Count(insSerial) == 0 {
		time.Sleep(time.Millisecond)
	}
	p.Remove(0)
	wantError(t, <-failed, "too short: 0")
	yk.Close() // fails: the card is gone
	p.AwaitFree(t, 0)
}

func TestTouchPolicies(t *testing.T) {
	p := StartPCSCD(t)
	card := NewYubiKey(Firmware543, 1)
	p.Insert(t, 0, card)
	yk := open(t, 0)
	defer yk.Close()
	key := newKey(t, yk, piv.PINPolicyNever, piv.TouchPolicyCached)
	touched := make(chan bool)
	go func() { touched <- card.AwaitBlink(t.Context()) == nil && card.Touch() }()
	if err := sign(key); err != nil {
		t.Error(err)
	}
	if !<-touched {
		t.Error("the touch was not taken")
	}
	card.SetTouchTimeout(time.Millisecond)
	if err := sign(key); err != nil { // still counts
		t.Error(err)
	}
	key = newKey(t, yk, piv.PINPolicyNever, piv.TouchPolicyAlways)
	wantError(t, sign(key), "6982")
}

func TestAgree(t *testing.T) {
	p := StartPCSCD(t)
	p.Insert(t, 0, NewYubiKey(Firmware543, 1))
	yk := open(t, 0)
	defer yk.Close()
	key := newKey(t, yk, piv.PINPolicyNever, piv.TouchPolicyNever)
	mine, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	got, err := key.ECDH(mine.PublicKey())
	if err != nil {
		t.Fatal(err)
	}
	public, err := key.Public().(*ecdsa.PublicKey).ECDH()
	if err != nil {
		t.Fatal(err)
	}
	if want, err := mine.ECDH(public); err != nil || !bytes.Equal(got, want) {
		t.Errorf("the secrets differ, %v", err)
	}
}
