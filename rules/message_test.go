package rules

import (
	"strings"
	"testing"
	"time"
)

// TestCompileAllowRefuses has rules that allow messages with one mistake each.
func TestCompileAllowRefuses(t *testing.T) {
	domain := map[string]string{"chainId": "1", "verifyingContract": "0x7777777777777777777777777777777777777777"}
	voucher := func(change func(*Rule)) Rule {
		r := Rule{Name: "v", Then: Allow, Domain: domain, Type: "V(bytes32 id,uint96 amount,address who,string s)",
			Channel: "id", Count: "message.amount", Per: "all", Limit: "1"}
		change(&r)
		return r
	}
	for _, tc := range []struct {
		name string
		rule Rule
		want string
	}{
		{"no type", voucher(func(r *Rule) { r.Type = "" }), "type is missing"},
		{"no domain", voucher(func(r *Rule) { r.Domain = nil }), "domain is missing"},
		{"any contract", voucher(func(r *Rule) { r.Domain = map[string]string{"chainId": "1"} }),
			"verifyingContract are needed"},
		{"no such channel", voucher(func(r *Rule) { r.Channel = "ids" }), `no such field "ids"`},
		{"owner is no address", voucher(func(r *Rule) { r.Owner = "s" }), "owner: the type has no such field"},
		{"channel and nonce", voucher(func(r *Rule) { r.Nonce = "id" }), "not both"},
		{"a channel without a budget", voucher(func(r *Rule) { r.Limit, r.Per = "", "" }), "limit is missing"},
		{"a channel without an amount", voucher(func(r *Rule) { r.Count = "" }), "count is missing"},
		{"an amount that is text", voucher(func(r *Rule) { r.Count = "message.s" }), "want wei"},
		{"a comparison with a number", voucher(func(r *Rule) { r.When = "message.amount > 5" }), "no matching overload"},
		{"no such field", voucher(func(r *Rule) { r.When = "message.x == message.x" }), "undeclared reference"},
		{"of a transaction", voucher(func(r *Rule) { r.When = `tx.value > wei("1")` }), "a message has no tx"},
		{"per target", voucher(func(r *Rule) { r.Target = "0x7777777777777777777777777777777777777777" }),
			"are about transactions"},
		{"a list", voucher(func(r *Rule) { r.List = []string{"0x7777777777777777777777777777777777777777"} }),
			"list is for ready-made rules"},
		{"too short a window", voucher(func(r *Rule) { r.Window = time.Millisecond }), "window"},
		{"sliding without a window", voucher(func(r *Rule) { r.Sliding = true }), "window"},
		{"a text with an amount", Rule{Name: "t", Then: Allow, Type: PersonalType, Count: `wei("1")`},
			"has no domain, fields or amount"},
		{"a ready-made one with a type", Rule{Name: "p", Use: "permit", Domain: domain, Type: "P(address a)"},
			"sets then, type"},
		{"a domain of a rule that denies", Rule{Name: "d", When: "true", Domain: domain},
			`domain is for rules with then = "allow"`},
		{"a bad address", Rule{Name: "p", Use: "permit", Domain: domain, List: []string{"0x1"}}, "list[0]"},
	} {
		_, err := Compile([]Rule{tc.rule})
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", tc.name, err, tc.want)
		}
	}
}

func TestDescribeMessages(t *testing.T) {
	old := []Rule{{Name: "ask", When: "true", Then: Approve}}
	next := []Rule{
		{Name: "ask", When: "true"},
		{Name: "x402", Use: "transfer-with-authorization",
			Domain: map[string]string{"chainId": "1", "verifyingContract": "0x77"}, Per: "account", Limit: "5",
			Window: 24 * time.Hour},
		{Name: "texts", Then: Allow, Type: PersonalType, When: "message.size < 9"},
		{Name: "v", Then: Allow, Type: "V(bytes32 id,uint96 amount)", Channel: "id", Count: "message.amount", Per: "all",
			Limit: "1"},
	}
	want := []string{
		`Rule "ask": denies where true. Before: wants an approval where true.`,
		`New rule "x402": allows transfer-with-authorization in the domain chainId 1, verifyingContract 0x77, at most 5 per account in 24h.`,
		`New rule "texts": allows texts (EIP-191) where message.size < 9.`,
		`New rule "v": allows messages of type V(bytes32 id,uint96 amount), whose message.amount counts once for each id, at most 1 per all.`,
	}
	if got := Diff(old, next); strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// TestCallText has texts of others in a call: nothing of them reaches a terminal unescaped.
func TestCallText(t *testing.T) {
	data := append([]byte{0xa9, 0x05, 0x9c, 0xbb}, make([]byte, 64)...)
	data[35], data[67] = 2, 5
	if got := CallText(data); got != "transfer(address 0x0000000000000000000000000000000000000002, uint256 5)" {
		t.Error(got)
	}
	data[4] = 1 // dirty bits before an address
	if got := CallText(data); !strings.Contains(got, "can't be read") {
		t.Error(got)
	}
	if got := Printable("a\x1b[2J\u202e\"b\\"); got != `a\x1b[2J\u202e"b\\` {
		t.Error(got)
	}
}
