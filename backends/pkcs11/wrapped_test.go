package pkcs11_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ethereum/go-ethereum/crypto"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/backends/backendtest"
	"github.com/keyward/keyward/backends/pkcs11"
	"github.com/keyward/keyward/internal/secret"
	softhsmtest "github.com/keyward/keyward/softhsm-test"
)

const kekLabel = "keyward-kek"

// makeKEK makes a key-encryption key in the token, whose module is not in use.
func makeKEK(t testing.TB, tok *softhsmtest.Token, label string, movable bool) {
	t.Helper()
	kek := pkcs11.KEK{
		Module: tok.SoftHSMToken.Module, Env: tok.SoftHSMToken.Env(), Token: tok.Label, Label: label, Movable: movable,
		SOPIN: secret.FromFile(tok.SOPINFile),
	}
	if err := kek.Make(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// newWrappedToken returns a configuration of a fresh token with a key-encryption key.
func newWrappedToken(t testing.TB, movable bool) (*softhsmtest.Token, pkcs11.WrappedConfig) {
	t.Helper()
	tok := softhsmtest.NewToken(t)
	makeKEK(t, tok, kekLabel, movable)
	return tok, pkcs11.WrappedConfig{Config: tok.Config(), KEK: kekLabel, Dir: filepath.Join(t.TempDir(), "keys")}
}

func openWrapped(t testing.TB, cfg pkcs11.WrappedConfig) *pkcs11.Wrapped {
	t.Helper()
	b, err := pkcs11.OpenWrapped(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Errorf("closing the backend: %v", err)
		}
	})
	return b
}

func TestWrappedSuite(t *testing.T) {
	backendtest.Run(t, backendtest.Options{}, func(t *testing.T) backends.Backend {
		_, cfg := newWrappedToken(t, false)
		return openWrapped(t, cfg)
	})
}

// With room for two unwrapped keys, each signature of three keys in turn has another one destroyed.
func TestWrappedSuiteWithLittleRoom(t *testing.T) {
	backendtest.Run(t, backendtest.Options{}, func(t *testing.T) backends.Backend {
		_, cfg := newWrappedToken(t, true)
		cfg.Objects = 2
		return openWrapped(t, cfg)
	})
}

// Many keys on one token: it never has more of them than may be, though all sign, those in use at the same time apart.
func TestWrappedObjectsAreBounded(t *testing.T) {
	const keys, room, callers = 60, 5, 4
	tok, cfg := newWrappedToken(t, false)
	cfg.Objects = room
	b := openWrapped(t, cfg)
	var all []backends.Key
	for i := range keys {
		k := backendtest.Generate(t, b, fmt.Sprintf("keyward-%d", i))
		if k.Protection() != backends.Wrapped {
			t.Fatalf("Protection() = %q", k.Protection())
		}
		all = append(all, k)
	}
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() {
			for j := range 2 * keys {
				k := all[(i*17+j)%keys]
				if sig, err := k.SignDigest(t.Context(), [32]byte{byte(j)}); err != nil {
					t.Error(err)
				} else if _, err := backends.Recoverable(crypto.FromECDSAPub(k.Public()), [32]byte{byte(j)}, sig); err != nil {
					t.Error(err)
				}
				if n := b.Unwrapped(); n > room+callers {
					t.Errorf("%d keys are unwrapped, want %d", n, room)
				}
			}
		})
	}
	wg.Wait()
	if n := len(privateKeys(t, tok, b)); n > room {
		t.Errorf("the token has %d private keys, want %d at most", n, room)
	}
	if stored, _ := filepath.Glob(filepath.Join(cfg.Dir, "*.key")); len(stored) != keys {
		t.Errorf("%d files, want %d", len(stored), keys)
	}
}

