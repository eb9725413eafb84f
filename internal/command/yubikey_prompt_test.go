package command

import (
	"bytes"
	"os"
	"os/exec"
	"strings"
	"syscall"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/keyward/keyward/internal/cardsim"
)

// dialogue FILE ARG...: keyward ARG... on a terminal where each line of FILE is typed after a prompt, one after the
// other; "^C" is Ctrl-C. All that the terminal shows is the file "terminal".
func dialogue(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 2 {
		ts.Fatalf("usage: dialogue file arg...")
	}
	person, terminal := openTerminal(ts)
	defer person.Close()
	cmd := exec.Command("keyward", args[1:]...)
	cmd.Env, cmd.Dir = os.Environ(), ts.Getenv("WORK")
	for _, name := range []string{"HOME", "PATH", "KEYWARD_DIR", cardsim.SocketEnv} {
		cmd.Env = append(cmd.Env, name+"="+ts.Getenv(name))
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = terminal, terminal, terminal
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	ts.Check(cmd.Start())
	terminal.Close()
	lines := strings.SplitAfter(ts.ReadFile(args[0]), "\n")
	var shown bytes.Buffer
	for buf := make([]byte, 4096); ; {
		n, err := person.Read(buf)
		if err != nil { // the last process that had the terminal is gone
			break
		}
		shown.Write(buf[:n])
		if !strings.HasSuffix(shown.String(), ": ") {
			continue
		}
		line := "\x03" // to what is not foreseen
		if len(lines) > 0 {
			line, lines = strings.ReplaceAll(lines[0], "^C\n", "\x03"), lines[1:]
		}
		_, err = person.WriteString(line)
		ts.Check(err)
	}
	ts.Check(os.WriteFile(ts.MkAbs("terminal"), bytes.ReplaceAll(shown.Bytes(), []byte("\r"), nil), 0o600))
	if err := cmd.Wait(); (err != nil) != neg {
		ts.Fatalf("%v, and the terminal shows:\n%s", err, shown.String())
	}
}
