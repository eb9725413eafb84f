package sealed

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ethereum/go-ethereum/common"
	"github.com/google/go-cmp/cmp"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/backends/backendtest"
	"github.com/keyward/keyward/internal/secret"
)

func open(t testing.TB, cfg Config) *Backend {
	t.Helper()
	cfg.Name = "sealed test"
	if cfg.Dir == "" {
		cfg.Dir = filepath.Join(t.TempDir(), "keys")
	}
	b, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Errorf("closing: %v", err)
		}
	})
	return b
}

func TestBackend(t *testing.T) {
	for name, cacheFor := range map[string]time.Duration{"uncached": 0, "cached": time.Hour} {
		t.Run(name, func(t *testing.T) {
			backendtest.Run(t, backendtest.Options{}, func(t *testing.T) backends.Backend {
				return open(t, Config{Wrapper: newDevice(t, "d"), CacheFor: cacheFor})
			})
		})
	}
}

func TestProtectionIsSealed(t *testing.T) {
	b := open(t, Config{Wrapper: newDevice(t, "d")})
	if p := backendtest.Generate(t, b, "keyward-x").Protection(); p != backends.Sealed {
		t.Errorf("Protection() = %q, want %q", p, backends.Sealed)
	}
}

// No two bindings may have one encoding, wherever the fields are cut.
func TestBindingBytes(t *testing.T) {
	seen := map[string]Binding{}
	for _, label := range []string{"", "a", "ab", "a\x00\x00\x00\x01b"} {
		for _, account := range []string{"", "b", "ab"} {
			for _, chain := range []uint64{0, 1, 1 << 56} {
				for _, signer := range []common.Address{{}, {19: 1}} {
					bind := Binding{Label: label, Signer: signer, Account: account, ChainID: chain}
					if other, taken := seen[string(bind.Bytes())]; taken {
						t.Errorf("%+v and %+v have the same bytes", bind, other)
					}
					seen[string(bind.Bytes())] = bind
				}
			}
		}
	}
}

// Keys outlive the Backend, and are found without the device.
func TestReopen(t *testing.T) {
	dir, d := t.TempDir(), newDevice(t, "d")
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	b := open(t, Config{Dir: dir, Wrapper: d})
	uri := backendtest.Generate(t, b, "keyward-x").URI()
	if err := b.Close(); err != nil || d.closed != 1 {
		t.Fatalf("Close: %v, and the device was closed %d times", err, d.closed)
	}
	before := d.count()
	b = open(t, Config{Dir: dir, Wrapper: d})
	k, err := b.Key(t.Context(), uri)
	if err != nil {
		t.Fatal(err)
	}
	if n := d.count() - before; n != 0 {
		t.Errorf("finding a key asked the device %d times", n)
	}
	backendtest.Verify(t, k, [32]byte{1})
}

// What the device can't open must not become a key.
func TestGenerateOpensAgain(t *testing.T) {
	d := newDevice(t, "d")
	d.onUnwrap = func() error { return backends.ErrLocked }
	b := open(t, Config{Wrapper: d})
	if _, err := b.Generate(t.Context(), backends.KeyAttributes{Label: "keyward-x"}); !errors.Is(err, backends.ErrLocked) {
		t.Errorf("Generate = %v, want ErrLocked", err)
	}
	if names := ls(t, b); len(names) != 0 {
		t.Errorf("the directory has %v", names)
	}
}

// A directory that can't be written to: no key, and nothing left.
func TestGenerateWithoutDirectory(t *testing.T) {
	b := open(t, Config{Wrapper: newDevice(t, "d")})
	if err := os.RemoveAll(b.cfg.Dir); err != nil {
		t.Fatal(err)
	}
	_, err := b.Generate(t.Context(), backends.KeyAttributes{Label: "keyward-x"})
	if err == nil || errors.Is(err, backends.ErrKeyNotFound) {
		t.Errorf("Generate = %v, want an error that is not ErrKeyNotFound", err)
	}
}

