package sealed

import (
	"testing"

	"github.com/keyward/keyward/backends"
)

// Needle is a key to look for in memory; see needle.
type Needle struct{ needle }

func MaskedScalar(t *testing.T, b *Backend, k backends.Key) Needle {
	t.Helper()
	return Needle{maskedScalar(t, b, k)}
}

// Search returns the mappings that have the key, and fails the test if it finds nothing when
// there is something.
func (n Needle) Search(t *testing.T) []string {
	t.Helper()
	found := n.search(t)
	n.checkSearch(t)
	return found
}
