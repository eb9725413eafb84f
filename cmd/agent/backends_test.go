package main

import (
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keyward/keyward/internal/config"
)

// What can be configured can be opened, and nothing else.
func TestEveryBackendTypeHasAnOpener(t *testing.T) {
	want := slices.Sorted(slices.Values(config.BackendTypes()))
	if d := cmp.Diff(want, slices.Sorted(maps.Keys(openers))); d != "" {
		t.Errorf("openers (-configurable +openable):\n%s", d)
	}
}
