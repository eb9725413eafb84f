package rules

import (
	"strings"
	"testing"
)

const caseText = `{"name":"n","now":"2026-11-28T10:00:00Z","want":"allow","transaction":{"from":"0x1111111111111111111111111111111111111111",` +
	`"to":"0x2222222222222222222222222222222222222222","chainId":1,"nonce":5,"gas":"1","maxFeePerGas":"1"}}`

func TestReadCases(t *testing.T) {
	cases, err := ReadCases([]byte("[" + caseText + "]"))
	if err != nil || len(cases) != 1 {
		t.Fatal(cases, err)
	}
	in := cases[0].Input(2)
	if in.Tx.Nonce != 7 || in.Session.Kind != "agw" || in.Session.Account != in.Tx.From || cases[0].Requests() != 1 {
		t.Errorf("%+v", in)
	}
	if again := cases[0].Input(0); again.Tx.Nonce != 5 {
		t.Errorf("the first request has nonce %d after the third was made", again.Tx.Nonce)
	}
	for change, want := range map[string]string{
		``:                              "found 0 cases",
		`"name":"n"|"name":""`:          "it has no name",
		`"want":"allow"|"want":"maybe"`: `want is "maybe"`,
		`"want":"allow"|"want":"allow","rule":"x"`:                  "a rule is named",
		`"want":"allow"|"want":"deny","repeat":-1`:                  "repeat is -1",
		`"want":"allow"|"want":"deny","wanted":1`:                   `unknown field "wanted"`,
		`"nonce":5|"nonse":5`:                                       "transaction: nonse: unknown field",
		`"nonce":5,|`:                                               "transaction: nonce: missing",
		`"now":"2026-11-28T10:00:00Z",|`:                            "now is missing",
		`"want":"allow"|"want":"allow","session":{"kind":"gnosis"}`: `session.kind is "gnosis"`,
	} {
		text := "[" + caseText + "]"
		if change == "" {
			text = "[]"
		}
		before, after, _ := strings.Cut(change, "|")
		if change != "" && !strings.Contains(text, before) {
			t.Fatalf("%q is not in the case", before)
		}
		if _, err := ReadCases([]byte(strings.Replace(text, before, after, 1))); err == nil ||
			!strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", change, err, want)
		}
	}
	for _, text := range []string{"", "{}", "[[case]]\nname = 1\n", "[[cases]]\nname = \"x\"\n", "[1]", "\xff"} {
		if _, err := ReadCases([]byte(text)); err == nil {
			t.Errorf("%q was read", text)
		}
	}
}

func TestDiff(t *testing.T) {
	a := Rule{Name: "a", When: "true", Message: "m"}
	b := Rule{Name: "b", Count: "tx.value", When: "false", Function: "f(uint256 x)", Per: "all", Limit: "1 ether",
		Window: 90 * 60e9, Sliding: true}
	if got := Diff([]Rule{a, b}, []Rule{a, b}); got != nil {
		t.Errorf("no change: %q", got)
	}
	if got := Diff([]Rule{a, b}, []Rule{b, a}); len(got) != 1 || got[0] != "The rules apply in another order." {
		t.Errorf("another order: %q", got)
	}
	want := `New rule "b": for calls of f(uint256 x), counts tx.value, at most 1 ether per all in 1h30m before now where false.`
	if got := Diff(nil, []Rule{b}); len(got) != 1 || got[0] != want {
		t.Errorf("%q, want %q", got, want)
	}
}
