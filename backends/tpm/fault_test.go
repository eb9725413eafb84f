package tpm

import (
	"context"
	"errors"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/backends/backendtest"
	"github.com/keyward/keyward/internal/swtpm"
)

// sign is one signature with a time limit.
func sign(k backends.Key, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	_, err := k.SignDigest(ctx, [32]byte{1})
	return err
}

// A TPM that goes away and comes back is used again, with and without a PIN. A crash of the TPM counts as a failed try
// there, which does not stop a PIN that the TPM took.
func TestKilledAndBack(t *testing.T) {
	for name, pin := range map[string]string{"no PIN": "", "PIN": "123456"} {
		t.Run(name, func(t *testing.T) {
			emulator := swtpm.Start(t)
			cfg := Config{Key: newKey(t, emulator, pin)}
			if pin != "" {
				cfg.PINs = pins(t, pin)
			}
			b := openTest(t, emulator, cfg)
			k := backendtest.Generate(t, b, "keyward-x")
			emulator.Kill()
			if err := sign(k, 10*time.Second); !errors.Is(err, backends.ErrUnavailable) {
				t.Errorf("without a TPM: %v, want ErrUnavailable", err)
			}
			if st := b.Status(t.Context()); st.State != "unavailable" {
				t.Errorf("without a TPM: status %+v", st)
			}
			emulator.Run(t)
			backendtest.Verify(t, k, [32]byte{1})
			if st := b.Status(t.Context()); st.State != "ready" {
				t.Errorf("with the TPM back: status %+v", st)
			}
			if l := failedTries(t, emulator); pin != "" && l.Failed != 1 {
				t.Errorf("%d tries failed, want the one of the crash", l.Failed)
			}
		})
	}
}

// A TPM that does not answer holds up no caller, and is used again when it does.
func TestFrozen(t *testing.T) {
	emulator := swtpm.Start(t)
	b := openTest(t, emulator, Config{Key: newKey(t, emulator, "")})
	k := backendtest.Generate(t, b, "keyward-x")
	if err := emulator.Process().Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	err := sign(k, 300*time.Millisecond)
	if took := time.Since(began); !errors.Is(err, backends.ErrUnavailable) || took > 10*time.Second {
		t.Errorf("a frozen TPM: %v after %v, want ErrUnavailable", err, took)
	}
	if err := emulator.Process().Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	backendtest.Verify(t, k, [32]byte{1})
}

// A TPM that was cleared has lost the key for good: that is not tried again, and not taken for a key that was
// destroyed.
func TestCleared(t *testing.T) {
	emulator := swtpm.Start(t)
	b := openTest(t, emulator, Config{Key: newKey(t, emulator, "")})
	k := backendtest.Generate(t, b, "keyward-x")
	for name, damage := range map[string]func(){
		"cleared":      func() { clearTPM(t, emulator) },
		"another TPM":  func() { emulator.Reset(t) },
		"another key":  func() { emulator.Reset(t); newKey(t, emulator, "") },
		"cleared, PIN": func() { clearTPM(t, emulator); newKey(t, emulator, "123456") },
	} {
		damage()
		err := sign(k, time.Minute)
		if !errors.Is(err, backends.ErrRefused) || errors.Is(err, backends.ErrUnavailable) ||
			errors.Is(err, backends.ErrKeyNotFound) {
			t.Errorf("%s: %v, want ErrRefused", name, err)
		}
		if st := b.Status(t.Context()); st.State != "unavailable" || !strings.Contains(st.Detail, "lost") {
			t.Errorf("%s: status %+v, want one that says that the key is lost", name, st)
		}
		if _, err := b.Generate(t.Context(), backends.KeyAttributes{Label: "keyward-y"}); !errors.Is(err,
			backends.ErrRefused) {
			t.Errorf("%s: Generate = %v, want ErrRefused", name, err)
		}
	}
	if err := b.Destroy(t.Context(), k.URI()); err != nil {
		t.Errorf("destroying what is lost: %v", err)
	}
}

