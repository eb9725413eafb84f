package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestSeekLast(t *testing.T) {
	long := strings.Repeat("x", 70<<10) // more than is read at once
	for _, tt := range []struct {
		name, file string
		n          int
		want       string
	}{
		{"empty", "", 3, ""},
		{"none", "a\nb\n", 0, ""},
		{"some", "a\nb\nc\n", 2, "b\nc\n"},
		{"all", "a\nb\n", 2, "a\nb\n"},
		{"more than there are", "a\nb\n", 9, "a\nb\n"},
		{"long lines", "a\n" + long + "\nc\n", 2, long + "\nc\n"},
		{"an unfinished line counts", "a\nb\nc", 1, "b\nc"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := strings.NewReader(tt.file)
			if err := seekLast(r, tt.n); err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(r)
			if err != nil {
				t.Fatal(err)
			}
			if string(got) != tt.want {
				t.Errorf("seekLast(%d) leaves %d bytes, want %d", tt.n, len(got), len(tt.want))
			}
		})
	}
}

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
