package pkcs11_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/backends/backendtest"
	"github.com/keyward/keyward/backends/pkcs11"
	"github.com/keyward/keyward/internal/secret"
	softhsmtest "github.com/keyward/keyward/softhsm-test"
)

// testDir is for what all tests of the process share.
var testDir string

// TestMain fails if a test leaves a goroutine behind.
func TestMain(m *testing.M) {
	if os.Getenv("KEYWARD_TEST_DESTROY") != "" {
		if err := destroyHere(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	var err error
	if testDir, err = os.MkdirTemp("", "keyward-pkcs11-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) { os.RemoveAll(testDir); os.Exit(code) }))
}

// destroyElsewhere has another process destroy a key: this test binary, which then
// does destroyHere instead of testing.
func destroyElsewhere(t *testing.T, tok *softhsmtest.Token, uri string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), "KEYWARD_TEST_DESTROY="+uri, "KEYWARD_TEST_MODULE="+tok.Module,
		"KEYWARD_TEST_PIN="+tok.PINFile, "SOFTHSM2_CONF="+tok.Conf)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("destroying a key in another process: %v\n%s", err, out)
	}
}

func destroyHere() error {
	b, err := pkcs11.Open(context.Background(), pkcs11.Config{
		Name: "other", Module: os.Getenv("KEYWARD_TEST_MODULE"), TokenLabel: softhsmtest.Label,
		PIN: secret.FromFile(os.Getenv("KEYWARD_TEST_PIN")),
	})
	if err != nil {
		return err
	}
	if err := b.Destroy(context.Background(), os.Getenv("KEYWARD_TEST_DESTROY")); err != nil {
		return err
	}
	return b.Close()
}

// eventually repeats f until it succeeds, and fails the test if that takes longer than within.
func eventually(t *testing.T, within time.Duration, f func() error) {
	t.Helper()
	deadline := time.Now().Add(within)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("still failing after %v: %v", within, err)
		}
		<-tick.C
	}
}

// recovers waits until k signs again.
func recovers(t *testing.T, k backends.Key) {
	t.Helper()
	eventually(t, 3*time.Second, func() error {
		_, err := k.SignDigest(t.Context(), [32]byte{1})
		return err
	})
	backendtest.Verify(t, k, [32]byte{2})
}
