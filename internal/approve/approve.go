// Package approve has the programs that vote on approvals: an operator's hook, and a server that is called over HTTP.
// Each gets the request as one JSON object, [Request].
package approve

import (
	"encoding/json"
	"time"

	"github.com/keyward/keyward/policy"
	"github.com/keyward/keyward/rules"
	"github.com/keyward/keyward/session"
)

// Request describes a waiting request to a program.
type Request struct {
	ID          string          `json:"id"`
	Session     string          `json:"session"`
	Account     policy.Address  `json:"account"`
	ChainID     uint64          `json:"chainId"`
	Digest      policy.Hash     `json:"digest"`
	UID         uint32          `json:"uid"` // of the program that asks
	GID         uint32          `json:"gid"`
	PID         int32           `json:"pid"`
	Method      string          `json:"method"`
	Rules       []string        `json:"rules"`          // that want the approval
	Call        string          `json:"call,omitempty"` // what the calldata calls
	Until       time.Time       `json:"until"`
	Transaction json.RawMessage `json:"transaction"`
}

// encode writes a as a Request.
func encode(a *session.Approval) ([]byte, error) {
	tx, err := json.Marshal(a.Tx)
	if err != nil {
		return nil, err
	}
	r := Request{
		ID: a.ID, Session: string(a.Session), Account: a.Tx.From, ChainID: a.Tx.ChainID, Digest: a.Digest,
		UID: a.Peer.UID, GID: a.Peer.GID, PID: a.Peer.PID, Method: a.Method, Rules: []string{},
		Call:  rules.CallText(a.Tx.Data),
		Until: a.Until, Transaction: tx,
	}
	for _, need := range a.Needs {
		r.Rules = append(r.Rules, need.Rule)
	}
	return json.Marshal(r)
}

// running bounds how many calls of one program run at a time.
const running = 8

// slots are the places of calls that run.
type slots chan struct{}

func newSlots() slots { return make(slots, running) }
