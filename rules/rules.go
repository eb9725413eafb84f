// Package rules holds the operator's guard rules: what the agent refuses although the session's spec allows it.
//
// A spec is the user's consent, and the chain enforces it. Guard rules are the operator's own, and can only narrow what
// the spec allows. A rule is either an expression in CEL (Common Expression Language, https://cel.dev) or one of the
// ready-made ones; see [Rule].
//
// [Compile] checks every rule: its types, its cost and its literals. [Set.Judge] applies the rules to one transaction.
// It does no I/O and knows no totals: where a rule counts something, the verdict says what, and the ledger decides that
// together with the charge, so that the limits hold under concurrency and survive a crash.
package rules

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/holiman/uint256"
)

// Actions of a [Rule].
const (
	Deny    = "deny"    // the request is refused
	Approve = "approve" // the request waits for an operator
	Allow   = "allow"   // the message is signed, which would be refused otherwise
)

// Rule is one [[rules]] section of the configuration. It has When, Use or Count; the fields of the others are empty
// then.
type Rule struct {
	Name    string `json:"name"` // unique
	Message string `json:"message,omitempty"`

	// When is a CEL expression of type bool, over the variables of docs/rules.md. It is true for what the action is about.
	When string `json:"when,omitempty"`
	Then string `json:"then,omitempty"` // [Deny], [Approve] or [Allow]; "": Deny, or what Use says
	// Function is a Solidity signature with names, such as "transfer(address to, uint256 amount)". The rule is then only
	// about calls of that function, and the expressions can read args.to and args.amount.
	Function string `json:"function,omitempty"`
	// Target limits the rule to transactions to this address: 0x and 40 hex digits.
	Target string `json:"target,omitempty"`

	// Count is a CEL expression of type wei: what a transaction adds to a counter. Each value of Per has its own counter.
	Count string `json:"count,omitempty"`

	// Of a rule that allows a message; see message.go.
	Domain map[string]string `json:"domain,omitempty"` // EIP-712
	Type   string            `json:"type,omitempty"`   // encodeType of EIP-712, or [PersonalType]
	Owner  string            `json:"owner,omitempty"`  // the field that is the session's account
	// the field that names a payment channel: Count is its cumulative amount
	Channel string `json:"channel,omitempty"`
	Nonce   string `json:"nonce,omitempty"` // the field of whose messages only one can be used

	Use     string        `json:"use,omitempty"` // a ready-made rule; see ready.go
	Per     string        `json:"per,omitempty"` // client, session, account, target or all
	Limit   string        `json:"limit,omitempty"`
	Window  time.Duration `json:"window,omitempty"`
	Sliding bool          `json:"sliding,omitempty"` // the window ends now; false: windows are aligned to 1970 in UTC
	List    []string      `json:"list,omitempty"`
	Days    []string      `json:"days,omitempty"`
	From    string        `json:"from,omitempty"` // "15:04", UTC
	To      string        `json:"to,omitempty"`
}

// Verdict is what the rules say of one transaction, apart from its counters.
type Verdict struct {
	Denied    *Denied   // the first rule that denies; nil: none. It wins over all else
	Approvals []Need    // rules that want an approval, in the order of the configuration
	Counters  []Counter // what to count, if the transaction is signed
	Allowed   *Allowed  // of a message: the rule that allows it; nil: none does
}

// Need is a rule that wants an approval.
type Need struct {
	Rule    string
	Message string
}

// Denied is a rule's refusal.
type Denied struct {
	Rule    string
	Message string // the operator's words; "": none
	Detail  string // what was compared, or why the rule could not be evaluated
}

// Error names the rule, and gives the operator's words and the detail.
func (d *Denied) Error() string {
	text := fmt.Sprintf("guard rule %q", d.Rule)
	if d.Message != "" {
		text += ": " + d.Message
	}
	if d.Detail != "" {
		text += ": " + d.Detail
	}
	return text
}

// Counter is an amount that a transaction adds to one of the ledger's counters, if that stays within the limit.
type Counter struct {
	Rule    string
	Key     string // of the counter among those of the rule, e.g. a client's "uid:1000"; "": the rule has one
	Amount  uint256.Int
	Limit   uint256.Int
	Window  time.Duration
	Sliding bool
}

// Set is a compiled list of rules. Safe for concurrent use. The zero value has no rules.
type Set struct {
	rules []rule
	hash  string
}

// rule is a compiled [Rule]. An error denies.
type rule struct {
	Rule
	applies func(*Input) (bool, error) // nil: always
	judge   func(*Input, *Verdict) error
	// messages: it is about messages, too. An allowing rule is about nothing else.
	messages bool
	allow    *allow // nil: it allows nothing
}

// Error is what is wrong with one of the rules given to [Compile].
type Error struct {
	Index int // in the list, from 0
	Name  string
	Err   error
}

func (e *Error) Error() string { return fmt.Sprintf("rule %q: %v", e.Name, e.Err) }

// Unwrap returns Err.
func (e *Error) Unwrap() error { return e.Err }

// Compile checks rules and makes them ready for use. The error is an *[Error].
func Compile(list []Rule) (*Set, error) {
	s := &Set{}
	names := map[string]bool{}
	for i := range list {
		r := &list[i]
		err := checkName(r.Name)
		if names[r.Name] {
			err = errors.New("there are two rules of that name")
		}
		names[r.Name] = true
		if err != nil {
			return nil, &Error{i, r.Name, err}
		}
		compiled, err := compile(r)
		if err != nil {
			return nil, &Error{i, r.Name, err}
		}
		s.rules = append(s.rules, compiled)
	}
	text, err := json.Marshal(list)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(text)
	s.hash = hex.EncodeToString(sum[:])
	return s, nil
}

// Hash names this version of the rules in audit records: SHA-256 over their JSON, in hex. "" if there are no rules.
func (s *Set) Hash() string {
	if s == nil || len(s.rules) == 0 {
		return ""
	}
	return s.hash
}

// Judge applies the rules in their order. A rule that can't be evaluated denies.
func (s *Set) Judge(in *Input) *Verdict {
	v := new(Verdict)
	if s == nil {
		return v
	}
	for i := range s.rules {
		r := &s.rules[i]
		if r.allow != nil || in.Message != nil && !r.messages {
			continue
		}
		if r.applies != nil {
			applies, err := r.applies(in)
			if err != nil {
				v.deny(r, err.Error())
				return v
			}
			if !applies {
				continue
			}
		}
		if err := r.judge(in, v); err != nil {
			v.deny(r, err.Error())
		}
		if v.Denied != nil {
			return v
		}
	}
	if in.Message != nil {
		s.judgeMessage(in, v)
	}
	return v
}

func (v *Verdict) deny(r *rule, detail string) {
	v.Denied = &Denied{Rule: r.Name, Message: r.Message, Detail: detail}
}

// maxName bounds a rule's name, which stands in keys of the ledger and in audit records.
const maxName = 64

func checkName(name string) error {
	if name == "" {
		return fmt.Errorf("it has no name")
	}
	if len(name) > maxName {
		return fmt.Errorf("its name has more than %d bytes", maxName)
	}
	for _, c := range []byte(name) {
		if c != '-' && c != '_' && (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') {
			return fmt.Errorf("its name %q has other characters than letters, digits, - and _", name)
		}
	}
	return nil
}
