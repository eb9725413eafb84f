package secret

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/keyward/keyward/internal/durable"
)

// marks are files that say of a device whose counter does not show how a try went that a PIN try was begun there and
// not known to have succeeded. They outlive the process, so that restarts spend no tries, and hold nothing of the PIN.
type marks struct {
	dir string // "": there are none
}

// path is that of a device's mark. Its name may have any bytes.
func (m marks) path(device string) string {
	return filepath.Join(m.dir, fmt.Sprintf("%x", sha256.Sum256([]byte(device)))[:32])
}

// applies reports whether a try is marked: only where no counter tells how it went.
func (m marks) applies(left Tries) bool { return m.dir != "" && left.Device != "" }

// stands reports whether the device has a mark. One that can't be looked for stands.
func (m marks) stands(left Tries) bool {
	if !m.applies(left) {
		return false
	}
	_, err := os.Stat(m.path(left.Device))
	return !errors.Is(err, fs.ErrNotExist)
}

// set makes the mark, which is on disk when set returns.
func (m marks) set(left Tries) error {
	if !m.applies(left) {
		return nil
	}
	if err := os.MkdirAll(m.dir, 0o700); err != nil {
		return fmt.Errorf("noting the PIN try: %w", err)
	}
	if err := durable.WriteFile(m.path(left.Device), fmt.Appendf(nil, "a PIN try of %q was begun\n", left.Device),
		0o600); err != nil {
		return fmt.Errorf("noting the PIN try: %w", err)
	}
	return nil
}

// clear removes the mark.
func (m marks) clear(left Tries) error {
	if !m.applies(left) {
		return nil
	}
	if err := durable.Remove(m.path(left.Device)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing the note of a PIN try: %w", err)
	}
	return nil
}
