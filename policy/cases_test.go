package policy

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
)

// caseLine is a case with one step that sampleSpec allows; the rest of tx is left to the defaults.
const caseLine = `{"name":"a","chainId":11124,"account":"0x52908400098527886e0f7030069857d2e4169ee7","session":` +
	sampleJSON +
	`,"steps":[{"now":"1728000007","tx":{"to":"0xd1220a0cf47c7b9be7a2e6ba89f429762e7b9adb","gasLimit":"1","maxFeePerGas":"1","value":"60"}}]}`

func TestParseCaseDefaults(t *testing.T) {
	c, err := ParseCase([]byte(caseLine))
	if err != nil {
		t.Fatal(err)
	}
	step := c.Steps[0]
	if step.Tx.From != c.Account || step.Tx.GasPerPubdata.Uint64() != 50_000 || step.PeriodIDs != nil || !c.Created {
		t.Errorf("defaults: %+v", c)
	}
	c, err = ParseCase([]byte(strings.Replace(caseLine, `"now"`, `"periodIds":[],"now"`, 1)))
	if err != nil || c.Steps[0].PeriodIDs == nil {
		t.Errorf("an empty list of period ids is taken for none given: %v, %v", c, err)
	}
	if got := c.Run(validator)[0].Reason; got != "Panic(0x32)" {
		t.Errorf("without period ids: %q", got)
	}
}

func TestParseCaseRefused(t *testing.T) {
	for _, c := range []struct{ old, new, path, msg string }{
		{`"name":"a",`, ``, "name", "missing"},
		{`"name":"a"`, `"name":1`, "name", "must be a string, not a number"},
		{`"chainId":11124`, `"chainId":"main"`, "chainId", errNotInteger.Error()},
		{`"steps"`, `"revoked":true,"steps"`, "", `unknown key "revoked"`},
		{`"now"`, `"revoke":"yes","now"`, "steps[0].revoke", "must be a boolean, not a string"},
		{`"now"`, `"revoke":null,"now"`, "steps[0].revoke", "must be a boolean, not null"},
		{`"now"`, `"periodIds":["-1"],"now"`, "steps[0].periodIds[0]", errNotInteger.Error()},
		{`"gasLimit":"1",`, ``, "steps[0].tx.gasLimit", "missing"},
		{`"value":"60"`, `"data":"0x1"`, "steps[0].tx.data", "must be 0x and an even number of hex digits"},
		{`"value":"60"`, `"data":"00"`, "steps[0].tx.data", "must be 0x and an even number of hex digits"},
		{`"value":"60"`, `"input":"0x"`, "steps[0].tx", `unknown key "input"`},
		{`"condition":1`, `"condition":256`, "session.callPolicies[0].constraints[0].condition",
			"256 is out of range: 0 to 6; known are Unconstrained (0), Equal (1), Greater (2), Less (3), GreaterOrEqual (4), " +
				"LessOrEqual (5) and NotEqual (6)"},
	} {
		_, err := ParseCase([]byte(strings.Replace(caseLine, c.old, c.new, 1)))
		var malformed *JSONError
		if !errors.As(err, &malformed) {
			t.Errorf("%s for %s: %v, want a JSONError", c.new, c.old, err)
			continue
		}
		if diff := cmp.Diff(&JSONError{Path: c.path, Msg: c.msg}, malformed); diff != "" {
			t.Errorf("%s for %s (-want +got):\n%s", c.new, c.old, diff)
		}
	}
}

// The contract's decoder reverts without data on an enum that it does not know.
func TestRunUnknownEnum(t *testing.T) {
	c, err := ParseCase([]byte(strings.Replace(caseLine, `"condition":1`, `"condition":7`, 1)))
	if err != nil {
		t.Fatal(err)
	}
	got := c.Run(validator)[0]
	if got.Allow || got.Reason != "empty" || !strings.Contains(got.Denial.Error(),
		"callPolicies[0].constraints[0].condition") {
		t.Errorf("%+v, %v", got, got.Denial)
	}
}

// No session is open that createSession refuses, or was said to have refused.
func TestRunNotCreated(t *testing.T) {
	for _, c := range []struct{ old, new string }{
		{`"steps"`, `"created":false,"steps"`},
		{`"steps"`, `"createError":"Session already exists","steps"`},
		{`"feeLimit":{"limitType":1`, `"feeLimit":{"limitType":0`},
		{`"now"`, `"revoke":true,"now"`},
	} {
		parsed, err := ParseCase([]byte(strings.Replace(caseLine, c.old, c.new, 1)))
		if err != nil {
			t.Fatal(err)
		}
		if got := parsed.Run(validator)[0].Reason; got != "Session is not active" {
			t.Errorf("%s: %q", c.new, got)
		}
	}
}

func TestRunOfAnotherAccount(t *testing.T) {
	c, err := ParseCase([]byte(strings.Replace(caseLine, `"value"`,
		`"from":"0x0000000000000000000000000000000000000001","value"`, 1)))
	if err != nil {
		t.Fatal(err)
	}
	if got := c.Run(validator)[0].Reason; got != "Session is not active" {
		t.Errorf("another account's transaction: %q", got)
	}
}

func TestReadCases(t *testing.T) {
	input := caseLine + "\n\n  " + strings.Replace(caseLine, `"steps"`, `"stepz"`, 1) + "\r\n{\n" +
		strings.Replace(caseLine, `"a"`, `"b"`, 1)
	var got []string
	for c, err := range ReadCases(iotest.OneByteReader(strings.NewReader(input))) {
		if err != nil {
			got = append(got, err.Error())
			continue
		}
		got = append(got, c.Name)
	}
	want := []string{
		"a",
		`line 3: case "a": unknown key "stepz"`,
		"line 4: not JSON: unexpected end of JSON input at byte 1",
		"b",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("ReadCases (-want +got):\n%s", diff)
	}
}

func TestReadCasesEnds(t *testing.T) {
	broken := errors.New("disk on fire")
	n := 0
	for _, err := range ReadCases(iotest.ErrReader(broken)) {
		n++
		if !errors.Is(err, broken) {
			t.Errorf("error %v, want %v", err, broken)
		}
	}
	for _, err := range ReadCases(bytes.NewReader(make([]byte, maxCaseBytes+1))) {
		n++
		if err == nil || err.Error() != "line 1: longer than 16777216 bytes" {
			t.Errorf("a long line: %v", err)
		}
	}
	for range ReadCases(strings.NewReader(caseLine + "\n" + caseLine)) {
		n++
		break
	}
	if n != 3 {
		t.Errorf("%d turns, want 3", n)
	}
}

func TestStepResultJSON(t *testing.T) {
	c, err := ParseCase([]byte(caseLine))
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(c.Run(validator)[0])
	want := `{"case":"a","step":0,"allow":true,"reason":"","sessionHash":"` + c.Session.Hash().String() + `"}`
	if err != nil || string(text) != want {
		t.Errorf("JSON %s, %v; want %s", text, err, want)
	}
}

func BenchmarkRunVectors(b *testing.B) {
	data := vectors(b)
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		for c, err := range ReadCases(bytes.NewReader(data)) {
			if err != nil {
				b.Fatal(err)
			}
			c.Run(validator)
		}
	}
}
