package rules

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/holiman/uint256"

	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"

	"github.com/keyward/keyward/internal/zktx"
	"github.com/keyward/keyward/policy"
)

// PersonalType is the Type of a rule about messages by EIP-191, which are texts. Their variables are message.text and
// message.size.
const PersonalType = "eip191"

// Message is a request to sign something other than a transaction. One of its fields is given.
type Message struct {
	Typed    policy.JSONValue // EIP-712 typed data
	Personal []byte           // EIP-191, version 0x45; not nil
}

// Allowed is a message that a rule allows.
type Allowed struct {
	Rule   string
	Digest policy.Hash
	// Key names what the message's amount is counted under: a payment channel, or a nonce. It is an amount that can be
	// used once, so all messages of a key cost the largest amount. "": each message costs its amount.
	Key    string
	Amount uint256.Int
	// Rising: the amount under Key never falls. A message with less than the most so far is refused.
	Rising bool
	Budget *Counter // counts the rise of the amount; nil: there is no limit
	// Call is what has the same effect as a transaction. The session's spec has to allow it, without counting it; nil:
	// there is none.
	Call *policy.Call
	// Values are the fields that a person reads, by path.
	Values map[string]string
}

// The ready-made rules that allow messages: what [Rule] they stand for, and the call with the same effect.
var readyMessages = map[string]struct {
	typ, owner, count, nonce string
	to                       string // the field that the list is about
	function                 string // of the token; its arguments are to and count
	token                    string // the field with the token; "": the verifying contract
}{
	// ERC-2612
	"permit": {
		"Permit(address owner,address spender,uint256 value,uint256 nonce,uint256 deadline)",
		"owner", "message.value", "nonce", "spender", "approve(address,uint256)", "",
	},
	// ERC-3009, which x402's scheme "exact" uses
	"transfer-with-authorization": {
		"TransferWithAuthorization(address from,address to,uint256 value,uint256 validAfter,uint256 validBefore,bytes32 " +
			"nonce)",
		"from", "message.value", "nonce", "to", "transfer(address,uint256)", "",
	},
	// Uniswap's Permit2, SignatureTransfer. The owner is who signs.
	"permit2": {
		"PermitTransferFrom(TokenPermissions permitted,address spender,uint256 nonce,uint256 " +
			"deadline)TokenPermissions(address token,uint256 amount)",
		"", "message.permitted.amount", "nonce", "spender", "approve(address,uint256)", "permitted.token",
	},
}

func isAllow(r *Rule) bool {
	_, ready := readyMessages[r.Use]
	return ready || r.Then == Allow
}

// noMessage refuses the fields of messages in a rule about something else.
func noMessage(r *Rule) error {
	for name, given := range map[string]bool{
		"domain": r.Domain != nil, "type": r.Type != "", "owner": r.Owner != "", "channel": r.Channel != "",
		"nonce": r.Nonce != "",
	} {
		if given {
			return fmt.Errorf(`%s is for rules with then = "allow"`, name)
		}
	}
	return nil
}

// allow is a compiled rule that allows messages.
type allow struct {
	Rule
	typ     *zktx.MessageType // nil: EIP-191
	domain  *zktx.MessageDomain
	when    *expression // nil: always
	count   *expression // nil: it has no amount
	budget  *counter
	allowed map[policy.Address]bool // of the field to; nil: any
	to      string
	token   string
	call    *policy.Selector
}

func compileAllow(r *Rule) (*allow, error) {
	a := &allow{Rule: *r}
	if err := unused(r, "days", "from", "to"); err != nil {
		return nil, err
	}
	if r.Function != "" || r.Target != "" {
		return nil, errors.New("function and target are about transactions: give domain and type")
	}
	if err := a.ready(); err != nil {
		return nil, err
	}
	if a.Type == PersonalType {
		if a.Domain != nil || a.Owner != "" || a.Channel != "" || a.Nonce != "" || a.Count != "" || a.List != nil {
			return nil, errors.New("a text (eip191) has no domain, fields or amount")
		}
	} else if err := a.typed(); err != nil {
		return nil, err
	}
	return a, a.expressions()
}

