package tpm

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"golang.org/x/sys/unix"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/backends/backendtest"
	"github.com/keyward/keyward/internal/swtpm"
)

// tap is a socket between a backend and an emulator, where tests listen and answer in the TPM's place.
type tap struct {
	emulator *swtpm.TPM
	socket   string

	mu      sync.Mutex
	traffic bytes.Buffer                    // all that went either way
	answer  func(command tpm2.TPMCC) []byte // instead of the TPM's; nil or an empty one: the TPM's
}

func newTap(t *testing.T, emulator *swtpm.TPM) *tap {
	t.Helper()
	dir, err := os.MkdirTemp("", "tap")
	if err != nil {
		t.Fatal(err)
	}
	p := &tap{emulator: emulator, socket: filepath.Join(dir, "tap.sock")}
	l, err := net.Listen("unix", p.socket)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			p.serve(conn)
		}
	})
	t.Cleanup(func() {
		l.Close()
		wg.Wait()
		os.RemoveAll(dir)
	})
	return p
}

// serve passes messages on until the client closes.
func (p *tap) serve(client io.ReadWriteCloser) {
	defer client.Close()
	tpm, err := net.Dial("unix", p.emulator.Socket)
	if err != nil {
		return
	}
	defer tpm.Close()
	for {
		command, err := message(client)
		if err != nil {
			return
		}
		p.mu.Lock()
		p.traffic.Write(command)
		answer := p.answer
		p.mu.Unlock()
		var response []byte
		if answer != nil {
			response = answer(tpm2.TPMCC(binary.BigEndian.Uint32(command[6:])))
		}
		if len(response) == 0 {
			if _, err := tpm.Write(command); err != nil {
				return
			}
			if response, err = message(tpm); err != nil {
				return
			}
		}
		p.mu.Lock()
		p.traffic.Write(response)
		p.mu.Unlock()
		if _, err := client.Write(response); err != nil {
			return
		}
	}
}

// message reads one command or response.
func message(r io.Reader) ([]byte, error) {
	m := make([]byte, headerSize)
	if _, err := io.ReadFull(r, m); err != nil {
		return nil, err
	}
	rest := make([]byte, binary.BigEndian.Uint32(m[2:])-headerSize)
	_, err := io.ReadFull(r, rest)
	return append(m, rest...), err
}

func (p *tap) answers(f func(tpm2.TPMCC) []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.answer = f
}

// code is a response that is an error code alone.
func code(c tpm2.TPMRC) []byte {
	return binary.BigEndian.AppendUint32([]byte{0x80, 0x01, 0, 0, 0, headerSize}, uint32(c))
}

// Nothing of a secret is to be seen between the agent and the TPM: not the file key, not what is made from the PIN.
func TestNothingInTheClear(t *testing.T) {
	emulator := swtpm.Start(t)
	key := newKey(t, emulator, "123456")
	p := newTap(t, emulator)
	d := openTest(t, &swtpm.TPM{Socket: p.socket}, Config{Key: key, PINs: pins(t, "123456")}).dev
	w, bind := wrap(t, d, "keyward-x")
	opened, err := d.Unwrap(t.Context(), w, bind)
	if err != nil {
		t.Fatal(err)
	}
	defer opened.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	for name, secret := range map[string][]byte{
		"the file key": []byte("0123456789abcdef0123456789abcdef"), "the PIN": []byte("123456"),
		"the PIN's auth value": authValue("PIN", []byte("123456")), "the binding's auth value": bound(bind),
	} {
		if bytes.Contains(p.traffic.Bytes(), secret) {
			t.Errorf("%s is in the traffic", name)
		}
	}
	if !bytes.Contains(p.traffic.Bytes(), key.Name[2:]) && p.traffic.Len() < 1000 {
		t.Error("the tap heard nothing")
	}
}

// A TPM that could not start a command is asked again, for as long as there is time; no try of the PIN is lost by it.
func TestRetry(t *testing.T) {
	emulator := swtpm.Start(t)
	key := newKey(t, emulator, "123456")
	p := newTap(t, emulator)
	b := openTest(t, &swtpm.TPM{Socket: p.socket}, Config{Key: key, PINs: pins(t, "123456")})
	k := backendtest.Generate(t, b, "keyward-x")
	for _, warning := range []tpm2.TPMRC{tpm2.TPMRCRetry, tpm2.TPMRCYielded, tpm2.TPMRCTesting, tpm2.TPMRCNVRate,
		tpm2.TPMRCNVUnavailable} {
		refused := map[tpm2.TPMCC]int{}
		p.answers(func(command tpm2.TPMCC) []byte {
			if refused[command]++; refused[command] <= 2 {
				return code(warning)
			}
			return nil
		})
		backendtest.Verify(t, k, [32]byte{1})
	}
	p.answers(func(command tpm2.TPMCC) []byte {
		if command == tpm2.TPMCCLoad {
			return code(tpm2.TPMRCRetry)
		}
		return nil
	})
	if err := sign(k, 200*time.Millisecond); !errors.Is(err, backends.ErrBusy) {
		t.Errorf("a TPM that can't start a command: %v, want ErrBusy", err)
	}
	p.answers(nil)
	backendtest.Verify(t, k, [32]byte{1})
	if l := failedTries(t, emulator); l.Failed != 0 {
		t.Errorf("%d PIN tries failed, want none", l.Failed)
	}
}

