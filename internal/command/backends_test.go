package command

import (
	"maps"
	"slices"
	"testing"
	"time"

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
		// of class sealed
		"piv": backends.Sealed, "tpm": backends.Sealed, "transit": backends.Sealed, "awskms": backends.Sealed,
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

// A request whose card waits 15 s for another one's touch, in vain, has time for its own.
func TestTimeForTwoTouches(t *testing.T) {
	const want = 15*time.Second + backends.TouchTime
	for what, got := range map[string]time.Duration{"piv": config.TouchTimeout,
		"openpgp": config.NewBackend("openpgp").Timeout} {
		if got <= want {
			t.Errorf("%s has %v, want more than %v", what, got, want)
		}
	}
}
