package isolated

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/backends/backendtest"
	"github.com/keyward/keyward/internal/secret"
	softhsmtest "github.com/keyward/keyward/softhsm-test"
)

func pin(p string) secret.Source {
	return func(context.Context) (*secret.Buffer, error) { return secret.Take([]byte(p)) }
}

// TestRefusedPINOutlivesTheChild kills the child after a refusal, and before the parent heard
// of it. Either way the PIN is not shown to the card again.
func TestRefusedPINOutlivesTheChild(t *testing.T) {
	for _, silent := range []bool{false, true} {
		dir := newCard(t)
		c := &card{dir: dir}
		if silent {
			os.WriteFile(filepath.Join(dir, "die"), nil, 0o600)
			c.set("full", 0) // so that no other rule catches it
		}
		b := open(t, Config{Type: "card", Settings: dir, PINs: secret.NewKeeper(pin("000000"), secret.UntilLock)})
		k := backendtest.Generate(t, b, "x")
		want := backends.ErrPINIncorrect
		if silent {
			want = backends.ErrUnavailable
		}
		if _, err := k.SignDigest(t.Context(), [32]byte{}); !errors.Is(err, want) {
			t.Errorf("SignDigest = %v, want %v", err, want)
		}
		for range 3 {
			if c := base(b).child; c != nil {
				unix.Kill(c.pid, unix.SIGKILL)
				<-c.exited
			}
			k, err := b.Generate(t.Context(), backends.KeyAttributes{Label: "x"}) // the old one is gone with its process
			if err != nil {
				t.Fatal(err)
			}
			if _, err := k.SignDigest(t.Context(), [32]byte{}); !errors.Is(err, backends.ErrPINIncorrect) &&
				!errors.Is(err, backends.ErrLocked) {
				t.Errorf("SignDigest after a restart = %v, want ErrPINIncorrect or ErrLocked", err)
			}
		}
		if n := c.number("shown"); n != 1 {
			t.Errorf("the card was shown %d PINs, want 1", n)
		}
		if err := b.(backends.Unlocker).Unlock(t.Context(), []byte(cardPIN)); err != nil {
			t.Errorf("Unlock = %v", err)
		}
		backendtest.Verify(t, backendtest.Generate(t, b, "y"), [32]byte{1})
		if n := c.number("left"); n != 3 {
			t.Errorf("%d tries are left, want 3", n)
		}
	}
}

// TestDeathAfterARightPIN: the counter says that it was right, so the agent goes on by itself.
func TestDeathAfterARightPIN(t *testing.T) {
	dir := newCard(t)
	os.WriteFile(filepath.Join(dir, "die"), nil, 0o600)
	b := open(t, Config{Type: "card", Settings: dir, PINs: secret.NewKeeper(pin(cardPIN), 0)})
	if _, err := backendtest.Generate(t, b, "x").SignDigest(t.Context(), [32]byte{}); !errors.Is(err,
		backends.ErrUnavailable) {
		t.Errorf("SignDigest = %v, want ErrUnavailable", err)
	}
	backendtest.Verify(t, backendtest.Generate(t, b, "y"), [32]byte{1})
}

// TestAdminPIN: one that the operator gave waits in the parent for the next key, for one alone.
func TestAdminPIN(t *testing.T) {
	dir := newCard(t)
	c := &card{dir: dir}
	b := open(t, Config{Type: "admin card", Settings: dir, PINs: secret.NewKeeper(nil, secret.UntilLock),
		AdminPINs: secret.NewAdminKeeper("yubi", nil)})
	generate := func(want error, shown int) {
		t.Helper()
		_, err := b.Generate(t.Context(), backends.KeyAttributes{Label: "x"})
		if !errors.Is(err, want) || c.number("shown") != shown {
			t.Errorf("Generate = %v, want %v; the card was shown %d PINs, want %d", err, want, c.number("shown"), shown)
		}
		if want != nil && !strings.Contains(err.Error(), "keyward unlock --backend yubi --admin-pin") {
			t.Errorf("Generate = %v, want it to say what to type", err)
		}
	}
	give := func(pin string) {
		t.Helper()
		given := []byte(pin)
		if err := b.(backends.AdminUnlocker).UnlockAdmin(t.Context(), given); err != nil || given[0] != 0 {
			t.Errorf("UnlockAdmin = %v, and the PIN is %q", err, given)
		}
	}
	generate(backends.ErrAdminPINNeeded, 0)
	give(cardPIN)
	unix.Kill(base(b).pid(), unix.SIGKILL)
	<-base(b).child.exited
	if err := b.(backends.Unlocker).Unlock(t.Context(), []byte("000000")); err != nil { // the user PIN, which is another
		t.Fatal(err)
	}
	generate(nil, 1)
	generate(backends.ErrAdminPINNeeded, 1) // it is forgotten

	give("000000")
	generate(backends.ErrPINIncorrect, 2)
	generate(backends.ErrPINIncorrect, 2) // not tried again
	give(cardPIN)
	generate(nil, 3)

	give(cardPIN)
	if err := b.(backends.Unlocker).Lock(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := b.(backends.Unlocker).Unlock(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	generate(backends.ErrAdminPINNeeded, 3)

	c.set("left", 1)
	give(cardPIN)
	generate(backends.ErrPINFinalTry, 3)
}

// TestPKCS11RefusedPINOutlivesTheChild is the same for a module, which has no counter that can be read.
func TestPKCS11RefusedPINOutlivesTheChild(t *testing.T) {
	tok := softhsmtest.NewToken(t)
	tries := 0
	keeper := secret.NewKeeper(func(ctx context.Context) (*secret.Buffer, error) {
		tries++
		return pin("wrong-PIN")(ctx)
	}, secret.UntilLock)
	b := open(t, Config{
		Type:     "pkcs11",
		Settings: pkcs11Settings{Module: tok.Module, Token: tok.Label, Env: tok.Env()},
		PINs:     keeper,
	})
	for range 3 {
		_, err := b.Generate(t.Context(), backends.KeyAttributes{Label: "x"})
		if !errors.Is(err, backends.ErrPINIncorrect) && !errors.Is(err, backends.ErrLocked) { // by the token's flags
			t.Errorf("Generate = %v, want ErrPINIncorrect or ErrLocked", err)
		}
		c := base(b).child
		unix.Kill(c.pid, unix.SIGKILL)
		<-c.exited
	}
	if tries != 1 {
		t.Errorf("the PIN was given out %d times, want 1", tries)
	}
	right, err := os.ReadFile(tok.PINFile)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.(backends.Unlocker).Unlock(t.Context(), bytes.TrimSpace(right)); err != nil {
		t.Errorf("Unlock = %v", err)
	}
	k := backendtest.Generate(t, b, "x")
	c := base(b).child
	unix.Kill(c.pid, unix.SIGKILL)
	<-c.exited
	backendtest.Verify(t, k, [32]byte{1}) // the same key, the PIN still held
	if err := b.(backends.Unlocker).Lock(t.Context()); err != nil {
		t.Errorf("Lock = %v", err)
	}
	if _, err := k.SignDigest(t.Context(), [32]byte{}); !errors.Is(err, backends.ErrLocked) {
		t.Errorf("SignDigest = %v, want ErrLocked", err)
	}
}