// A PIN whose try was cut short before the device is known to have taken it is not tried again, if the count says that
// it failed; a PIN that the TPM took is right for good.
func TestCutShort(t *testing.T) {
	emulator := swtpm.Start(t)
	key := newKey(t, emulator, "123456")
	p := newTap(t, emulator)
	b := openTest(t, &swtpm.TPM{Socket: p.socket}, Config{Key: key, PINs: pins(t, "123456")})
	k := backendtest.Generate(t, b, "keyward-x")
	cut := func(command tpm2.TPMCC) []byte {
		if command == tpm2.TPMCCLoad {
			return []byte{0x80, 0x01, 0, 0, 0, 0, 0, 0, 0, 0} // no response has a size of 0
		}
		return nil
	}
	p.answers(cut)
	if err := sign(k, time.Minute); !errors.Is(err, backends.ErrUnavailable) {
		t.Errorf("cut short: %v, want ErrUnavailable", err)
	}
	p.answers(nil)
	backendtest.Verify(t, k, [32]byte{1})

	wrong := openTest(t, &swtpm.TPM{Socket: p.socket}, Config{Key: key, PINs: pins(t, "654321"), Dir: b.dev.cfg.Dir})
	found, err := wrong.Key(t.Context(), k.URI())
	if err != nil {
		t.Fatal(err)
	}
	p.answers(func(command tpm2.TPMCC) []byte {
		if command != tpm2.TPMCCLoad {
			return nil
		}
		emulator.Kill() // a crash of the TPM counts as a try that failed
		emulator.Run(t)
		return cut(command)
	})
	if err := sign(found, time.Minute); !errors.Is(err, backends.ErrUnavailable) {
		t.Errorf("cut short: %v, want ErrUnavailable", err)
	}
	p.answers(nil)
	for range 3 {
		if err := sign(found, time.Minute); !errors.Is(err, backends.ErrLocked) {
			t.Errorf("after a try that was cut short and failed: %v, want ErrLocked", err)
		}
	}
	if l := failedTries(t, emulator); l.Failed != 1 {
		t.Errorf("%d PIN tries failed, want 1", l.Failed)
	}
}

// Whatever a device answers, there is an error in time, and no panic.
func TestGarbage(t *testing.T) {
	emulator := swtpm.Start(t)
	key := newKey(t, emulator, "")
	p := newTap(t, emulator)
	b := openTest(t, &swtpm.TPM{Socket: p.socket}, Config{Key: key})
	k := backendtest.Generate(t, b, "keyward-x")
	for name, garbage := range map[string][]byte{
		"ones":          bytes.Repeat([]byte{0xff}, 64),
		"too long":      {0x80, 0x01, 0, 0, 0x40, 0, 0, 0, 0, 0},
		"too much":      append(code(0), 1, 2, 3),
		"success alone": code(0),
		"vendor's":      code(0x7ff),
		"no room":       code(tpm2.TPMRCObjectMemory),
	} {
		for _, at := range []tpm2.TPMCC{tpm2.TPMCCReadPublic, tpm2.TPMCCStartAuthSession, tpm2.TPMCCLoad,
			tpm2.TPMCCPolicyAuthValue, tpm2.TPMCCUnseal, tpm2.TPMCCFlushContext} {
			p.answers(func(command tpm2.TPMCC) []byte {
				if command == at {
					return garbage
				}
				return nil
			})
			err := sign(k, 5*time.Second)
			if at == tpm2.TPMCCFlushContext && name == "success alone" {
				continue // that is what success is there
			}
			if !errors.Is(err, backends.ErrUnavailable) {
				t.Errorf("%s at 0x%x: %v, want ErrUnavailable", name, uint32(at), err)
			}
		}
	}
	p.answers(nil)
	backendtest.Verify(t, k, [32]byte{1})
}

// A TPM's device node is a character device; a terminal is one too, and passes bytes on.
func TestDeviceNode(t *testing.T) {
	emulator := swtpm.Start(t)
	key := newKey(t, emulator, "")
	master, node := terminal(t)
	p := &tap{emulator: emulator}
	var wg sync.WaitGroup
	wg.Go(func() { p.serve(master) })
	t.Cleanup(wg.Wait)
	t.Cleanup(func() { master.Close() })
	held, err := os.OpenFile(node, os.O_RDWR|unix.O_NOCTTY, 0) // so that the terminal stays when the backend closes it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { held.Close() })
	b := openTest(t, &swtpm.TPM{Socket: node}, Config{Key: key})
	k := backendtest.Generate(t, b, "keyward-x")
	for i := range 5 {
		backendtest.Verify(t, k, [32]byte{byte(i)})
	}
}

// terminal is a pseudoterminal that changes no byte.
func terminal(t *testing.T) (master *os.File, node string) {
	t.Helper()
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetUint32(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	raw := unix.Termios{Cflag: unix.CS8 | unix.CREAD}
	raw.Cc[unix.VMIN] = 1
	if err := unix.IoctlSetTermios(fd, unix.TCSETS, &raw); err != nil {
		t.Fatal(err)
	}
	return os.NewFile(uintptr(fd), "/dev/ptmx"), fmt.Sprintf("/dev/pts/%d", n)
}
