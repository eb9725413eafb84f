package config

import (
	"errors"
	"strconv"

	"github.com/keyward/keyward/rules"
)

// ruleFields are the keys of one [[rules]] section.
func ruleFields(r *rules.Rule) []field {
	return []field{
		{key: "name", dst: &r.Name, doc: "names the rule in errors, records and counters"},
		{key: "message", dst: &r.Message, doc: "what the client reads when the rule denies"},
		{key: "when", dst: &r.When, doc: "a CEL expression; see docs/rules.md"},
		{key: "then", dst: &r.Then, one: []string{rules.Deny, rules.Approve, rules.Allow},
			doc: "what happens when it is true"},
		{key: "function", dst: &r.Function, doc: "only calls of this function, whose arguments expressions can read"},
		{key: "target", dst: &r.Target, doc: "only transactions to this address"},
		{key: "count", dst: &r.Count, doc: "a CEL expression: what a transaction adds to the rule's counter"},
		{key: "domain", dst: &r.Domain, doc: "EIP-712 domain of messages that the rule allows, such as { name = \"USDC\", " +
			"version = \"2\", chainId = \"8453\", verifyingContract = \"0x…\" }"},
		{key: "type", dst: &r.Type, doc: "EIP-712 type of messages that the rule allows, or \"eip191\" for texts"},
		{key: "owner", dst: &r.Owner, doc: "the message's field that has to be the session's account"},
		{key: "channel", dst: &r.Channel, doc: "the message's field that names a payment channel, whose cumulative amount " +
			"is count"},
		{key: "nonce", dst: &r.Nonce, doc: "the message's field of whose values each can be used once: messages with the " +
			"same one cost the most of them"},
		{key: "use", dst: &r.Use, doc: "a ready-made rule"},
		{key: "per", dst: &r.Per, doc: "client, session, account, target or all: each has a counter"},
		{key: "limit", dst: &r.Limit, serial: true, doc: `of the counter or of one transaction: "10", "0.1 ether", "30 gwei"`},
		{key: "window", dst: &r.Window, doc: "of the counter"},
		{key: "sliding", dst: &r.Sliding, doc: "the window ends now; false: windows are aligned to midnight UTC"},
		{key: "list", dst: &r.List, doc: "what the rule allows"},
		{key: "days", dst: &r.Days, doc: "mon, tue, wed, thu, fri, sat, sun"},
		{key: "from", dst: &r.From, doc: "time of day, UTC"},
		{key: "to", dst: &r.To, doc: "time of day, UTC"},
	}
}

// rules reads the sections [[rules]].
func (d *document) rules(v any, p path, c *Config) error {
	list, ok := v.([]any)
	if !ok {
		return d.errorf(p, "%q is a list of sections: write [[rules]]", p[0])
	}
	for i, item := range list {
		var r rules.Rule
		if err := d.section(item, p.in(strconv.Itoa(i)), ruleFields(&r)); err != nil {
			return err
		}
		c.Rules = append(c.Rules, r)
	}
	return nil
}

// validateRules compiles the rules.
func (d *document) validateRules(c *Config) error {
	if len(c.Rules) == 0 {
		return nil
	}
	set, err := rules.Compile(c.Rules)
	c.Guard = set
	var bad *rules.Error
	if errors.As(err, &bad) {
		return d.errorf(path{"rules", strconv.Itoa(bad.Index)}, "%v", err)
	}
	return err
}
