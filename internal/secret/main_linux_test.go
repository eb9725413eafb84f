package secret

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"testing"
)

// helperVar names what the test binary does instead of testing.
const helperVar = "KEYWARD_TEST_HELPER"

func TestMain(m *testing.M) {
	switch os.Getenv(helperVar) {
	case "":
		os.Exit(m.Run())
	case "ask":
		_, err := FromTerminal("PIN: ")(context.Background())
		fmt.Println(err)
	}
}

// helper is a process that does what.
func helper(t *testing.T, what string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), helperVar+"="+what)
	return cmd
}
