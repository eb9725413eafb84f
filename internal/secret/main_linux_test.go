package secret

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// What the test binary does instead of testing, and a fake pinentry's answer to GETPIN and where it
// notes what it was told.
const (
	helperVar = "KEYWARD_TEST_HELPER"
	answerVar = "KEYWARD_TEST_ANSWER"
	notesVar  = "KEYWARD_TEST_NOTES"
)

func TestMain(m *testing.M) {
	switch os.Getenv(helperVar) {
	case "":
		os.Setenv("GORACE", "atexit_sleep_ms=0") // the race detector would pause for a second at each exit
		os.Exit(m.Run())
	case "terminal":
		_, err := FromTerminal("PIN: ")(context.Background())
		fmt.Println(err)
	case "deaf pinentry":
		os.Setenv(helperVar, "deaf")
		_, err := FromPinentry(os.Args[0], "")(context.Background())
		fmt.Println(err)
	case "deaf":
		signal.Ignore(unix.SIGINT, unix.SIGTERM)
		tty, err := openTerminal(ttyPath)
		if err == nil {
			_, err = echoOff(tty)
		}
		if err != nil {
			panic(err)
		}
		fmt.Fprint(tty, "PIN: ")
		time.Sleep(time.Minute)
	case "shell":
		runInBackground()
	case "hides its PINs":
		showHidden()
	case "asks pinentry":
		os.Setenv(helperVar, "pinentry")
		b, err := FromPinentry(os.Args[0], "")(context.Background())
		if err != nil {
			panic(err)
		}
		b.Close()
	case "pinentry":
		fakePinentry()
	}
}

// runInBackground does what a shell does for "keyward unlock --pinentry … &", and says what became of it.
func runInBackground() {
	os.Setenv(helperVar, "asks pinentry")
	job, err := os.StartProcess("/proc/self/exe", os.Args[:1], &os.ProcAttr{
		Files: []*os.File{os.Stdin, os.Stdout, os.Stderr},
		Sys:   &syscall.SysProcAttr{Setpgid: true},
	})
	if err != nil {
		panic(err)
	}
	var status unix.WaitStatus
	for {
		if _, err = unix.Wait4(job.Pid, &status, unix.WUNTRACED, nil); !errors.Is(err, unix.EINTR) {
			break
		}
	}
	fmt.Println("stopped:", status.Stopped(), "status:", status.ExitStatus(), err)
}

// fakePinentry answers OK to all but GETPIN, up to BYE.
func fakePinentry() {
	notes, err := os.Create(os.Getenv(notesVar))
	if err != nil {
		panic(err)
	}
	fmt.Println("OK Pleased to meet you")
	for commands := bufio.NewScanner(os.Stdin); commands.Scan(); {
		fmt.Fprintln(notes, commands.Text())
		answer := "OK\n"
		switch {
		case commands.Text() == "GETPIN":
			answer = os.Getenv(answerVar)
		case strings.HasPrefix(commands.Text(), "OPTION display"):
			answer = "ERR 83886254 Unknown option <Pinentry>\n"
		}
		switch answer {
		case "exit":
			os.Exit(7)
		case "hang":
			// Its child, which holds the pipe, outlives it.
			child := exec.Command("sleep", "20")
			child.Stdout = os.Stdout
			_ = child.Start()
			time.Sleep(time.Minute)
		case "rude": // with echo off, and deaf
			signal.Ignore(unix.SIGTERM)
			if tty, err := openTerminal(ttyPath); err == nil {
				_, _ = echoOff(tty)
			}
			fallthrough
		case "stay":
			fmt.Print("D 975310\nOK\n")
			time.Sleep(time.Minute)
		case "endless":
			for {
				if _, err := fmt.Print(strings.Repeat("5", 4096)); err != nil {
					return
				}
			}
		}
		fmt.Print(answer)
		if commands.Text() == "BYE" {
			return
		}
	}
}

// helper is a process that does what.
func helper(t *testing.T, what string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), helperVar+"="+what)
	return cmd
}
