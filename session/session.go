// Package session keeps sessions: their lifecycle, what they have used, and the
// one path on which a session's key signs.
package session

import (
	"time"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/policy"
)

// ID names a session: 16 lower-case hex digits.
type ID string

// Kind says what a session's signer signs.
type Kind string

const (
	AGW Kind = "agw" // transactions of a smart account, ZKsync type 0x71
	EOA Kind = "eoa" // its own: the signer is the account; types 0, 1 and 2
)

// Status is where a session is in its life. It only moves forward:
// pending → active → expired, revoked or closed; pending may end too.
type Status string

const (
	Pending Status = "pending" // created; its owner has not approved it yet
	Active  Status = "active"
	Expired Status = "expired" // the spec's expiresAt, less the margin, has passed
	Revoked Status = "revoked" // the operator ended it here
	Closed  Status = "closed"  // the owner ended it on chain (SessionLib.Status.Closed)
)

// Ended reports whether s is final.
func (s Status) Ended() bool { return s == Expired || s == Revoked || s == Closed }

// Session is one approved use of one key. Values that callers get are snapshots
// and must not be changed.
type Session struct {
	ID         ID                  `json:"id"`
	Kind       Kind                `json:"kind"`
	Account    policy.Address      `json:"account"`
	ChainID    uint64              `json:"chainId"`
	Validator  policy.Address      `json:"validator"` // zero for EOA
	Spec       *policy.Spec        `json:"spec"`      // with its signer
	Hash       policy.Hash         `json:"sessionHash"`
	Backend    string              `json:"backend"` // name in the configuration
	KeyURI     string              `json:"keyUri"`
	PublicKey  []byte              `json:"publicKey"` // 65 bytes, 0x04 ‖ X ‖ Y (SEC 1, 2.3.3)
	Protection backends.Protection `json:"protection"`
	Clients    []Client            `json:"clients"`             // who may use it
	Unchecked  bool                `json:"unchecked,omitempty"` // the operator did without the policy registry

	// Blocked says which of its policies the registry does not allow any more; nothing is signed
	// meanwhile. "": none, or nobody has asked.
	Blocked     string `json:"blocked,omitempty"`
	Predecessor ID     `json:"predecessor,omitempty"` // the session that this one renews

	Status         Status    `json:"status"`
	CreatedAt      time.Time `json:"createdAt"`
	ActivatedAt    time.Time `json:"activatedAt,omitzero"`
	EndedAt        time.Time `json:"endedAt,omitzero"`
	KeyDestroyedAt time.Time `json:"keyDestroyedAt,omitzero"`

	// Of a brief session, see details.
	signer  policy.Address
	expires uint64
}

// Signer is the address of the session's key.
func (s *Session) Signer() policy.Address {
	if s.Spec == nil {
		return s.signer
	}
	return s.Spec.Signer
}
