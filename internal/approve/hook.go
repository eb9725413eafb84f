package approve

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"time"

	"github.com/keyward/keyward/internal/owned"
	"github.com/keyward/keyward/session"
)

// Hook is the program at path as a voter. It gets the request on stdin, no arguments and an environment with PATH only.
// Exit code 0 approves and 1 denies; all else is no vote. It is killed when the request ends.
//
// A program that others could change is not started.
func Hook(path string) session.Decider {
	places := newSlots()
	return session.Decider{Name: "hook", Decide: func(ctx context.Context, a *session.Approval) (bool, error) {
		select {
		case places <- struct{}{}:
			defer func() { <-places }()
		case <-ctx.Done():
			return false, ctx.Err()
		}
		return runHook(ctx, path, a)
	}}
}

func runHook(ctx context.Context, path string, a *session.Approval) (bool, error) {
	if err := owned.Check(path); err != nil {
		return false, err
	}
	input, err := encode(a)
	if err != nil {
		return false, err
	}
	cmd := exec.CommandContext(ctx, path)
	cmd.Env = []string{"PATH=/usr/local/bin:/usr/bin:/bin"}
	cmd.Stdin = bytes.NewReader(input)
	cmd.WaitDelay = time.Second // its own children may hold the pipe
	err = cmd.Run()
	if ctx.Err() != nil {
		return false, ctx.Err()
	}
	var exit *exec.ExitError
	switch {
	case err == nil:
		return true, nil
	case errors.As(err, &exit) && exit.ExitCode() == 1:
		return false, nil
	}
	return false, fmt.Errorf("hook %s: %w (exit code 0 approves, 1 denies)", path, err)
}
