package cardsim

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/keyward/keyward/internal/syncbuf"
)

// SocketEnv names pcscd's socket to libpcsclite, which reads it once in the life of a process.
const SocketEnv = "PCSCLITE_CSOCK_NAME"

const (
	// ReaderName is what the readers are called, followed by " 00 00" and " 00 01".
	ReaderName = "Yubico YubiKey OTP+FIDO+CCID"
	// Readers is how many readers a pcscd has: as many as the vpcd driver can.
	Readers = 2

	vpcdDriver = "/usr/lib/pcsc/drivers/serial/libifdvpcd.so"
)

// PCSCD is a private pcscd with two readers. Its methods may be called at any time, but
// a reader by one goroutine at a time.
type PCSCD struct {
	Socket string // the value of SocketEnv

	dir    string
	port   int
	unlock func()
	slots  [Readers]slot
	log    syncbuf.Buffer

	mu   sync.Mutex
	proc *process // nil while it does not run
}

// StartPCSCD starts a pcscd for the test, sets SocketEnv, and stops it when the test ends. A machine
// without pcscd or vpcd fails the test. All tests of a process use the same socket path, as
// libpcsclite remembers it; so they must not run in parallel.
func StartPCSCD(t testing.TB) *PCSCD {
	t.Helper()
	dir := filepath.Join(os.TempDir(), fmt.Sprintf("keyward-pcscd-%d", os.Getpid()))
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	p, err := Start(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.Stop()
		if t.Failed() {
			t.Logf("pcscd's log:\n%s", &p.log)
		}
	})
	t.Setenv(SocketEnv, p.Socket)
	return p
}

// Start starts a pcscd with its files in dir, which must be empty.
func Start(dir string) (*PCSCD, error) {
	if _, err := os.Stat(vpcdDriver); err != nil {
		return nil, fmt.Errorf("the vpcd driver is missing; scripts/deps test installs vsmartcard-vpcd: %w", err)
	}
	if err := os.MkdirAll("/run/pcscd", 0o755); err != nil { // without it, pcscd does not start
		return nil, fmt.Errorf("scripts/deps test makes /run/pcscd: %w", err)
	}
	p := &PCSCD{dir: dir, Socket: filepath.Join(dir, "pcscd.comm")}
	if err := p.setUp(); err != nil {
		p.Stop()
		return nil, err
	}
	return p, nil
}

func (p *PCSCD) setUp() error {
	var err error
	if p.port, p.unlock, err = takePorts(); err != nil {
		return err
	}
	for i := range p.slots {
		p.slots[i].addr = fmt.Sprintf("127.0.0.1:%d", p.port+i)
	}
	conf := fmt.Sprintf("FRIENDLYNAME %q\nDEVICENAME /dev/null:%#x\nLIBPATH %s\nCHANNELID %#x\n", ReaderName, p.port,
		vpcdDriver, p.port)
	if err := os.Mkdir(filepath.Join(p.dir, "readers"), 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(p.dir, "readers", "vpcd"), []byte(conf), 0o600); err != nil {
		return err
	}
	return p.Restart()
}

// Stop takes the cards out and ends pcscd. It may be called twice.
func (p *PCSCD) Stop() {
	for i := range p.slots {
		p.slots[i].take()
	}
	p.Kill()
	if p.unlock != nil {
		p.unlock()
		p.unlock = nil
	}
}

// Kill ends pcscd as a crash does. The cards stay where they are. Until [PCSCD.Restart], nobody
// listens on the socket.
func (p *PCSCD) Kill() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.proc == nil {
		return
	}
	p.proc.kill()
	p.proc = nil
}

// Restart starts pcscd again after Kill, and returns once it sees the cards that are in.
func (p *PCSCD) Restart() error {
	os.Remove(p.Socket) // if it fails, Listen does
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: p.Socket})
	if err != nil {
		return err
	}
	defer l.Close()
	l.SetUnlinkOnClose(false)
	listen, err := l.File()
	if err != nil {
		return err
	}
	defer listen.Close()
	proc, err := startProcess(p.dir, listen, &p.log)
	if err != nil {
		return err
	}
	p.mu.Lock()
	p.proc = proc
	p.mu.Unlock()
	for i := range p.slots {
		full := p.slots[i].full()
		if err := p.await(i, func(s ReaderState) bool { return s.Present == full }); err != nil {
			return err
		}
	}
	return nil
}

// Insert puts a card into a reader (0 or 1), which must be empty, and returns once pcscd sees it.
func (p *PCSCD) Insert(t testing.TB, reader int, card *Card) {
	t.Helper()
	if err := p.Put(reader, card); err != nil {
		t.Fatal(err)
	}
}

