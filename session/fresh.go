package session

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/keyward/keyward/audit"
	"github.com/keyward/keyward/internal/durable"
)

// usedMark is an extended attribute of the state's directory (xattr(7)). It says since when an agent has kept its state
// there. It is on the directory and not in it: it outlives what was in it, and goes with it when it is moved away.
const usedMark = "user.keyward.since"

// checkFresh reports whether there is neither a ledger nor a trail. It is an [ErrDamaged] if there were before.
func checkFresh(cfg *Config) (fresh bool, err error) {
	if entries, err := cfg.FS.List(cfg.LedgerPath); err == nil && len(entries) > 0 {
		return false, nil
	}
	for _, path := range []string{cfg.LedgerPath + ".db", cfg.AuditPath} {
		if _, err := cfg.FS.Stat(path); !errors.Is(err, fs.ErrNotExist) {
			return false, nil
		}
	}
	// The first segments may be archived.
	names, err := cfg.FS.List(cfg.FS.PathDir(cfg.AuditPath))
	if err == nil && slices.ContainsFunc(names, func(name string) bool { return audit.IsSegment(cfg.AuditPath, name) }) {
		return false, nil
	}
	if cfg.FS != durable.OS { // which has no extended attributes, and no keys
		return true, nil
	}
	dir := filepath.Dir(cfg.LedgerPath)
	since := make([]byte, 64)
	if n, err := unix.Getxattr(dir, usedMark, since); err == nil {
		return false, fmt.Errorf("%w: ledger and audit trail are gone from %s, which has held them since %s; %s", ErrDamaged,
			dir, since[:n], repairHint)
	}
	if sealed, _ := filepath.Glob(filepath.Join(dir, "keys", "*", "*")); len(sealed) > 0 { // the pattern is valid
		return false, fmt.Errorf("%w: ledger and audit trail are gone from %s, which still has keys of sessions (%s); %s",
			ErrDamaged, dir, sealed[0], repairHint)
	}
	return true, nil
}

// markUsed marks the state's directory, and says so if the state is new.
func markUsed(cfg *Config, fresh bool) {
	dir := filepath.Dir(cfg.LedgerPath)
	if fresh {
		cfg.Logger.Info("new state: there was neither a ledger nor an audit trail. If this agent had sessions before, "+
			"stop it and restore both", "dir", dir)
	}
	if cfg.FS != durable.OS {
		return
	}
	err := unix.Setxattr(dir, usedMark, []byte(cfg.Now().UTC().Format(time.RFC3339)), unix.XATTR_CREATE)
	if err != nil && !errors.Is(err, unix.EEXIST) {
		cfg.Logger.Warn("the state's directory can't be marked as used: should it be emptied, nothing here will show it",
			"dir", dir, "error", err)
	}
}

// CheckLost is an [ErrDamaged] if an agent has kept its state where the ledger at ledgerPath and the trail at auditPath
// would be, and there is neither.
func CheckLost(ledgerPath, auditPath string) error {
	_, err := checkFresh(&Config{LedgerPath: ledgerPath, AuditPath: auditPath, FS: durable.OS})
	return err
}

// Forget makes a state's directory one that no agent has used, once its ledger, its trail and its keys were moved away
// on the operator's word.
func Forget(dir string) error {
	err := unix.Removexattr(dir, usedMark)
	if errors.Is(err, unix.ENODATA) || errors.Is(err, unix.ENOTSUP) {
		return nil
	}
	return err
}