// ready fills in what a ready-made rule stands for.
func (a *allow) ready() error {
	ready, ok := readyMessages[a.Use]
	if !ok {
		if a.List != nil {
			return errors.New("list is for ready-made rules: write it into when")
		}
		return nil
	}
	if a.Then != "" || a.Type != "" || a.Count != "" || a.Owner != "" || a.Channel != "" || a.Nonce != "" {
		return errors.New("a ready-made rule sets then, type, count, owner, channel and nonce itself")
	}
	a.Type, a.Owner, a.Count, a.Nonce = ready.typ, ready.owner, ready.count, ready.nonce
	selector := policy.SelectorOf(ready.function)
	a.call, a.to, a.token = &selector, ready.to, ready.token
	if a.List == nil {
		return nil
	}
	a.allowed = map[policy.Address]bool{}
	for i, text := range a.List {
		var address policy.Address
		if err := address.UnmarshalText([]byte(text)); err != nil {
			return fmt.Errorf("list[%d]: %w", i, err)
		}
		a.allowed[address] = true
	}
	return nil
}

// typed checks type and domain, and that the fields are there.
func (a *allow) typed() (err error) {
	switch {
	case a.Type == "":
		return errors.New(`type is missing: write it as EIP-712 encodes it, or "eip191" for texts`)
	case a.Domain == nil:
		return errors.New("domain is missing")
	}
	if a.typ, err = zktx.ParseMessageType(a.Type); err != nil {
		return fmt.Errorf("type: %w", err)
	}
	if a.domain, err = zktx.ParseMessageDomain(a.Domain); err != nil {
		return fmt.Errorf("domain: %w", err)
	}
	fields := a.typ.Fields()
	for what, field := range map[string]string{"owner": a.Owner, "channel": a.Channel, "nonce": a.Nonce} {
		if typ := fields[field]; field != "" && (typ == "" || what == "owner" && typ != "address") {
			return fmt.Errorf("%s: the type has no such field %q", what, field)
		}
	}
	switch {
	case a.Channel != "" && a.Nonce != "":
		return errors.New("give channel or nonce, not both")
	case (a.Channel != "" || a.Nonce != "") && a.Count == "":
		return errors.New("count is missing: the amount that counts under channel or nonce")
	case a.Channel != "" && a.Limit == "":
		return errors.New("limit is missing: what all channels may take together")
	}
	return nil
}

// expressions compiles when and count, and the budget.
func (a *allow) expressions() (err error) {
	vars := map[string]*types.Type{"message.text": types.StringType, "message.size": types.IntType}
	if a.typ != nil {
		vars = map[string]*types.Type{}
		for path, typ := range a.typ.Fields() {
			vars["message."+path] = messageType(typ)
		}
	}
	for _, e := range []struct {
		what, text string
		want       *types.Type
		into       **expression
	}{{"when", a.When, types.BoolType, &a.when}, {"count", a.Count, weiType, &a.count}} {
		if e.text == "" {
			continue
		}
		if *e.into, err = compileExpression(e.what, e.text, e.want, vars); err != nil {
			return err
		}
		if (*e.into).tx {
			return fmt.Errorf("%s: a message has no tx and no args", e.what)
		}
	}
	if a.Limit == "" && a.Per == "" && a.Window == 0 && !a.Sliding {
		return nil
	}
	if a.Count == "" {
		return errors.New("limit, per, window and sliding need count")
	}
	a.budget, err = newBudget(&a.Rule)
	return err
}

// newBudget is newCounter for what may also have no window: then nothing that was counted is ever given back.
func newBudget(r *Rule) (*counter, error) {
	if r.Window != 0 || r.Sliding {
		return newCounter(r)
	}
	limited := *r
	limited.Window = minWindow
	c, err := newCounter(&limited)
	if err == nil {
		c.rule = r
	}
	return c, err
}

func messageType(typ string) *types.Type {
	switch {
	case typ == "address":
		return addressType
	case typ == "bool":
		return types.BoolType
	case typ == "string":
		return types.StringType
	case strings.HasPrefix(typ, "bytes"):
		return types.BytesType
	}
	return weiType
}

// AllowsMessages reports whether any rule allows messages. Without one there is nothing to judge: all are refused.
func (s *Set) AllowsMessages() bool {
	return s != nil && slices.ContainsFunc(s.rules, func(r rule) bool { return r.allow != nil })
}

// judgeMessage finds the first rule that allows the message. One that is about the message and can't be evaluated
// denies it.
func (s *Set) judgeMessage(in *Input, v *Verdict) {
	for i := range s.rules {
		r := &s.rules[i]
		if r.allow == nil {
			continue
		}
		allowed, err := r.allow.judge(in)
		if err != nil {
			v.deny(r, err.Error())
			return
		}
		if allowed != nil {
			v.Allowed = allowed
			return
		}
	}
}