// Put is Insert outside of a test.
func (p *PCSCD) Put(reader int, card *Card) error {
	s := &p.slots[reader]
	s.take() // what a fault unplugged is still remembered
	powered := s.put(card)
	// pcscd may not have noticed that the card before is gone: then the reader is full to it, but this
	// card has no power.
	return p.await(reader, func(state ReaderState) bool {
		select {
		case <-powered:
			return state.Present
		default:
			return false
		}
	})
}

// Replug takes the card out and puts it in again, or another one, before pcscd can see that the reader
// is empty. It does not wait until pcscd sees the card.
func (p *PCSCD) Replug(reader int, card *Card) {
	p.slots[reader].take()
	p.slots[reader].put(card)
}

// Remove takes the card out of a reader, if one is in. pcscd sees it within 400 ms, or at the
// next command.
func (p *PCSCD) Remove(reader int) { p.slots[reader].take() }

// AwaitEmpty returns once pcscd sees that no card is in a reader.
func (p *PCSCD) AwaitEmpty(t testing.TB, reader int) {
	t.Helper()
	if err := p.await(reader, func(s ReaderState) bool { return s.Empty }); err != nil {
		t.Fatal(err)
	}
}

// AwaitFree returns once no program holds the card in a reader, and fails the test if that
// does not come to pass: the handle was leaked.
func (p *PCSCD) AwaitFree(t testing.TB, reader int) {
	t.Helper()
	if err := p.await(reader, func(s ReaderState) bool { return s.Sharing == 0 }); err != nil {
		t.Fatal(err)
	}
}

// patience bounds every wait for pcscd. It is no measure: machines that test are busy.
const patience = 30 * time.Second

func (p *PCSCD) await(reader int, good func(ReaderState) bool) error {
	deadline := time.Now().Add(patience)
	for {
		states, err := p.States()
		if err == nil && len(states) == Readers && good(states[reader]) {
			return nil
		}
		p.mu.Lock()
		proc := p.proc
		p.mu.Unlock()
		if err := proc.ended(); err != nil {
			return fmt.Errorf("pcscd: %w\n%s", err, &p.log)
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("pcscd after %v: readers %+v, error %v\n%s", patience, states, err, &p.log)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// process is a running pcscd.
type process struct {
	cmd  *exec.Cmd
	done chan struct{}
	err  error // valid once done is closed
}

// startProcess starts pcscd on a socket that listens already, as systemd would: it is file 3.
func startProcess(dir string, listen *os.File, log *syncbuf.Buffer) (*process, error) {
	path, err := exec.LookPath("pcscd")
	if err != nil {
		if path, err = exec.LookPath("/usr/sbin/pcscd"); err != nil {
			return nil, fmt.Errorf("pcscd is missing; scripts/deps test installs it: %w", err)
		}
	}
	const script = `LISTEN_PID=$$ LISTEN_FDS=1 exec "$@"`
	cmd := exec.Command("/bin/sh", "-c", script, "sh", path, "--foreground", "--error", "--config",
		filepath.Join(dir, "readers"))
	cmd.ExtraFiles = []*os.File{listen}
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	proc := &process{cmd: cmd, done: make(chan struct{})}
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // Pdeathsig is about the thread that started it
		err := cmd.Start()
		started <- err
		if err == nil {
			proc.err = cmd.Wait()
			close(proc.done)
		}
	}()
	return proc, <-started
}

func (p *process) kill() {
	p.cmd.Process.Kill() // fails only if it has ended
	<-p.done
}

var errEnded = errors.New("the process has ended")

// ended is nil while the process runs.
func (p *process) ended() error {
	if p == nil {
		return errEnded
	}
	select {
	case <-p.done:
		return fmt.Errorf("%w: %v", errEnded, p.err)
	default:
		return nil
	}
}

// Ports below the ones that the kernel gives to whoever asks for any.
const firstPort, lastPort = 21000, 31000

// takePorts finds consecutive free ports, one a reader. No other process that takes its ports
// here gets them until unlock. vpcd listens on all interfaces.
func takePorts() (port int, unlock func(), err error) {
	locks := filepath.Join(os.TempDir(), fmt.Sprintf("keyward-vpcd-ports-%d", os.Getuid()))
	if err := os.MkdirAll(locks, 0o700); err != nil {
		return 0, nil, err
	}
	for port := firstPort; port < lastPort; port += Readers {
		f, err := os.OpenFile(filepath.Join(locks, fmt.Sprint(port)), os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			return 0, nil, err
		}
		if syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil && free(port) {
			return port, func() { f.Close() }, nil
		}
		f.Close()
	}
	return 0, nil, fmt.Errorf("no free ports for vpcd between %d and %d", firstPort, lastPort)
}

func free(port int) bool {
	for i := range Readers {
		var lc net.ListenConfig
		l, err := lc.Listen(context.Background(), "tcp4", fmt.Sprintf(":%d", port+i))
		if err != nil {
			return false
		}
		l.Close()
	}
	return true
}
