// Package swtpm runs TPM emulators for tests, each with a state of its own: swtpm, from Debian's package of that name.
package swtpm

import (
	"bytes"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// TPM is an emulator that runs, or does not, and whose state stays.
type TPM struct {
	Socket string // what a program connects to; one at a time
	state  string
	cmd    *exec.Cmd
	stderr bytes.Buffer
}

// Start starts an emulator with a fresh TPM, which ends with the test.
func Start(t testing.TB) *TPM {
	t.Helper()
	dir, err := os.MkdirTemp("", "swtpm") // t.TempDir may be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	tpm := &TPM{Socket: filepath.Join(dir, "tpm.sock"), state: filepath.Join(dir, "state")}
	t.Cleanup(func() {
		tpm.Kill()
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	tpm.Reset(t)
	return tpm
}

// Run starts the emulator again with the state that it had. It returns when programs can connect.
func (tpm *TPM) Run(t testing.TB) {
	t.Helper()
	if tpm.cmd != nil {
		t.Fatal("swtpm runs already")
	}
	tpm.stderr.Reset()
	tpm.cmd = exec.Command("swtpm", "socket", "--tpm2", "--tpmstate", "dir="+tpm.state,
		"--server", "type=unixio,path="+tpm.Socket, "--flags", "not-need-init,startup-clear")
	tpm.cmd.Stderr = &tpm.stderr
	if err := tpm.cmd.Start(); err != nil {
		t.Fatalf("starting swtpm: %v (scripts/deps test installs it)", err)
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		conn, err := net.Dial("unix", tpm.Socket)
		if err == nil {
			conn.Close()
			return
		}
		if time.Now().After(deadline) {
			tpm.Kill()
			t.Fatalf("swtpm: %v\n%s", err, tpm.stderr.String())
		}
	}
}

// Kill ends the emulator as a power cut would.
func (tpm *TPM) Kill() {
	if tpm.cmd == nil {
		return
	}
	_ = tpm.cmd.Process.Kill()
	_ = tpm.cmd.Wait()
	tpm.cmd = nil
	_ = os.Remove(tpm.Socket)
}

// Reset is Kill, and Run with a fresh TPM.
func (tpm *TPM) Reset(t testing.TB) {
	t.Helper()
	tpm.Kill()
	if err := errors.Join(os.RemoveAll(tpm.state), os.Mkdir(tpm.state, 0o700)); err != nil {
		t.Fatal(err)
	}
	tpm.Run(t)
}

// Process is the emulator's, for signals.
func (tpm *TPM) Process() *os.Process { return tpm.cmd.Process }
