package pkcs11

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	p11 "github.com/miekg/pkcs11"
)

// SoftHSMToken is a token of SoftHSM 2 in a directory of its own.
type SoftHSMToken struct {
	Module    string // path of libsofthsm2.so
	Conf      string // path of softhsm2.conf, for SOFTHSM2_CONF
	Label     string
	Serial    string
	PINFile   string // the user PIN
	SOPINFile string // the security officer's PIN, which resets the user's
}

// Env is what the module needs in its environment.
func (t SoftHSMToken) Env() map[string]string { return map[string]string{"SOFTHSM2_CONF": t.Conf} }

// softHSMModules are the usual places: Debian and Ubuntu, Fedora and RHEL, Arch and Alpine,
// openSUSE, Homebrew on both architectures, FreeBSD.
var softHSMModules = []string{
	"/usr/lib/softhsm/libsofthsm2.so",
	"/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
	"/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
	"/usr/lib64/softhsm/libsofthsm2.so",
	"/usr/lib64/pkcs11/libsofthsm2.so",
	"/usr/lib/pkcs11/libsofthsm2.so",
	"/usr/lib/libsofthsm2.so",
	"/usr/local/lib/softhsm/libsofthsm2.so",
	"/opt/homebrew/lib/softhsm/libsofthsm2.so",
}

// FindSoftHSMModule returns the path of SoftHSM's library. The error says what to install.
func FindSoftHSMModule() (string, error) {
	for _, path := range softHSMModules {
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
	}
	return "", errors.New("SoftHSM is not installed: install the package softhsm2 (Debian, Ubuntu: apt install " +
		"softhsm2) or softhsm (Fedora, Alpine, Arch, Homebrew)")
}

// NewSoftHSMToken makes dir, which must not have a token yet, with a configuration, a token with
// that label and random PINs in files that only their owner reads. The module must
// not be in use in this process.
func NewSoftHSMToken(dir, label, module string) (SoftHSMToken, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return SoftHSMToken{}, fmt.Errorf("making a SoftHSM token: %w", err)
	}
	t := SoftHSMToken{
		Module: module, Conf: filepath.Join(dir, "softhsm2.conf"), Label: label,
		PINFile: filepath.Join(dir, "pin"), SOPINFile: filepath.Join(dir, "so-pin"),
	}
	if label == "" || len(label) > 32 || strings.TrimSpace(label) != label {
		return SoftHSMToken{}, fmt.Errorf("making a SoftHSM token: label %q: want 1 to 32 bytes, no spaces around them",
			label)
	}
	pin, soPIN := rand.Text(), rand.Text()
	if err := t.writeFiles(dir, pin, soPIN); err != nil {
		return SoftHSMToken{}, fmt.Errorf("making a SoftHSM token: %w", err)
	}
	if t.Serial, err = t.initialize(pin, soPIN); err != nil {
		return SoftHSMToken{}, fmt.Errorf("making a SoftHSM token: %w", err)
	}
	return t, nil
}

// writeFiles makes the directory. It overwrites nothing.
func (t SoftHSMToken) writeFiles(dir, pin, soPIN string) error {
	if strings.ContainsAny(dir, "\n#") {
		return fmt.Errorf("directory %q: softhsm2.conf can't express it", dir)
	}
	tokens := filepath.Join(dir, "tokens")
	if err := os.MkdirAll(tokens, 0o700); err != nil {
		return err
	}
	conf := "directories.tokendir = " + tokens + "\nobjectstore.backend = file\nlog.level = ERROR\nslots.removable = " +
		"false\n"
	return errors.Join(
		writeNew(t.Conf, conf), writeNew(t.PINFile, pin+"\n"), writeNew(t.SOPINFile, soPIN+"\n"))
}

// writeNew makes a file, which is on disk when it returns.
func writeNew(path, content string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(content)
	return errors.Join(err, f.Sync(), f.Close())
}

// initialize makes the token and its user PIN, and returns its serial.
func (t SoftHSMToken) initialize(pin, soPIN string) (serial string, err error) {
	mod, err := acquireModule(t.Module, t.Env())
	if err != nil {
		return "", err
	}
	defer mod.release()
	if err := mod.initialize(); err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, mod.finalize()) }()
	slot, err := emptySlot(mod)
	if err != nil {
		return "", err
	}
	if err := mod.InitToken(slot, soPIN, t.Label); err != nil {
		return "", fmt.Errorf("initializing the token: %w", err)
	}
	c, err := findToken(mod, choice{label: t.Label}) // its slot has a new number
	if err != nil {
		return "", err
	}
	s, err := mod.OpenSession(c.slotID, sessionFlags)
	if err != nil {
		return "", fmt.Errorf("opening a p11Session: %w", err)
	}
	if err := mod.Login(s, p11.CKU_SO, soPIN); err != nil {
		return "", fmt.Errorf("logging in as security officer: %w", err)
	}
	if err := mod.InitPIN(s, pin); err != nil {
		return "", fmt.Errorf("setting the user PIN: %w", err)
	}
	return c.info.SerialNumber, nil
}

// emptySlot finds the slot whose token is not initialized; SoftHSM always has one.
func emptySlot(mod *module) (uint, error) {
	slots, err := mod.GetSlotList(true)
	if err != nil {
		return 0, fmt.Errorf("listing slots: %w", err)
	}
	for _, id := range slots {
		if info, err := mod.GetTokenInfo(id); err == nil && info.Flags&p11.CKF_TOKEN_INITIALIZED == 0 {
			return id, nil
		}
	}
	return 0, errors.New("the module has no slot to make a token in: is it SoftHSM?")
}