// judge returns nil if the rule does not allow the message.
func (a *allow) judge(in *Input) (*Allowed, error) {
	allowed := &Allowed{Rule: a.Name}
	var values map[string]any
	if a.typ == nil {
		if in.Message.Personal == nil {
			return nil, nil
		}
		allowed.Digest = zktx.PersonalDigest(in.Message.Personal)
		in.args = map[string]any{"message.text": types.String(in.Message.Personal),
			"message.size": types.Int(len(in.Message.Personal))}
	} else {
		if in.Message.Typed == nil || a.domain.ChainID != in.Session.ChainID || !a.typ.Matches(in.Message.Typed, a.domain) {
			return nil, nil
		}
		m, err := a.typ.Read(in.Message.Typed, a.domain)
		if err != nil {
			return nil, err
		}
		values, allowed.Digest = m.Values, m.Digest
		in.args = map[string]any{}
		for path, value := range values {
			in.args["message."+path] = messageValue(value)
		}
		if a.Owner != "" && values[a.Owner] != in.Session.Account {
			return nil, fmt.Errorf("%s is not the session's account, %s", a.Owner, in.Session.Account)
		}
		if a.allowed != nil && !a.allowed[values[a.to].(policy.Address)] {
			return nil, fmt.Errorf("%s %s is not in the list", a.to, values[a.to])
		}
	}
	if a.when != nil {
		if is, err := a.when.bool(in); err != nil || !is {
			return nil, err
		}
	}
	if a.count != nil {
		if err := a.amount(in, allowed, values); err != nil {
			return nil, err
		}
	}
	allowed.Call = a.equivalent(in, values, allowed.Amount)
	allowed.Values = map[string]string{}
	for path, value := range values {
		allowed.Values[path] = valueText(value)
	}
	return allowed, nil
}

// amount says what the message costs, and under which key.
func (a *allow) amount(in *Input, allowed *Allowed, values map[string]any) error {
	amount, err := a.count.wei(in)
	if err != nil {
		return err
	}
	allowed.Amount = uint256.Int(amount)
	field, kind := a.Nonce, "nonce"
	if a.Channel != "" {
		field, kind, allowed.Rising = a.Channel, "channel", true
	}
	if field != "" {
		separator := a.domain.Separator()
		allowed.Key = strings.Join([]string{kind, in.Session.Signer.String(), separator.String(), valueKey(values[field])},
			"/")
	}
	if a.budget == nil {
		return nil
	}
	var v Verdict
	if err := a.budget.add(in, &v, allowed.Amount); err != nil {
		return err
	}
	allowed.Budget = &v.Counters[0]
	return nil
}

// equivalent is the transaction with the same effect as a ready-made rule's message.
func (a *allow) equivalent(in *Input, values map[string]any, amount uint256.Int) *policy.Call {
	if a.call == nil {
		return nil
	}
	token := a.domain.Contract
	if a.token != "" {
		token = values[a.token].(policy.Address)
	}
	to, word := values[a.to].(policy.Address), amount.Bytes32()
	data := append(append(append(append([]byte{}, a.call[:]...), make([]byte, 12)...), to[:]...), word[:]...)
	tx := &zktx.Transaction{Type: zktx.TypeDynamicFee, ChainID: a.domain.ChainID, From: in.Session.Account, To: token,
		Data: data}
	return tx.Call(policy.Address{})
}

func messageValue(value any) ref.Val {
	switch v := value.(type) {
	case uint256.Int:
		return wei(v)
	case policy.Address:
		return address(v)
	case bool:
		return types.Bool(v)
	case []byte:
		return types.Bytes(v)
	}
	return types.String(value.(string))
}

// valueText is a field's value for a person.
func valueText(value any) string {
	switch v := value.(type) {
	case uint256.Int:
		return v.Dec()
	case []byte:
		return fmt.Sprintf("0x%x", v)
	}
	return fmt.Sprint(value)
}

// valueKey is a field's value in a counter's key, where its length is bounded.
func valueKey(value any) string {
	text := valueText(value)
	if len(text) <= 80 {
		return text
	}
	digest := zktx.PersonalDigest([]byte(text))
	return digest.String()
}
