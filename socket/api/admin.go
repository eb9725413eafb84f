package api

import (
	"encoding/json"
	"time"
)

// Page is the parameter of session_list and admin_listSessions for a part of the list. A page with fewer
// sessions than Limit is the last.
type Page struct {
	After string `json:"after,omitempty"` // the id or signer of the last session of the page before; "": from the oldest
	Limit int    `json:"limit,omitempty"` // 1 to 1000; 0: 100
}

// SessionID is the parameter of admin_activateSession, admin_revokeSession, admin_closeSession and
// admin_getSession.
type SessionID struct {
	ID string `json:"id"`
}

// SetClients is the parameter of admin_setClients.
type SetClients struct {
	ID      string   `json:"id"`
	Clients []string `json:"clients"` // "uid:N" or "gid:N": all that may use the session from now on
}

// Keys is the parameter of admin_keys.
type Keys struct {
	Backend string `json:"backend,omitempty"` // "": all of them
}

// RewrapKey is the parameter of admin_rewrapKey.
type RewrapKey struct {
	Key string `json:"key"` // a session's ID or signer, or the URI of its key
}

// RewrappedKey is its result.
type RewrappedKey struct {
	Session   string `json:"session"`
	Backend   string `json:"backend"`
	KeyURI    string `json:"keyUri"`
	Rewrapped bool   `json:"rewrapped"` // false: the device key of now encrypts it already
}

// Attest is the parameter of admin_attest.
type Attest struct {
	Key string `json:"key"` // a session's ID or signer, or the URI of its key
}

// Attestation is its result: what a device states on how a session's key came about.
type Attestation struct {
	Session    string `json:"session"`
	Backend    string `json:"backend"`
	KeyURI     string `json:"keyUri"`
	Protection string `json:"protection"`
	// Chain is the statement and the certificates that vouch for it, X.509 in PEM, each one's issuer after it.
	Chain    string `json:"chain"`
	Verified bool   `json:"verified"` // it leads to a root that is trusted, and is about that key
	Detail   string `json:"detail"`   // what is stated, or why it is not verified
}

// CheckBackend is the parameter of admin_checkBackend.
type CheckBackend struct {
	Backend string `json:"backend"`
}

// BackendCheck is its result: what the backend did with a throw-away key.
type BackendCheck struct {
	Backend    string             `json:"backend"`
	OK         bool               `json:"ok"`
	Protection string             `json:"protection,omitempty"`
	KeyURI     string             `json:"keyUri,omitempty"`
	Steps      []BackendCheckStep `json:"steps"`
}

// BackendCheckStep is "generate", "find", "sign" or "destroy".
type BackendCheckStep struct {
	Name   string  `json:"name"`
	Millis float64 `json:"millis"`
	Error  string  `json:"error,omitempty"`
}

// Unlock is the parameter of admin_unlock.
type Unlock struct {
	Backend string `json:"backend,omitempty"` // "": all that have a PIN
	// PIN is a JSON string. Without one, each backend takes the PIN from where the
	// configuration says. It is not of type string, so that it can be wiped.
	PIN json.RawMessage `json:"pin,omitempty"`
	// AdminPIN says that PIN is Backend's admin PIN, which waits there for the next key that is
	// generated or destroyed. Nothing is unlocked.
	AdminPIN bool `json:"adminPin,omitempty"`
	// Agent ends the agent's own lock and touches no device. It goes without Backend and PIN.
	Agent bool `json:"agent,omitempty"`
}

// Lock is the parameter of admin_lock.
type Lock struct {
	Wait bool `json:"wait,omitempty"` // until the devices have logged out
}

// States of a backend in [Locked]. Any other is an error.
const (
	LoggedOut = "loggedOut"
	Busy      = "busy" // it logs out when its call ends
)

// Locked is the result of admin_lock.
type Locked struct {
	OK       bool              `json:"ok"`
	Backends map[string]string `json:"backends"` // of those with a PIN, by name
}

// Client is one user's process that is connected.
type Client struct {
	Socket      string    `json:"socket"` // "agent", "admin" or "approve"
	UID         uint32    `json:"uid"`
	GID         uint32    `json:"gid"`
	PID         int32     `json:"pid"`
	Exe         string    `json:"exe,omitempty"`
	Connections int       `json:"connections"`
	InFlight    int       `json:"inFlight"` // requests
	Since       time.Time `json:"since"`    // of its oldest connection
}

// Reloaded is the result of admin_reload.
type Reloaded struct {
	OK bool `json:"ok"`
	// Changed names the sections that differ from the configuration before: "limits", "backends.hsm".
	Changed []string `json:"changed,omitempty"`
	// Unlock names the backends that wait for the operator to type their PIN.
	Unlock []string `json:"unlock,omitempty"`
}

// Copied is the result of admin_copyLedger.
type Copied struct {
	Directory string `json:"directory"` // absolute path
}

// TrailArchived is the parameter of admin_trailArchived, and what the trail's record says: see audit.Gone.
type TrailArchived struct {
	Records uint64         `json:"records"`
	Hash    string         `json:"hash"`
	Tree    []string       `json:"tree,omitempty"`
	To      string         `json:"to,omitempty"`
	Files   []ArchivedFile `json:"files,omitempty"`
}

// TrailErased is the parameter of admin_trailErased, and what the trail's record says: which records personal data is
// deleted of, all of these together.
type TrailErased struct {
	Session string `json:"session,omitempty"` // of the session whose id or signer begins with it
	Client  bool   `json:"client,omitempty"`  // of one client, which the trail does not name again
	Until   string `json:"until,omitempty"`   // of records before this time, RFC 3339
}

// ArchivedFile is a segment of the audit trail that was archived.
type ArchivedFile struct {
	Name   string `json:"name"`
	SHA256 string `json:"sha256"` // 0x-hex
}

// Done is the result of methods that have nothing to tell.
type Done struct {
	OK bool `json:"ok"`
}
