// Package audit keeps the agent's append-only record of what it granted,
// refused and was told to do, as hash-chained JSON lines.
package audit

import "time"

// Event says what a [Record] records.
type Event string

const (
	SignGranted Event = "sign.granted" // charged; the signature is released once this record is on disk
	SignDenied  Event = "sign.denied"  // the policy, a limit or the session's state refused
	SignFailed  Event = "sign.failed"  // granted, but the device gave no good signature; the charge stays
	// granted, but certainly not signed: detail has why, and what was taken back of the charge
	SignReverted  Event = "sign.reverted"
	AccessRefused Event = "access.refused" // the peer may not use that signer, or there is none
	// a message, foreign typed data, or a transaction of a type that no session signs
	MessageRefused Event = "message.refused"
	// a guard rule wants an approval: the request waits; detail has its id, the rules, and how many have to approve
	ApprovalAsked Event = "approval.asked"
	// an operator or a program of his voted; it counts if the request still waited
	ApprovalVoted Event = "approval.voted"
	ApprovalEnded Event = "approval.ended" // without a decision; detail says why
	// detail counts, by reason, the refusals since the last summary that have no record of their own
	RefusalsSummary Event = "refusals.summary"
	SessionCreated  Event = "session.created"
	SessionActive   Event = "session.activated"
	SessionExpired  Event = "session.expired"
	SessionRevoked  Event = "session.revoked"
	SessionClosed   Event = "session.closed"
	SessionImported Event = "session.imported" // its spec was recovered from the chain
	// The ledger was brought in line with the chain.
	SessionReconciled Event = "session.reconciled"
	// The chain has counted what nothing signed here explains.
	SessionExternal  Event = "session.externalUsage"
	SessionBlocked   Event = "session.blocked"    // the registry does not allow one of its policies any more
	SessionUnblocked Event = "session.unblocked"  // all of them again
	SessionClients   Event = "session.clientsSet" // its clients are others now; detail has both lists
	SessionSucceeded Event = "session.succeeded"  // its clients are moved to its successor
	KeyDestroyed     Event = "key.destroyed"
	KeyDestroyError  Event = "key.destroyFailed"
	KeyRewrapped     Event = "key.rewrapped"         // encrypted with the device key of now
	BackendChecked   Event = "backend.checked"       // with a throw-away key
	AdminPINGiven    Event = "backend.adminPinGiven" // for the next key that is generated or destroyed
	// the device's counter of a key's signatures, as the one to compare with from now on; detail has why
	DeviceCounted  Event = "device.counted"
	DeviceExternal Event = "device.externalUsage" // the device has counted signatures that the agent did not ask for
	AgentStarted   Event = "agent.started"
	AgentStopped   Event = "agent.stopped"
	AgentLocked    Event = "agent.locked"
	AgentUnlocked  Event = "agent.unlocked"
	AgentReloaded  Event = "agent.reloaded"
	// how long requests for a signature took lately; detail has how many they were, and half and 99 of 100 of them in ms
	AgentLatency  Event = "agent.latency"
	BackupMade    Event = "backup.made"
	StateRestored Event = "state.restored" // from a backup; detail has what was counted for the time since
	StateRepaired Event = "state.repaired" // by keyward repair; detail has the damage and what was done
	TrailArchived Event = "trail.archived" // the first records are not here any more; detail is a Gone
	TrailErased   Event = "trail.erased"   // personal data of earlier records is being deleted; detail has by which choice
	TrailRepaired Event = "trail.repaired" // the same, since they were damaged
)

// Peer is who asked, as the kernel tells (SO_PEERCRED, unix(7)).
type Peer struct {
	UID    uint32   `json:"uid"`
	GID    uint32   `json:"gid"`
	Groups []uint32 `json:"-"` // supplementary groups (SO_PEERGROUPS)
	PID    int32    `json:"pid"`
	// /proc/PID/exe, unverified: a process can run another program after it connects; "" if not readable
	Exe string `json:"exe,omitempty"`
}

// Record is one line, without the fields that chain it. Times are UTC.
//
// Peer, Transaction and, of the events that are about a session's clients, Detail are personal. The chain has a salted
// hash of them, and they are beside it, so that [Erase] can delete them. Lines of older versions are hashed as they
// are.
type Record struct {
	Time        time.Time `json:"time"`
	Event       Event     `json:"event"`
	Method      string    `json:"method,omitempty"`
	Session     string    `json:"session,omitempty"`
	Signer      string    `json:"signer,omitempty"`
	Digest      string    `json:"digest,omitempty"` // 0x-hex
	Verdict     *Verdict  `json:"verdict,omitempty"`
	KeyURI      string    `json:"keyUri,omitempty"`
	Protection  string    `json:"protection,omitempty"`
	Peer        *Peer     `json:"peer,omitempty"`        // nil: the agent itself, or erased
	Transaction any       `json:"transaction,omitempty"` // decoded
	Detail      any       `json:"detail,omitempty"`
}

// Verdict is what was decided on a transaction, and why.
type Verdict struct {
	Allow   bool   `json:"allow"`
	Reason  string `json:"reason,omitempty"`  // the denial's stable word
	Message string `json:"message,omitempty"` // the denial in words, the chain's own first
	// Charges is what the transaction counts, as policy.Charge values; of a repeated
	// digest none, of a replacement only what it costs beyond what it replaces.
	Charges  any  `json:"charges,omitempty"`
	Replaces bool `json:"replaces,omitempty"` // another transaction with the same nonce was signed before
	Repeat   bool `json:"repeat,omitempty"`   // this digest was signed before and costs nothing
	// Rules is the version of the operator's guard rules that judged, a SHA-256 in hex; "" if there are none.
	Rules string `json:"rules,omitempty"`
}