// What operations that were cut short leave in a TPM without a resource manager does not fill it for good.
func TestLeftovers(t *testing.T) {
	emulator := swtpm.Start(t)
	b := openTest(t, emulator, Config{Key: newKey(t, emulator, "")})
	k := backendtest.Generate(t, b, "keyward-x")
	used := func() (n int) {
		direct(t, emulator, func(c *conn) {
			for _, first := range []uint32{0x02000000, 0x03000000, 0x80000000} {
				handles, err := listHandles(c, first)
				if err != nil {
					t.Fatal(err)
				}
				n += len(handles)
			}
		})
		return n
	}
	if n := used(); n != 0 {
		t.Errorf("%d handles are left after operations, want none", n)
	}
	direct(t, emulator, func(c *conn) { // objects, until there is no room
		var err error
		for n := 0; err == nil && n < 100; n++ {
			_, err = tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHOwner, InPublic: tpm2.New2B(tpm2.ECCSRKTemplate)}.Execute(c)
		}
		if !errors.Is(err, errNoRoom) {
			t.Fatalf("filling the TPM: %v", err)
		}
	})
	backendtest.Verify(t, k, [32]byte{1})
	direct(t, emulator, func(c *conn) { // sessions
		var err error
		for n := 0; err == nil && n < 100; n++ {
			_, _, err = tpm2.HMACSession(c, tpm2.TPMAlgSHA256, 16)
		}
		if !errors.Is(err, errNoRoom) {
			t.Fatalf("filling the TPM: %v", err)
		}
	})
	backendtest.Verify(t, k, [32]byte{2})
	if n := used(); n != 0 {
		t.Errorf("%d handles are left, want none", n)
	}
}

// What is no TPM is said to be none.
func TestNoTPM(t *testing.T) {
	dir := t.TempDir()
	file := dir + "/file"
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]error{
		dir + "/absent": backends.ErrUnavailable, file: backends.ErrRefused, dir: backends.ErrRefused,
		"/dev/full": backends.ErrUnavailable,
	} {
		if _, err := (Setup{Device: path}).Create(t.Context()); !errors.Is(err, want) {
			t.Errorf("Create with %s = %v, want %v", path, err, want)
		}
	}
}

// A key that is bound to PCRs opens only while they have the values that they had.
func TestPCRs(t *testing.T) {
	emulator := swtpm.Start(t)
	key := newKey(t, emulator, "")
	bound := openTest(t, emulator, Config{Key: key, PCRs: 1<<0 | 1<<1 | 1<<2 | 1<<3 | 1<<4 | 1<<5 | 1<<6 | 1<<7 | 1<<9 | 1<<23})
	free := openTest(t, emulator, Config{Key: key, PCRs: 1 << 7})
	k, other := backendtest.Generate(t, bound, "keyward-x"), backendtest.Generate(t, free, "keyward-y")
	backendtest.Verify(t, k, [32]byte{1})
	pcr23 := tpm2.AuthHandle{Handle: 23, Auth: tpm2.PasswordAuth(nil)}
	direct(t, emulator, func(c *conn) {
		_, err := tpm2.PCRExtend{PCRHandle: pcr23, Digests: tpm2.TPMLDigestValues{Digests: []tpm2.TPMTHA{
			{HashAlg: tpm2.TPMAlgSHA256, Digest: make([]byte, 32)},
		}}}.Execute(c)
		if err != nil {
			t.Fatal(err)
		}
	})
	if err := sign(k, time.Minute); !errors.Is(err, backends.ErrRefused) ||
		!strings.Contains(err.Error(), "PCRs 0,1,2,3,4,5,6,7,9,23") {
		t.Errorf("with another PCR 23: %v, want ErrRefused", err)
	}
	backendtest.Verify(t, other, [32]byte{1})
	direct(t, emulator, func(c *conn) {
		if _, err := (tpm2.PCRReset{PCRHandle: pcr23}).Execute(c); err != nil {
			t.Fatal(err)
		}
	})
	backendtest.Verify(t, k, [32]byte{1})
}
