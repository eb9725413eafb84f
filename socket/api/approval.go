package api

import (
	"encoding/json"
	"time"

	"github.com/keyward/keyward/policy"
)

// ApprovalID is the parameter of approve_get.
type ApprovalID struct {
	ID string `json:"id"`
}

// ApprovalVote is the parameter of approve_vote.
type ApprovalVote struct {
	ID      string      `json:"id"`
	Digest  policy.Hash `json:"digest"` // of the request, so that the vote is on what the operator has seen
	Approve bool        `json:"approve"`
}

// Approval is a request that waits for an approval.
type Approval struct {
	ID       string         `json:"id"`
	Session  string         `json:"session"`
	Account  policy.Address `json:"account"`
	ChainID  uint64         `json:"chainId"`
	Digest   policy.Hash    `json:"digest"`
	Client   ApprovalClient `json:"client"`
	Method   string         `json:"method"`
	Rules    []ApprovalRule `json:"rules"` // that want it
	Call     string         `json:"call,omitempty"`
	Charges  []Charge       `json:"charges"` // what signing it would count
	AskedAt  time.Time      `json:"askedAt"`
	Until    time.Time      `json:"until"` // it is denied then
	Required int            `json:"required"`
	Votes    []Vote         `json:"votes"`

	Transaction json.RawMessage `json:"transaction"` // as the audit trail has it

	// Only where one request is asked for.
	Limits []Limit  `json:"limits,omitempty"` // of the session, with what is left now
	Policy []string `json:"policy,omitempty"` // of the session, in plain words
	Risk   string   `json:"risk,omitempty"`   // what the session can lose at most, in a sentence
}

// ApprovalClient is the program that asks.
type ApprovalClient struct {
	UID uint32 `json:"uid"`
	GID uint32 `json:"gid"`
	PID int32  `json:"pid"`
	Exe string `json:"exe,omitempty"`
}

// ApprovalRule is a guard rule that wants an approval.
type ApprovalRule struct {
	Name    string `json:"name"`
	Message string `json:"message,omitempty"`
}

// Vote is an operator's or a program's word on a request.
type Vote struct {
	By      string    `json:"by"` // "uid:N", or the program: "hook", "callback"
	Approve bool      `json:"approve"`
	At      time.Time `json:"at"`
}
