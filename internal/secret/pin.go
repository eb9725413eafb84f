package secret

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"unicode"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// Source gets a PIN. The caller closes the Buffer. Errors say what the operator has to do.
type Source func(ctx context.Context) (*Buffer, error)

// maxPIN bounds a PIN, in bytes. Tokens take far shorter ones.
const maxPIN = 1024

// FromFile reads the PIN from a file that nobody but its owner may read, the owner being
// root or this process's user. One newline at its end is dropped. The file is read
// again each time.
func FromFile(path string) Source {
	return func(context.Context) (*Buffer, error) { return pins.readFile(path, 0o077) }
}

// FromCredential reads the PIN from the systemd credential of that name
// (LoadCredential=, LoadCredentialEncrypted=), which systemd puts into the
// directory $CREDENTIALS_DIRECTORY.
func FromCredential(name string) Source {
	return func(context.Context) (*Buffer, error) { return pins.readCredential(name) }
}

// kind is a kind of secret that files hold.
type kind struct {
	name string // in errors
	max  int    // bytes
	give string // what to do with one that a file can't give
}

var (
	pins = kind{"PIN", maxPIN, "so it is not tried; remove that, or if the PIN really has it, give it with: keyward " +
		"unlock"}
	tokens = kind{"token", maxToken, "so it is not used; remove that"}
)

// readCredential reads a systemd credential.
func (k kind) readCredential(name string) (*Buffer, error) {
	dir := os.Getenv("CREDENTIALS_DIRECTORY")
	if dir == "" {
		return nil, fmt.Errorf("%s credential %q: $CREDENTIALS_DIRECTORY is not set; add LoadCredential=%s:PATH to the "+
			"systemd unit", k.name, name, name)
	}
	if name == "" || name != filepath.Base(name) || name == "." || name == ".." {
		return nil, fmt.Errorf("%s credential %q: not a credential's name", k.name, name)
	}
	// systemd gives the service's user access by an ACL, whose mask shows as group bits.
	return k.readFile(filepath.Join(dir, name), 0o007)
}

// FromEnv takes the PIN from an environment variable, which it removes, so that no child
// process inherits it. The PIN is then kept locked in memory for the next time.
//
// A PIN that was in the environment when the process started is in /proc/PID/environ, and in memory that is not locked,
// unless [HideEnv] was called first.
func FromEnv(name string) Source {
	var (
		mu   sync.Mutex
		kept *Buffer
	)
	return func(context.Context) (*Buffer, error) {
		mu.Lock()
		defer mu.Unlock()
		if kept == nil {
			kept = takeHanded(name)
		}
		if kept == nil {
			v, ok := os.LookupEnv(name)
			if !ok || v == "" {
				return nil, fmt.Errorf("PIN: environment variable %s is not set", name)
			}
			if err := os.Unsetenv(name); err != nil {
				return nil, fmt.Errorf("PIN: removing %s from the environment: %w", name, err)
			}
			b, err := Take([]byte(v))
			if err != nil {
				return nil, err
			}
			if b, err = pins.guarded(b, "PIN: environment variable "+name); err != nil {
				return nil, err
			}
			kept = b
		}
		return kept.Clone()
	}
}

// readFile reads a secret straight into locked memory. forbidden are the permission bits
// that the file must not have.
func (k kind) readFile(path string, forbidden fs.FileMode) (*Buffer, error) {
	what := k.name + " file"
	// O_NONBLOCK so that a named pipe in the file's place can't hang us.
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	defer f.Close()
	if err := checkFile(f, forbidden); err != nil {
		return nil, fmt.Errorf("%s %s: %w", what, path, err)
	}
	b, err := New(k.max + 1)
	if err != nil {
		return nil, err
	}
	n, err := io.ReadFull(f, b.data)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return nil, errors.Join(fmt.Errorf("%s: %w", what, err), b.Close())
	}
	what += " " + path
	if b, err = trimmed(b, n, k.max, what); err != nil {
		return nil, err
	}
	return k.guarded(b, what)
}

// trimmed cuts b to its first n bytes less one newline, and refuses what is empty or has more than most bytes.
func trimmed(b *Buffer, n, most int, what string) (*Buffer, error) {
	if n > 0 && n <= most && b.data[n-1] == '\n' {
		n--
	}
	if n == 0 || n > most {
		reason := "empty"
		if n > most {
			reason = fmt.Sprintf("longer than %d bytes", most)
		}
		return nil, errors.Join(fmt.Errorf("%s is %s", what, reason), b.Close())
	}
	b.truncate(n)
	return b, nil
}

// guarded closes and refuses a secret that is not what its source was meant to hold: editors and copying leave line
// endings, byte-order marks and spaces, and a device would count the try. A PIN that has them is given by keyward
// unlock.
func (k kind) guarded(b *Buffer, what string) (*Buffer, error) {
	var found string
	if err := b.Use(func(pin []byte) error { found = oddity(pin); return nil }); err != nil || found == "" {
		return b, err
	}
	return nil, errors.Join(fmt.Errorf("%s %s, %s", what, found, k.give), b.Close())
}

// oddity says what is odd about a PIN, without quoting it; "": nothing.
func oddity(pin []byte) string {
	for _, mark := range []struct{ name, bytes string }{
		{"UTF-8", "\xef\xbb\xbf"}, {"UTF-16", "\xff\xfe"}, {"UTF-16", "\xfe\xff"},
	} {
		if bytes.HasPrefix(pin, []byte(mark.bytes)) {
			return "begins with the byte-order mark of " + mark.name
		}
	}
	if bytes.HasSuffix(pin, []byte("\r")) {
		return "ends with a carriage return, as a text file of Windows does"
	}
	for i, c := range pin {
		if c < ' ' || c == 0x7f {
			return fmt.Sprintf("has the control character 0x%02x as byte %d of %d", c, i+1, len(pin))
		}
	}
	first, _ := utf8.DecodeRune(pin)
	last, _ := utf8.DecodeLastRune(pin)
	switch {
	case unicode.IsSpace(first):
		return "begins with a space"
	case unicode.IsSpace(last):
		return "ends with a space"
	}
	return ""
}

// checkFile refuses a file of a secret that others can read, or could have written.
func checkFile(f *os.File, forbidden fs.FileMode) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return errors.New("not a regular file")
	}
	if perm := fs.FileMode(st.Mode) & 0o777; perm&forbidden != 0 {
		return fmt.Errorf("others may read or change it (mode %04o); run chmod 600 on it", perm)
	}
	return checkOwner(st.Uid, uint32(os.Geteuid()))
}

// checkOwner refuses an owner that is neither root nor self.
func checkOwner(owner, self uint32) error {
	switch {
	case owner == 0 || owner == self:
		return nil
	case self == 0:
		return fmt.Errorf("it belongs to uid %d, want root", owner)
	}
	return fmt.Errorf("it belongs to uid %d, want root or uid %d", owner, self)
}
