package command

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// growing is a file that grows each time its end was reached.
type growing struct{ parts []string }

func (g *growing) Read(p []byte) (int, error) {
	if len(g.parts) == 0 {
		return 0, io.EOF
	}
	n := copy(p, g.parts[0])
	if g.parts[0] = g.parts[0][n:]; g.parts[0] == "" {
		g.parts = g.parts[1:]
		return n, io.EOF
	}
	return n, nil
}

func TestFollowPrintsWholeLines(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	var got []string
	err := follow(ctx, &growing{[]string{"a\nb", "b\nc", "cc\n", "d"}}, true, func(line []byte) error {
		got = append(got, string(line))
		if string(line) == "ccc" {
			cancel()
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"a", "bb", "ccc"}, got); d != "" {
		t.Errorf("follow (-want +got):\n%s", d)
	}
}

func TestFollowStops(t *testing.T) {
	count := 0
	print := func([]byte) error { count++; return nil }
	if err := follow(t.Context(), strings.NewReader("a\nb\nc"), false, print); err != nil || count != 2 {
		t.Errorf("follow = %v after %d lines, want nil after 2", err, count)
	}
	failure := errors.New("no more")
	err := follow(t.Context(), bytes.NewReader([]byte("a\nb\n")), true, func([]byte) error { return failure })
	if !errors.Is(err, failure) {
		t.Errorf("follow = %v, want %v", err, failure)
	}
}
