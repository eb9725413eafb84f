package policy

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/holiman/uint256"
)

// without calls f with the document less one member, for each member there is.
func without(t *testing.T, doc string, f func(path, less string)) {
	t.Helper()
	var root any
	if err := json.Unmarshal([]byte(doc), &root); err != nil {
		t.Fatal(err)
	}
	var walk func(v any, path string)
	walk = func(v any, path string) {
		switch v := v.(type) {
		case map[string]any:
			for _, key := range slices.Sorted(maps.Keys(v)) {
				member := v[key]
				delete(v, key)
				less, err := json.Marshal(root)
				if err != nil {
					t.Fatal(err)
				}
				f(path+"."+key, string(less))
				v[key] = member
				walk(member, path+"."+key)
			}
		case []any:
			for i, item := range v {
				walk(item, fmt.Sprintf("%s[%d]", path, i))
			}
		}
	}
	walk(root, "")
}

// Whatever is missing of a case, the parser says that it is missing or does without: it never fails for it.
func TestParseCaseWithoutAMember(t *testing.T) {
	optional := []string{".steps[0].tx.value"}
	without(t, caseLine, func(path, less string) {
		_, err := ParseCase([]byte(less))
		if slices.Contains(optional, path) != (err == nil) {
			t.Errorf("without %s: %v", path, err)
		}
		var malformed *JSONError
		if err != nil && (!errors.As(err, &malformed) || "."+malformed.Path != path || malformed.Msg != "missing") {
			t.Errorf("without %s: %v, want it missing", path, err)
		}
	})
}

func TestParseCaseReadsTheNonce(t *testing.T) {
	c, err := ParseCase([]byte(strings.Replace(caseLine, `"value":"60"`, `"value":"60","nonce":7`, 1)))
	if err != nil || c.Steps[0].Tx.Nonce != 7 {
		t.Errorf("a case with the nonce 7: %+v, %v", c, err)
	}
}

// An error shows what a key can't be.
func TestFoundShowsWhatIsShort(t *testing.T) {
	for n, want := range map[int]string{maxShown: strings.Repeat("1", maxShown), maxShown +
		1: "a number of 43 characters"} {
		if got := found(&jsonNode{Kind: KindNumber, Text: strings.Repeat("1", n)}); got != want {
			t.Errorf("found(a number of %d digits) = %s, want %s", n, got, want)
		}
	}
}

// The contract computes where a word begins in 64 bits; the last index that it can is beyond any calldata.
func TestWordAtTheEndOf64Bits(t *testing.T) {
	c := &check{tx: &Call{Data: make([]byte, 4+2*word)}}
	last := uint64(math.MaxUint64-4) / word
	for index, want := range map[uint64]string{1: "", 2: ReasonCalldataTooShort, last: ReasonCalldataTooShort, last +
		1: ReasonOverflow} {
		_, denial := c.word(index)
		if got := denial; (got == nil) != (want == "") || got != nil && got.Reason != want {
			t.Errorf("word(%d) = %+v, want the reason %q", index, got, want)
		}
	}
}

// In a session that is over, and in periods of no length, nothing can be counted.
func TestNoPeriods(t *testing.T) {
	open, over := span{from: 10, until: *uint256.NewInt(99)}, span{from: 10, until: *uint256.NewInt(9)}
	if got := open.periods(uint256.NewInt(7)); got == (bound{}) {
		t.Error("an open session has no period of 7 seconds")
	}
	if got := open.periods(new(uint256.Int)); got != (bound{}) {
		t.Errorf("periods of 0 seconds: %+v, want none", got)
	}
	if got := over.periods(uint256.NewInt(7)); got != (bound{}) {
		t.Errorf("a session that is over has periods: %+v", got)
	}
}

// superjson's paths may lead nowhere, at any step.
func TestAtPathThatEnds(t *testing.T) {
	v, err := parseJSON([]byte(`{"a":{"b":[{"c":1}]}}`), 1<<10, 10)
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]bool{"a.b.0.c": true, "a.b.0": true, "x": false, "x.y": false, "x.y.z": false,
		"a.b.1.c": false, "a.b.00.c": false, "a.b.0.c.d.e": false} {
		if got := atPath(v, path); (got != nil) != want {
			t.Errorf("atPath(%q) = %v, want a value: %v", path, got, want)
		}
	}
}

func TestWordRangeString(t *testing.T) {
	word := func(low uint64, high *uint256.Int) string {
		w := &wordRange{}
		w.low.SetUint64(low)
		w.high.Set(high)
		return w.String()
	}
	endless := new(uint256.Int).SetAllOne()
	if got := word(7, uint256.NewInt(7)); got != "7" {
		t.Errorf("7 to 7 is %q", got)
	}
	if got := word(0, endless); got != "any" {
		t.Errorf("all words are %q", got)
	}
	if got := word(3, uint256.NewInt(9)); !strings.Contains(got, "3") || !strings.Contains(got, "9") {
		t.Errorf("3 to 9 is %q", got)
	}
}

// A transferFrom may move an NFT instead of an amount, and the risk says so.
func TestRiskSaysThatItMayBeAnNFT(t *testing.T) {
	risk := tokenSpec(t, "transferFrom(address,address,uint256)", equal(2, 5)).Risk(sampleNow)
	if why := risk.Rows[len(risk.Rows)-1].Why; !strings.Contains(why, "if it is an NFT, the tokens with ids 5") {
		t.Errorf("why %q, without the NFT", why)
	}
}

// A type needs a name: digits alone are none.
func TestParseSignatureOfTypesWithoutAName(t *testing.T) {
	for _, bad := range []string{"f(128x18)", "f(u128x18)", "f(8x0)"} {
		if got, err := ParseSignature(bad); err == nil {
			t.Errorf("ParseSignature(%q) = %q", bad, got)
		}
	}
	if got, err := ParseSignature("f(fixed128x18,ufixed8x0)"); err != nil {
		t.Errorf("ParseSignature of fixed numbers = %q, %v", got, err)
	}
}

// An operator's longest life of a session may be a second.
func TestWarnsOfALifeBeyondASecond(t *testing.T) {
	spec := quietSpec(Selector{0x40, 0xc1, 0x0f, 0x19}, equal(0, 9))
	for most, want := range map[uint64]bool{0: false, 1: true} {
		got := slices.ContainsFunc(warningsOf(spec, WarningRules{Now: sampleNow, MaxLifetime: most}),
			func(w string) bool { return strings.Contains(w, WarnExpiryTooFar) })
		if got != want {
			t.Errorf("with a longest life of %d seconds (0: none): a warning %v, want %v", most, got, want)
		}
	}
}