// A token without room for another object has the least recently used ones destroyed, whatever the configuration says.
func TestWrappedWithoutRoomInTheToken(t *testing.T) {
	tok, cfg := newWrappedToken(t, false)
	ctl := softhsmtest.NewFaults(t, tok)
	cfg.Config = tok.Config()
	b := openWrapped(t, cfg)
	var all []backends.Key
	for i := range 6 {
		all = append(all, backendtest.Generate(t, b, fmt.Sprintf("keyward-%d", i)))
	}
	b.ForgetUnwrapped()
	for _, k := range all[:5] {
		backendtest.Verify(t, k, [32]byte{1})
	}
	const deviceMemory = 0x31
	ctl.On("UnwrapKey").Set(softhsmtest.Return, deviceMemory, 1)
	backendtest.Verify(t, all[5], [32]byte{1})
	if n := b.Unwrapped(); n > 4 {
		t.Errorf("%d keys are unwrapped, want about half of 5", n)
	}
	ctl.On("UnwrapKey").Set(softhsmtest.Return, deviceMemory, 1000)
	b.ForgetUnwrapped()
	if _, err := all[0].SignDigest(t.Context(), [32]byte{1}); !errors.Is(err, backends.ErrFull) ||
		!errors.Is(err, backends.ErrNotSigned) {
		t.Errorf("SignDigest without any room = %v, want ErrFull and ErrNotSigned", err)
	}
	ctl.On("UnwrapKey").Set(softhsmtest.Return, 0, 0)
	backendtest.Verify(t, all[0], [32]byte{1})
}

// Keys outlive the connection, and are unwrapped again on the next; of what fails before C_Sign nothing was signed.
func TestWrappedFaults(t *testing.T) {
	tok, cfg := newWrappedToken(t, false)
	ctl := softhsmtest.NewFaults(t, tok)
	cfg.Config = tok.Config()
	cfg.OpTimeout = 5 * time.Second
	b := openWrapped(t, cfg)
	k := backendtest.Generate(t, b, "keyward-x")
	const deviceError, deviceRemoved, wrappedKeyInvalid, sessionHandleInvalid = 0x30, 0x32, 0x110, 0xb3
	for _, tt := range []struct {
		function string
		kind     softhsmtest.FaultKind
		rv       uint64
		times    uint64
		fails    bool
		certain  bool
		is       error
	}{
		{"UnwrapKey", softhsmtest.Return, deviceError, 1, false, false, nil},
		{"UnwrapKey", softhsmtest.Lose, deviceRemoved, 1, false, false, nil},
		{"UnwrapKey", softhsmtest.Lose, deviceError, 1000, true, true, backends.ErrUnavailable},
		{"UnwrapKey", softhsmtest.Return, wrappedKeyInvalid, 1000, true, true, backends.ErrKeyDamaged},
		{"SignInit", softhsmtest.Return, sessionHandleInvalid, 1, false, false, nil},
	} {
		name := fmt.Sprintf("C_%s 0x%x, %d times", tt.function, tt.rv, tt.times)
		b.ForgetUnwrapped()
		ctl.On(tt.function).Set(tt.kind, tt.rv, tt.times)
		_, err := k.SignDigest(t.Context(), [32]byte{1})
		if (err != nil) != tt.fails || !errors.Is(err, tt.is) || tt.fails &&
			errors.Is(err, backends.ErrNotSigned) != tt.certain {
			t.Errorf("%s: %v, certain %v", name, err, errors.Is(err, backends.ErrNotSigned))
		}
		ctl.On(tt.function).Set(softhsmtest.Return, 0, 0)
		recovers(t, k)
	}
	// From C_Sign on it is in doubt, as with a resident key.
	ctl.On("Sign").Set(softhsmtest.Lose, deviceError, 1000)
	if _, err := k.SignDigest(t.Context(), [32]byte{1}); err == nil || errors.Is(err, backends.ErrNotSigned) {
		t.Errorf("an answer of C_Sign that is lost: %v, want an error in doubt", err)
	}
	ctl.On("Sign").Set(softhsmtest.Return, 0, 0)
	recovers(t, k)
}

