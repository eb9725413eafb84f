package rules

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/pelletier/go-toml/v2"

	"github.com/keyward/keyward/internal/zktx"
	"github.com/keyward/keyward/policy"
)

// Case is one request of a rehearsal, and what the rules have to say of it.
type Case struct {
	Name        string          `json:"name"`
	Transaction json.RawMessage `json:"transaction"` // as eth_signTransaction takes it
	Now         time.Time       `json:"now"`
	Client      struct {
		UID uint32 `json:"uid"`
		GID uint32 `json:"gid"`
	} `json:"client"`
	Session struct {
		ID         string         `json:"id"`
		Kind       string         `json:"kind"` // "agw" or "eoa"; "": agw
		Account    policy.Address `json:"account"`
		Signer     policy.Address `json:"signer"`
		Backend    string         `json:"backend"`
		Protection string         `json:"protection"`
		ExpiresAt  time.Time      `json:"expiresAt"`
	} `json:"session"`
	Repeat int    `json:"repeat"` // so many requests of this kind, each with the next nonce; 0: one
	Want   string `json:"want"`   // "allow", "deny" or "approve": of the last request
	Rule   string `json:"rule"`   // that denies or wants an approval; "": any

	tx *zktx.Transaction
}

// maxCases bounds a file of cases, and maxRepeat one case.
const (
	maxCases  = 100_000
	maxRepeat = 100_000
)

// ReadCases reads cases in TOML, in sections [[case]], or in JSON, as an array. Unknown members are errors. An error
// names the case.
func ReadCases(data []byte) ([]Case, error) {
	items, err := caseTexts(data)
	if err != nil {
		return nil, err
	}
	if len(items) == 0 || len(items) > maxCases {
		return nil, fmt.Errorf("found %d cases, want 1 to %d: write [[case]] sections, or a JSON array", len(items), maxCases)
	}
	cases := make([]Case, len(items))
	for i, item := range items {
		if err := cases[i].read(item); err != nil {
			return nil, fmt.Errorf("case %d (%q): %w", i+1, cases[i].Name, err)
		}
	}
	return cases, nil
}

func caseTexts(data []byte) (items []json.RawMessage, err error) {
	if trimmed := bytes.TrimSpace(data); len(trimmed) > 0 && trimmed[0] == '[' && !bytes.HasPrefix(trimmed, []byte("[[")) {
		return items, json.Unmarshal(trimmed, &items)
	}
	var file struct {
		Case []map[string]any `toml:"case"`
	}
	if err := toml.NewDecoder(bytes.NewReader(data)).DisallowUnknownFields().Decode(&file); err != nil {
		return nil, err
	}
	for _, c := range file.Case {
		text, err := json.Marshal(c)
		if err != nil {
			return nil, err
		}
		items = append(items, text)
	}
	return items, nil
}

func (c *Case) read(text []byte) error {
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(c); err != nil {
		return err
	}
	switch {
	case c.Name == "":
		return errors.New("it has no name")
	case c.Want != "allow" && c.Want != Deny && c.Want != Approve:
		return fmt.Errorf(`want is %q, not "allow", "deny" or "approve"`, c.Want)
	case c.Rule != "" && c.Want == "allow":
		return errors.New("a rule is named, but it is not wanted that one denies or wants an approval")
	case c.Repeat < 0 || c.Repeat > maxRepeat:
		return fmt.Errorf("repeat is %d, not 0 to %d", c.Repeat, maxRepeat)
	case c.Now.IsZero():
		return errors.New("now is missing")
	case c.Transaction == nil:
		return errors.New("transaction is missing")
	}
	kind := uint8(zktx.TypeZKsync)
	switch c.Session.Kind {
	case "", "agw":
		c.Session.Kind = "agw"
	case "eoa":
		kind = zktx.TypeDynamicFee
	default:
		return fmt.Errorf(`session.kind is %q, not "agw" or "eoa"`, c.Session.Kind)
	}
	var err error
	if c.tx, err = zktx.ParseTransaction(c.Transaction, kind, 0); err != nil {
		return fmt.Errorf("transaction: %w", err)
	}
	if c.Session.Account.IsZero() {
		c.Session.Account = c.tx.From
	}
	return nil
}

// Input is what the rules look at in the n-th request of the case, from 0.
func (c *Case) Input(n int) *Input {
	tx := *c.tx
	tx.Nonce += uint64(n)
	s := &c.Session
	return &Input{
		Tx: &tx, Now: c.Now, Client: Client{UID: c.Client.UID, GID: c.Client.GID},
		Session: Session{ID: s.ID, Kind: s.Kind, Account: s.Account, Signer: s.Signer, Backend: s.Backend,
			Protection: s.Protection, ExpiresAt: s.ExpiresAt},
	}
}

// Requests is how many requests the case has.
func (c *Case) Requests() int { return max(1, c.Repeat) }
