// Package api has the JSON shapes and error codes of the two sockets, for the
// server and for Go clients. docs/protocol.md says what each method does.
package api

import (
	"encoding/json"
	"time"

	"github.com/keyward/keyward/policy"
)

// Error codes (EIP-1193, EIP-1474, JSON-RPC 2.0).
const (
	CodeDenied         = 4001   // the policy, a limit or the session's state says no
	CodeUnauthorized   = 4100   // not a signer that this client may use
	CodeUnsupported    = 4200   // a method that exists elsewhere: the agent signs, it does not send
	CodeParse          = -32700 // not JSON
	CodeInvalidRequest = -32600
	CodeNoMethod       = -32601
	CodeInvalidParams  = -32602
	CodeUnavailable    = -32000 // locked, device absent, PIN needed, timed out
	CodeLimited        = -32005 // too many requests in flight, or too fast: send again
)

// Session is a session as both sockets show it.
type Session struct {
	ID          string          `json:"id"`
	Kind        string          `json:"kind"` // "agw" or "eoa"
	Signer      policy.Address  `json:"signer"`
	Account     policy.Address  `json:"account"`
	ChainID     uint64          `json:"chainId"`
	Validator   *policy.Address `json:"validator,omitempty"` // agw only
	Status      string          `json:"status"`
	SessionHash policy.Hash     `json:"sessionHash"`
	Session     *policy.Spec    `json:"session"` // the complete spec, in the SDK's shape

	KeyURI     string   `json:"keyUri"`
	Backend    string   `json:"backend"`
	Protection string   `json:"protection"`
	Clients    []string `json:"clients"` // "uid:1000", "gid:100"

	CreatedAt      time.Time  `json:"createdAt"`
	ActivatedAt    *time.Time `json:"activatedAt,omitempty"`
	EndedAt        *time.Time `json:"endedAt,omitempty"`
	KeyDestroyedAt *time.Time `json:"keyDestroyedAt,omitempty"`
	SignsUntil     time.Time  `json:"signsUntil"` // expiresAt less the operator's margin

	// the policy that the registry does not allow any more: nothing is signed
	Blocked     string `json:"blocked,omitempty"`
	Predecessor string `json:"predecessor,omitempty"` // the session that this one renews
	Successor   string `json:"successor,omitempty"`   // the one that renews it and has not ended

	// Only where one session is asked for.
	Chain *OnChain `json:"chain,omitempty"` // absent: the chain is not watched, or has said nothing yet
	// what a person has to do for the key's device to go on; absent: nothing
	Waiting     string  `json:"waiting,omitempty"`
	Limits      []Limit `json:"limits,omitempty"`
	Outstanding *int    `json:"outstanding,omitempty"` // nonces signed for and not settled on chain
	// charged signatures on which the device still works; of an ended session none is released
	InDevice              *int   `json:"inDevice,omitempty"`
	CreateSessionCalldata string `json:"createSessionCalldata,omitempty"` // agw: what the owner sends to the validator
	RevokeKeysCalldata    string `json:"revokeKeysCalldata,omitempty"`    // agw: the same, to end it there

	// Only of a session that was just made.
	Warnings []policy.Warning `json:"warnings,omitempty"`
	Risk     *policy.Risk     `json:"risk,omitempty"`
}

// Limit is one usage limit and what is left of it now. Integers are decimal strings in JSON.
type Limit struct {
	Tracker   policy.Tracker `json:"tracker"`
	Limit     policy.Decimal `json:"limit"`
	Used      policy.Decimal `json:"used"`
	Remaining policy.Decimal `json:"remaining"`
	// ChainUsed is what the chain had counted when it was last read; absent: not known of this period.
	ChainUsed *policy.Decimal `json:"chainUsed,omitempty"`
	// RunsOut is when nothing will remain if the limit is used on as lately; absent: not before it ends.
	RunsOut *time.Time `json:"runsOut,omitempty"`
}

// OnChain is what the chain last said about a session.
type OnChain struct {
	Status string     `json:"status"`          // "NotInitialized", "Active", "Closed", "Expired"
	Block  uint64     `json:"block,omitempty"` // that it was settled at
	ReadAt *time.Time `json:"readAt,omitempty"`
	// External is, by limit, what the chain has counted and the agent has not signed.
	External map[policy.Tracker]policy.Decimal `json:"external,omitempty"`
}

// Waiting is the parameter of the notification keyward_waiting.
type Waiting struct {
	ID  json.RawMessage `json:"id"`  // of the request that waits
	For string          `json:"for"` // what a person has to do; "": it does not wait any more
}

// CreateSession is the parameter of admin_createSession.
type CreateSession struct {
	Kind    string          `json:"kind,omitempty"`    // default "agw"
	Spec    json.RawMessage `json:"spec"`              // SessionConfig without signer
	Account *policy.Address `json:"account,omitempty"` // agw only
	Chain   string          `json:"chain"`             // a configured chain's name or its id in decimal
	Clients []string        `json:"clients"`           // "uid:N" or "gid:N"
	Backend string          `json:"backend,omitempty"` // needed if there are several
	// Unchecked makes the session although nobody can ask the policy registry of Abstract's mainnet.
	Unchecked bool `json:"unchecked,omitempty"`
}

