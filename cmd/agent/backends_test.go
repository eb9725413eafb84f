package main

import (
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/internal/config"
)

// What can be configured can be opened, and nothing else.
func TestEveryBackendTypeHasAnOpener(t *testing.T) {
	want := slices.Sorted(slices.Values(config.BackendTypes()))
	if d := cmp.Diff(want, slices.Sorted(maps.Keys(openers))); d != "" {
		t.Errorf("openers (-configurable +openable):\n%s", d)
	}
}

func TestEveryBackendTypeHasAProtection(t *testing.T) {
	want := map[string]backends.Protection{
		"pkcs11": backends.Resident, "openpgp": backends.Resident, "gcpkms": backends.Resident, "azurekv": backends.Resident,
		"piv": backends.Sealed, "awskms": backends.Sealed, // of class sealed
	}
	for _, typ := range config.BackendTypes() {
		b := config.NewBackend(typ)
		if aws, ok := b.Settings.(*config.AWSKMS); ok {
			aws.Class = "sealed"
		}
		if got := protection(b); got == "" || got != want[typ] {
			t.Errorf("protection of %s = %q, want %q", typ, got, want[typ])
		}
	}
}
