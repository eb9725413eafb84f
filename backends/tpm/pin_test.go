package tpm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/backends/backendtest"
	"github.com/keyward/keyward/internal/secret"
	"github.com/keyward/keyward/internal/swtpm"
)

// restarts opens a backend as an agent that starts again does: with a Keeper of its own, and the marks of the last one.
type restarts struct {
	*testing.T
	emulator *swtpm.TPM
	key      Key
	dir      string
	pin      string // that is configured
}

func (r *restarts) open() *Backend {
	r.Helper()
	source := func(context.Context) (*secret.Buffer, error) { return secret.Take([]byte(r.pin)) }
	keeper := Explained(secret.NewKeeper(source, secret.UntilLock)).MarkIn(filepath.Join(r.dir, "pins"))
	return openTest(r, r.emulator, Config{Key: r.key, PINs: keeper, Dir: filepath.Join(r.dir, "keys")})
}

// wantFailed: so many tries have failed, as the TPM counts them.
func (r *restarts) wantFailed(when string, want int) {
	r.Helper()
	if l := failedTries(r, r.emulator); l.Failed != want {
		r.Errorf("%s: %d of %d tries failed, want %d", when, l.Failed, l.Max, want)
	}
}

func newRestarts(t *testing.T) *restarts {
	emulator := swtpm.Start(t)
	r := &restarts{T: t, emulator: emulator, key: newKey(t, emulator, "123456"), dir: t.TempDir(), pin: "123456"}
	if l := failedTries(t, emulator); l.Max != 3 {
		t.Fatalf("a fresh emulator allows %d tries, want 3", l.Max)
	}
	return r
}

// What an editor leaves in the PIN's file costs no try.
func TestOddPINFiles(t *testing.T) {
	r := newRestarts(t)
	uri := backendtest.Generate(t, r.open(), "keyward-x").URI()
	for _, odd := range []string{"\xef\xbb\xbf%s\n", "%s\r\n", "%s \n", " %s\n", "%s\n\n"} {
		file := filepath.Join(t.TempDir(), "pin")
		if err := os.WriteFile(file, fmt.Appendf(nil, odd, r.pin), 0o600); err != nil {
			t.Fatal(err)
		}
		keeper := Explained(secret.NewKeeper(secret.FromFile(file), secret.UntilLock)).MarkIn(filepath.Join(r.dir, "pins"))
		b := openTest(t, r.emulator, Config{Key: r.key, PINs: keeper, Dir: filepath.Join(r.dir, "keys")})
		k, err := b.Key(t.Context(), uri)
		if err != nil {
			t.Fatal(err)
		}
		if _, err = k.SignDigest(t.Context(), [32]byte{1}); err == nil || !strings.Contains(err.Error(), file) ||
			strings.Contains(err.Error(), r.pin) {
			t.Errorf("%q: %v, want an error that names the file", odd, err)
		}
	}
	r.wantFailed("with what is no PIN", 0)
}

// A wrong PIN is one try, however often a signature is asked for and the agent is started again.
func TestWrongPIN(t *testing.T) {
	r := newRestarts(t)
	k := backendtest.Generate(t, r.open(), "keyward-x")
	r.wantFailed("with the right PIN", 0)
	r.pin = "654321"
	for start := range 4 {
		b := r.open()
		found, err := b.Key(t.Context(), k.URI())
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			err := sign(found, time.Minute)
			if first := errors.Is(err, backends.ErrPINIncorrect); first != (start == 0) || !first &&
				!errors.Is(err, backends.ErrLocked) {
				t.Errorf("start %d: %v, want ErrPINIncorrect at the first start, then ErrLocked", start, err)
			}
			if st := b.Status(t.Context()); st.State != "locked" && start == 0 {
				t.Errorf("start %d: status %+v, want locked", start, st)
			}
		}
		r.wantFailed("with a wrong PIN", 1)
	}
	b := r.open()
	if err := b.Unlock(t.Context(), []byte("123456")); err != nil {
		t.Fatalf("Unlock with the right PIN: %v", err)
	}
	found, err := b.Key(t.Context(), k.URI())
	if err != nil {
		t.Fatal(err)
	}
	backendtest.Verify(t, found, [32]byte{1})
	if err := b.Lock(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := sign(found, time.Minute); !errors.Is(err, backends.ErrLocked) {
		t.Errorf("after Lock: %v, want ErrLocked", err)
	}
	r.wantFailed("after Unlock", 1)
	r.pin = "123456"
	backendtest.Generate(t, r.open(), "keyward-y") // the mark is gone
}