// A file that was altered, or of which two parts were exchanged, gives no signature and no key.
func TestWrappedFileThatWasAltered(t *testing.T) {
	_, cfg := newWrappedToken(t, false)
	b := openWrapped(t, cfg)
	k, other := backendtest.Generate(t, b, "keyward-x"), backendtest.Generate(t, b, "keyward-y")
	path := func(k backends.Key) string {
		return filepath.Join(cfg.Dir, strings.TrimPrefix(k.URI(), "wrapped:signer=")+".key")
	}
	read := func(k backends.Key) []byte {
		data, err := os.ReadFile(path(k))
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	good, foreign := read(k), read(other)
	line := func(data []byte, n int) []byte { return bytes.Split(data, []byte("\n"))[n] }
	for name, altered := range map[string][]byte{
		"empty":          {},
		"another's":      foreign,
		"another's blob": bytes.Replace(good, line(good, 8), line(foreign, 8), 1),
		"cut":            good[:len(good)-20],
		"mechanism":      bytes.Replace(good, []byte("aes-key-wrap-pad"), []byte("none"), 1),
		"a flipped bit":  bytes.Replace(good, line(good, 8), flipped(line(good, 8)), 1),
		"upper case":     bytes.Replace(good, line(good, 6), bytes.ToUpper(line(good, 6)), 1),
	} {
		if err := os.WriteFile(path(k), altered, 0o600); err != nil {
			t.Fatal(err)
		}
		b.ForgetUnwrapped()
		if _, err := k.SignDigest(t.Context(), [32]byte{1}); !errors.Is(err, backends.ErrKeyDamaged) ||
			!errors.Is(err, backends.ErrNotSigned) {
			t.Errorf("%s: SignDigest = %v, want ErrKeyDamaged and ErrNotSigned", name, err)
		}
	}
	if err := os.WriteFile(path(k), bytes.Replace(good, line(good, 6), []byte("kek 00"), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := k.SignDigest(t.Context(), [32]byte{1}); !errors.Is(err, backends.ErrRefused) {
		t.Errorf("a key-encryption key that is not there: %v, want ErrRefused", err)
	}
	if err := os.WriteFile(path(k), good, 0o600); err != nil {
		t.Fatal(err)
	}
	backendtest.Verify(t, k, [32]byte{1})
}

// flipped has another bit in the first byte of a base64 value.
func flipped(line []byte) []byte {
	out := bytes.Clone(line)
	i := len("wrapped ")
	if out[i]++; out[i] == 'Z'+1 || out[i] == 'z'+1 || out[i] == '9'+1 || out[i] == '/'+1 {
		out[i] = 'A'
	}
	return out
}

// A new key-encryption key takes keys over from a movable one, inside the token, and not from another.
func TestWrappedRewrap(t *testing.T) {
	for _, movable := range []bool{true, false} {
		t.Run(fmt.Sprintf("movable %v", movable), func(t *testing.T) {
			tok, cfg := newWrappedToken(t, movable)
			makeKEK(t, tok, "keyward-kek-2", false)
			b, err := pkcs11.OpenWrapped(t.Context(), cfg)
			if err != nil {
				t.Fatal(err)
			}
			k := backendtest.Generate(t, b, "keyward-x")
			if done, err := b.Rewrap(t.Context(), k.URI()); done || err != nil {
				t.Errorf("Rewrap with the same key = %v, %v", done, err)
			}
			if err := b.Close(); err != nil {
				t.Fatal(err)
			}
			cfg.KEK = "keyward-kek-2"
			b = openWrapped(t, cfg)
			found, err := b.Key(t.Context(), k.URI())
			if err != nil {
				t.Fatal(err)
			}
			backendtest.Verify(t, found, [32]byte{1}) // the old one still unwraps it
			done, err := b.Rewrap(t.Context(), k.URI())
			if done != movable || !movable && (!errors.Is(err, backends.ErrRefused) ||
				!strings.Contains(err.Error(), "CKA_EXTRACTABLE")) {
				t.Errorf("Rewrap = %v, %v, want %v", done, err, movable)
			}
			if movable {
				destroyKEK(t, tok, b, kekLabel)
			} else { // without it, its keys are refused
				destroyKEK(t, tok, b, kekLabel)
				b.ForgetUnwrapped()
				if _, err := found.SignDigest(t.Context(), [32]byte{1}); !errors.Is(err, backends.ErrRefused) {
					t.Errorf("SignDigest without the key-encryption key = %v, want ErrRefused", err)
				}
				return
			}
			b.ForgetUnwrapped()
			backendtest.Verify(t, found, [32]byte{2})
			if n := len(privateKeys(t, tok, b)); n != 1 {
				t.Errorf("%d private keys are in the token, want the one in use", n)
			}
			if done, err := b.Rewrap(t.Context(), k.URI()); done || movable && err != nil {
				t.Errorf("Rewrap again = %v, %v", done, err)
			}
		})
	}
}
