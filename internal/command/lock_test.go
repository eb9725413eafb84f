package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/keyward/keyward/socket/api"
)

// Ctrl-C ends the command, and not one of its prompts. Without the agent there is nothing to ask for.
func TestWhatUnlockGoesOnAfter(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want bool
	}{
		{fmt.Errorf("unlocking: %w", &api.Error{Code: api.CodeUnavailable}), true},
		{&promptError{errors.New("the entry is empty")}, true},
		{&promptError{fmt.Errorf("PIN prompt: %w", context.Canceled)}, false},
		{fmt.Errorf("reading: %w", io.ErrUnexpectedEOF), false},
	} {
		if got := isOneBackends(tt.err); got != tt.want {
			t.Errorf("isOneBackends(%v) = %v, want %v", tt.err, got, tt.want)
		}
	}
}
