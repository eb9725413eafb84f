package command

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"
)

// answered FILE ARG...: keyward ARG... succeeds on a terminal where FILE is typed once it, or the
// program that it runs, asks for the PIN. Unlike with ttyin, what is typed comes after the prompt:
// pinentry drops what comes before it. What the terminal shows is the file "terminal".
func answered(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: answered file arg...")
	}
	person, terminal := openTerminal(ts)
	defer person.Close()
	cmd := exec.Command("keyward", args[1:]...)
	cmd.Env = append(os.Environ(), "TERM=vt100")
	for _, name := range []string{"HOME", "PATH", "KEYWARD_DIR"} {
		cmd.Env = append(cmd.Env, name+"="+ts.Getenv(name))
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = terminal, terminal, terminal
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	err := cmd.Start()
	ts.Check(err)
	terminal.Close()
	var shown bytes.Buffer
	typed := false
	for buf := make([]byte, 256); ; {
		n, err := person.Read(buf)
		if err != nil { // the last process that had the terminal is gone
			break
		}
		shown.Write(buf[:n])
		if !typed && strings.HasSuffix(strings.TrimSpace(shown.String()), "PIN:") {
			typed = true
			_, err := person.WriteString(ts.ReadFile(args[0]))
			ts.Check(err)
		}
	}
	ts.Check(os.WriteFile(ts.MkAbs("terminal"), shown.Bytes(), 0o600))
	if err := cmd.Wait(); err != nil {
		ts.Fatalf("%v, and the terminal shows:\n%s", err, shown.String())
	}
}

// openTerminal makes a pseudo-terminal: the side that a person sits at, and that of a program.
func openTerminal(ts *testscript.TestScript) (person, terminal *os.File) {
	person, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	ts.Check(err)
	ts.Check(unix.IoctlSetPointerInt(int(person.Fd()), unix.TIOCSPTLCK, 0))
	n, err := unix.IoctlGetInt(int(person.Fd()), unix.TIOCGPTN)
	ts.Check(err)
	terminal, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	ts.Check(err)
	return person, terminal
}
