package chaintest

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/ethereum/go-ethereum/accounts/abi"
	"golang.org/x/sys/unix"
)

// A contract is what the compiler makes of one.
type contract struct {
	ABI  abi.ABI `json:"abi"`
	Code string  `json:"code"` // 0x-hex of what stands at its address
}

// sourceDir finds this package's directory from any other's.
func sourceDir(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return filepath.Join(dir, "chain", "chaintest")
		}
		if dir == filepath.Dir(dir) {
			t.Fatal("not in the module's directory")
		}
		dir = filepath.Dir(dir)
	}
}

// lock keeps the tests of other packages, which run at the same time, out of dir until unlock.
func lock(t testing.TB, dir string) (unlock func()) {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(dir, ".lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	for {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		t.Fatalf("locking %s: %v", f.Name(), err)
	}
	return func() { _ = f.Close() } // which unlocks
}

// install makes node_modules be what package-lock.json says, and returns the directory it is in.
func install(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(sourceDir(t), "node")
	defer lock(t, dir)()
	want, err := os.ReadFile(filepath.Join(dir, "package-lock.json"))
	if err != nil {
		t.Fatal(err)
	}
	// npm ci removes node_modules first, so that the stamp is there only when it got to its end.
	stamp := filepath.Join(dir, "node_modules", ".installed")
	if have, err := os.ReadFile(stamp); err == nil && bytes.Equal(have, want) {
		return dir
	}
	cmd := exec.Command("npm", "ci", "--no-audit", "--no-fund", "--loglevel=error")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("npm ci in %s, for the test node: %v\n%s", dir, err, out)
	}
	if err := os.WriteFile(stamp, want, 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

// compiled returns the contracts, by name. They are compiled again when they or the
// compiler's version changed.
func compiled(t testing.TB, dir string) map[string]contract {
	t.Helper()
	defer lock(t, dir)()
	cache := filepath.Join(dir, "node_modules", ".contracts-"+sourceHash(t, dir)+".json")
	data, err := os.ReadFile(cache)
	if errors.Is(err, fs.ErrNotExist) {
		data = compile(t, dir)
		err = os.WriteFile(cache, data, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	var contracts map[string]contract
	if err := json.Unmarshal(data, &contracts); err != nil {
		t.Fatalf("%s: %v", cache, err)
	}
	return contracts
}

func compile(t testing.TB, dir string) []byte {
	t.Helper()
	cmd := exec.Command("node", "compile.mjs")
	cmd.Dir = dir
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("compiling the test contracts: %v\n%s", err, stderr.Bytes())
	}
	return out
}

// sourceHash is of all that the compiled contracts are made of.
func sourceHash(t testing.TB, dir string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "..", "contracts", "*.sol"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no contracts: %v", err)
	}
	files = append(files, filepath.Join(dir, "compile.mjs"), filepath.Join(dir, "package-lock.json"))
	slices.Sort(files)
	h := sha256.New()
	for _, name := range files {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(data)
		h.Write(sum[:])
	}
	return hex.EncodeToString(h.Sum(nil)[:8])
}