// ImportSession is the parameter of admin_importSession.
type ImportSession struct {
	Chain       string         `json:"chain"` // a configured chain's name or its id in decimal
	Account     policy.Address `json:"account"`
	SessionHash policy.Hash    `json:"sessionHash"`
	Clients     []string       `json:"clients"`           // "uid:N" or "gid:N"
	Backend     string         `json:"backend,omitempty"` // "": all of them are looked at
}

// RenewSession is the parameter of admin_renewSession.
type RenewSession struct {
	ID        string         `json:"id"`
	ExpiresAt policy.Decimal `json:"expiresAt"` // Unix seconds
	Unchecked bool           `json:"unchecked,omitempty"`
}

// Chain is how a chain that the agent reads is.
type Chain struct {
	Name       string     `json:"name"`
	ID         uint64     `json:"chainId"`
	State      string     `json:"state"` // "ready", "unavailable", "clock" (nothing is signed), "new" (not read yet)
	Detail     string     `json:"detail,omitempty"`
	Block      uint64     `json:"block,omitempty"` // the newest that was seen
	BlockTime  *time.Time `json:"blockTime,omitempty"`
	ReadAt     *time.Time `json:"readAt,omitempty"`
	RegistryAt *time.Time `json:"registryAt,omitempty"` // when the registry was last asked
	Blocked    int        `json:"blocked"`              // sessions stopped by the registry
	External   int        `json:"external"`             // sessions with usage that the agent has not signed
	Exposed    int        `json:"exposed"`              // those of External that have not ended
}

// Backend is one configured backend.
type Backend struct {
	Name   string `json:"name"`
	Type   string `json:"type"`
	State  string `json:"state"` // "ready", "locked", "unavailable"
	Detail string `json:"detail,omitempty"`

	// Foreign is how many signatures the device has counted that the agent did not ask for, of keys that are still there.
	Foreign  uint64 `json:"foreign,omitempty"`
	WentBack int    `json:"wentBack,omitempty"` // keys whose counter in the device was once lower than before

	Protection string   `json:"protection,omitempty"` // of the keys that it makes
	Can        []string `json:"can,omitempty"`        // what only some can: "list", "pin", "attest", "touch"
	Queue      *Queue   `json:"queue,omitempty"`      // in admin_status
}

// Queue is how many requests a device works on, and how many wait for it.
type Queue struct {
	Slots   int `json:"slots"` // that it works on at a time
	Busy    int `json:"busy"`
	Waiting int `json:"waiting"`
}

// Recent is how long requests for a signature took in the last minute, refused ones included: half of them P50 at most,
// and 99 of 100 P99.
type Recent struct {
	Requests int     `json:"requests"`
	P50      float64 `json:"p50"` // milliseconds, to a sixteenth; 0 without requests
	P99      float64 `json:"p99"`
}

// Key is one key in a device, and the session it belongs to.
type Key struct {
	Backend    string         `json:"backend"`
	URI        string         `json:"keyUri"`
	Signer     policy.Address `json:"signer"`
	Protection string         `json:"protection"`
	Session    string         `json:"session,omitempty"` // "": no session here has it
	Status     string         `json:"status,omitempty"`  // the session's
	Lost       bool           `json:"lost,omitempty"`    // the device says that it does not have the session's key
}

// States of the agent as a whole, in [Status]. A [Backend] is ready, locked or unavailable.
const (
	StateReady    = "ready"
	StateDegraded = "degraded" // something is wrong, which Detail names; Signs says whether any signature can be made
	StateLocked   = "locked"   // by the operator, or every backend waits for its PIN
	StateHalted   = "halted"   // the state could not be written: nothing is signed until the next start
)

// Status is the agent's own.
type Status struct {
	Version   string    `json:"version"`
	PID       int       `json:"pid"`
	StartedAt time.Time `json:"startedAt"`
	State     string    `json:"state"` // [StateReady], [StateDegraded], [StateLocked] or [StateHalted]
	Detail    string    `json:"detail,omitempty"`
	Signs     bool      `json:"signs"` // a signature can be made, with one backend at least

	Sessions    map[string]int `json:"sessions"` // number by status
	Backends    []Backend      `json:"backends"`
	Chains      []Chain        `json:"chains"` // that are read; none: the agent works offline
	Connections int            `json:"connections"`
	InFlight    int            `json:"inFlight"` // requests
	Granted     uint64         `json:"granted"`  // signatures since the start
	Denied      uint64         `json:"denied"`
	Failed      uint64         `json:"failed"`
	Recent      Recent         `json:"recent"`
	AuditHead   AuditHead      `json:"auditHead"`
	// protections that are on: "no core dumps", "landlock 7", "seccomp" and others
	Confined []string `json:"confined"`
}

// AuditHead is the audit trail's last record.
type AuditHead struct {
	Seq  uint64      `json:"seq"`  // from 1; 0: none yet
	Hash policy.Hash `json:"hash"` // SHA-256 of the line
}
