//go:build soak || lossy

package softhsmtest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"
)

// check fails the test if one of the attacks did not happen.
func (c *strangerCounts) check(t *testing.T) {
	t.Helper()
	for _, n := range c.all() {
		if n.Load() == 0 {
			t.Errorf("not every attack was made: %v", c)
			return
		}
	}
}

// attack runs the strangers at the agent's socket until ctx ends, and adds what they did to c. Their process has the
// lowest priority: an honest client then waits for the work that they cause in the agent, and not for their own, which
// no agent can bound.
func (c *strangerCounts) attack(ctx context.Context, socket, foreign, own string) error {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "nice", "-n", "19", exe, strangersArg, socket, foreign, own)
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	cmd.Cancel = in.Close // which ends them
	cmd.WaitDelay = 30 * time.Second
	var out, complaints bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaints
	err = cmd.Run()
	var did []int64
	if err := errors.Join(json.Unmarshal(out.Bytes(), &did), ignore(err, context.Canceled)); err != nil {
		return fmt.Errorf("the strangers: %w\n%s", err, &complaints)
	}
	for i, n := range c.all() {
		n.Add(did[i])
	}
	return nil
}