// The last try is not spent, by nobody; a TPM that is locked is not asked; and when the count is reset, all is well.
func TestLockout(t *testing.T) {
	r := newRestarts(t)
	b := r.open()
	k := backendtest.Generate(t, b, "keyward-x")
	fresh := r.open() // has not shown its PIN
	found, err := fresh.Key(t.Context(), k.URI())
	if err != nil {
		t.Fatal(err)
	}
	other := newKey(t, r.emulator, "another's") // another program's object, whose wrong passwords the TPM counts too
	wrong := func() {
		direct(t, r.emulator, func(c *conn) {
			s, err := findStorage(c, other)
			if err != nil {
				t.Fatal(err)
			}
			_, err = tpm2.Create{ParentHandle: s.authorized(authValue("PIN", []byte("wrong"))),
				InPublic: tpm2.New2B(template(true))}.Execute(c)
			if !errors.Is(err, tpm2.TPMRCAuthFail) {
				t.Fatalf("a wrong password: %v", err)
			}
		})
	}
	wrong()
	backendtest.Verify(t, k, [32]byte{1}) // its PIN is known to be right
	backendtest.Verify(t, found, [32]byte{1})
	fresh = r.open()
	if found, err = fresh.Key(t.Context(), k.URI()); err != nil {
		t.Fatal(err)
	}
	wrong()
	for range 3 {
		if err := sign(found, time.Minute); !errors.Is(err, backends.ErrPINFinalTry) ||
			!strings.Contains(err.Error(), "tpm status") {
			t.Errorf("with one try left: %v, want ErrPINFinalTry", err)
		}
	}
	if err := fresh.Unlock(t.Context(), []byte("000000")); !errors.Is(err, backends.ErrPINFinalTry) {
		t.Errorf("Unlock with one try left: %v, want ErrPINFinalTry", err)
	}
	r.wantFailed("with one try left", 2)
	if st := fresh.Status(t.Context()); st.State != "locked" {
		t.Errorf("with one try left: status %+v", st)
	}
	wrong()
	if err := sign(found, time.Minute); !errors.Is(err, backends.ErrLocked) {
		t.Errorf("in lockout: %v, want ErrLocked", err)
	}
	if st := fresh.Status(t.Context()); st.State != "locked" {
		t.Errorf("in lockout: status %+v", st)
	}
	direct(t, r.emulator, func(c *conn) {
		if err := resetLockout(c); err != nil {
			t.Fatal(err)
		}
	})
	backendtest.Verify(t, found, [32]byte{2})
	backendtest.Verify(t, k, [32]byte{2})
}

// resetLockout is TPM2_DictionaryAttackLockReset, which go-tpm does not have, with an empty lockout password.
func resetLockout(c *conn) error {
	_, err := c.Send([]byte{
		0x80, 0x02, 0, 0, 0, 27, 0, 0, 0x01, 0x39, 0x40, 0, 0, 0x0a, // TPM_ST_SESSIONS, size, command, TPM_RH_LOCKOUT
		0, 0, 0, 9, 0x40, 0, 0, 0x09, 0, 0, 0, 0, 0, // TPM_RS_PW
	})
	return err
}

// A source of a PIN that the key does not have, and the other way round, is refused before any try.
func TestNeededPIN(t *testing.T) {
	emulator := swtpm.Start(t)
	with, without := newKey(t, emulator, "123456"), newKey(t, emulator, "")
	for name, cfg := range map[string]Config{
		"no source": {Key: with},
		"needless":  {Key: without, PINs: pins(t, "123456")},
	} {
		b := openTest(t, emulator, cfg)
		if _, err := b.Generate(t.Context(), backends.KeyAttributes{Label: "keyward-x"}); !errors.Is(err,
			backends.ErrRefused) || !strings.Contains(err.Error(), "section") {
			t.Errorf("%s: %v, want ErrRefused", name, err)
		}
	}
	if _, err := (Setup{Device: emulator.Socket, PIN: buffer(t, "123")}).Create(t.Context()); !errors.Is(err,
		backends.ErrRefused) {
		t.Errorf("a PIN of 3 bytes: %v, want ErrRefused", err)
	}
	if l := failedTries(t, emulator); l.Failed != 0 {
		t.Errorf("%d tries failed, want none", l.Failed)
	}
}