func TestOpenRefuses(t *testing.T) {
	d := newDevice(t, "d")
	shared := filepath.Join(t.TempDir(), "shared")
	if err := os.Mkdir(shared, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(shared, 0o770); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(Config{Dir: shared, Wrapper: d}); err == nil || !strings.Contains(err.Error(), "chmod 700") {
		t.Errorf("Open of a directory that others write to = %v", err)
	}
	if _, err := Open(Config{Dir: t.TempDir(), Wrapper: d, CacheFor: -1}); err == nil {
		t.Error("Open with a negative cache time succeeded")
	}
}

// Destroy overwrites: who has the file open, or a hard link to it, has zeros.
func TestDestroyOverwrites(t *testing.T) {
	b := open(t, Config{Wrapper: newDevice(t, "d")})
	k := backendtest.Generate(t, b, "keyward-x")
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Link(b.path(k.(*key).signer), link); err != nil {
		t.Fatal(err)
	}
	if err := b.Destroy(t.Context(), k.URI()); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(link)
	if err != nil || len(data) < 100 || len(bytes.Trim(data, "\x00")) != 0 {
		t.Errorf("after Destroy the file has %q, %v", data, err)
	}
	if names := ls(t, b); len(names) != 0 {
		t.Errorf("the directory has %v", names)
	}
}

// A damaged key can be destroyed, and hides no other.
func TestDamagedKeyIsDestroyed(t *testing.T) {
	b := open(t, Config{Wrapper: newDevice(t, "d")})
	k, whole := backendtest.Generate(t, b, "keyward-x"), backendtest.Generate(t, b, "keyward-y")
	if err := os.WriteFile(b.path(k.(*key).signer), []byte("garbage"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Key(t.Context(), k.URI()); !errors.Is(err, ErrDamaged) {
		t.Errorf("Key = %v, want ErrDamaged", err)
	}
	list, err := b.Keys(t.Context(), "")
	if err != nil || len(list) != 1 || list[0].Key.URI() != whole.URI() {
		t.Errorf("Keys = %v, %v, want the whole one", list, err)
	}
	if err := b.Destroy(t.Context(), k.URI()); err != nil {
		t.Errorf("Destroy of a damaged key: %v", err)
	}
}

// What a crash leaves between writing and renaming a file, and between overwriting
// and removing it, is gone when the directory is opened again.
func TestOpenSweeps(t *testing.T) {
	d := newDevice(t, "d")
	b := open(t, Config{Wrapper: d})
	k, destroyed := backendtest.Generate(t, b, "keyward-x"), backendtest.Generate(t, b, "keyward-y")
	path := b.path(k.(*key).signer)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	unrenamed := filepath.Join(b.cfg.Dir, "."+filepath.Base(path)+".12345") // durable.WriteFile's
	for name, content := range map[string][]byte{
		unrenamed:                       data[:200],
		unrenamed + "6":                 nil,
		b.path(destroyed.(*key).signer): make([]byte, len(data)),
	} {
		if err := os.WriteFile(name, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if list, err := b.Keys(t.Context(), ""); err != nil || len(list) != 1 {
		t.Errorf("Keys = %v, %v, want one", list, err)
	}
	again := open(t, Config{Dir: b.cfg.Dir, Wrapper: newDevice(t, "d")})
	if d := cmp.Diff([]string{filepath.Base(path)}, ls(t, again)); d != "" {
		t.Errorf("files after opening again (-want +got):\n%s", d)
	}
	if _, err := again.Key(t.Context(), destroyed.URI()); !errors.Is(err, backends.ErrKeyNotFound) {
		t.Errorf("Key of what was being destroyed = %v, want ErrKeyNotFound", err)
	}
	backendtest.Verify(t, k, [32]byte{1})
}

func TestURI(t *testing.T) {
	b := open(t, Config{Wrapper: newDevice(t, "d")})
	uri := backendtest.Generate(t, b, "keyward-x").URI()
	hex, _ := strings.CutPrefix(uri, "sealed:signer=0x")
	for _, bad := range []string{
		"sealed:", "sealed:signer=", "sealed:signer=0x", "sealed:signer=" + hex, "sealed:signer=0x" + hex[1:], uri + "0",
		uri + ";x=y",
		"sealed:signer=0x" + strings.ToUpper(hex), "sealed:signer=0x../" + hex[3:], "SEALED:signer=0x" + hex, " " + uri,
	} {
		if strings.ToUpper(hex) == hex {
			t.Fatal("an address without letters") // once in 10^8
		}
		if _, err := b.Key(t.Context(), bad); err == nil || errors.Is(err, backends.ErrKeyNotFound) {
			t.Errorf("Key(%q) = %v, want an error about its form", bad, err)
		}
	}
}

func TestCache(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "keys")
	d := newDevice(t, "d")
	synctest.Test(t, func(t *testing.T) {
		b, err := Open(Config{Name: "test", Dir: dir, Wrapper: d, CacheFor: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		k := backendtest.Generate(t, b, "keyward-x")
		sign := func(wantUnwraps int, when string) {
			t.Helper()
			before := d.count()
			backendtest.Verify(t, k, [32]byte{1})
			if n := d.count() - before; n != wantUnwraps {
				t.Errorf("%s: the device opened the key %d times, want %d", when, n, wantUnwraps)
			}
		}
		sign(1, "first signature")
		time.Sleep(59 * time.Second)
		sign(0, "before the time is up")
		scalar := openKey(b, k)
		time.Sleep(time.Second) // use does not prolong it
		synctest.Wait()
		if scalar.Len() != 0 {
			t.Error("the key is still in memory when its time is up")
		}
		sign(1, "after the time is up")
		scalar = openKey(b, k)
		b.Forget()
		if scalar.Len() != 0 {
			t.Error("the key is still in memory after Forget")
		}
		sign(1, "after Forget")
		scalar = openKey(b, k)
		if err := b.Destroy(t.Context(), k.URI()); err != nil || scalar.Len() != 0 {
			t.Errorf("Destroy = %v, and the key in memory has %d bytes", err, scalar.Len())
		}
		k = backendtest.Generate(t, b, "keyward-x")
		sign(1, "another key")
		scalar = openKey(b, k)
		if err := b.Close(); err != nil || scalar.Len() != 0 {
			t.Errorf("Close = %v, and the key in memory has %d bytes", err, scalar.Len())
		}
	})
}

// Destroy while a signature waits for the device: the key must not be kept open after that.
func TestDestroyDuringSign(t *testing.T) {
	d := newDevice(t, "d")
	b := open(t, Config{Wrapper: d, CacheFor: time.Hour})
	k := backendtest.Generate(t, b, "keyward-x")
	d.onUnwrap = func() error { return b.Destroy(t.Context(), k.URI()) }
	backendtest.Verify(t, k, [32]byte{1}) // it was begun before Destroy
	if n := len(b.cache); n != 0 {
		t.Errorf("%d keys are kept open", n)
	}
	if _, err := k.SignDigest(t.Context(), [32]byte{1}); !errors.Is(err, backends.ErrKeyNotFound) {
		t.Errorf("SignDigest after Destroy: %v, want ErrKeyNotFound", err)
	}
}

func TestCacheIsBounded(t *testing.T) {
	b := open(t, Config{Wrapper: newDevice(t, "d"), CacheFor: time.Hour})
	for i := range maxOpened + 5 {
		backendtest.Verify(t, backendtest.Generate(t, b, fmt.Sprint("keyward-", i)), [32]byte{1})
	}
	if n := len(b.cache); n != maxOpened {
		t.Errorf("%d keys are kept open, want %d", n, maxOpened)
	}
}

// openKey is k's key as it is kept open.
func openKey(b *Backend, k backends.Key) *secret.Buffer {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.cache[k.(*key).signer].scalar
}

// ls are the names in b's directory.
func ls(t *testing.T, b *Backend) []string {
	t.Helper()
	entries, err := os.ReadDir(b.cfg.Dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}
