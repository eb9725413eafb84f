package policy

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/holiman/uint256"
)

// sampleJSON has every part of a spec, as MarshalJSON writes it.
const sampleJSON = `{"signer":"0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed","expiresAt":"1796429380",` +
	`"feeLimit":{"limitType":1,"limit":"5000000000000000","period":"0"},` +
	`"callPolicies":[{"target":"0xfB6916095ca1df60bB79Ce92cE3Ea74c37c5d359","selector":"0x40c10f19",` +
	`"maxValuePerUse":"0","valueLimit":{"limitType":0,"limit":"0","period":"0"},"constraints":[` +
	`{"condition":1,"index":"0","refValue":"0x000000000000000000000000dbf03b407c01e7cd3cbea99509d93f8dddc8c6fb",` +
	`"limit":{"limitType":0,"limit":"0","period":"0"}},` +
	`{"condition":0,"index":"1","refValue":"0x0000000000000000000000000000000000000000000000000000000000000000",` +
	`"limit":{"limitType":2,"limit":"5","period":"86400"}}]}],` +
	`"transferPolicies":[{"target":"0xD1220A0cf47c7B9Be7A2E6BA89F429762e7b9aDb","maxValuePerUse":"100",` +
	`"valueLimit":{"limitType":2,"limit":"1000","period":"3600"}}]}`

func sampleSpec() *Spec {
	party := mustAddress("0xdbF03B407c01E7cD3CBea99509d93f8DDDC8C6FB")
	var refValue Hash
	copy(refValue[12:], party[:])
	return &Spec{
		Signer:    mustAddress("0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed"),
		ExpiresAt: *uint256.NewInt(1796429380),
		FeeLimit:  UsageLimit{LimitType: Lifetime, Limit: *uint256.NewInt(5e15)},
		CallPolicies: []CallSpec{{
			Target:   mustAddress("0xfB6916095ca1df60bB79Ce92cE3Ea74c37c5d359"),
			Selector: Selector{0x40, 0xc1, 0x0f, 0x19},
			Constraints: []Constraint{
				{Condition: Equal, RefValue: refValue},
				{Index: 1, Limit: UsageLimit{Allowance, *uint256.NewInt(5), *uint256.NewInt(86400)}},
			},
		}},
		TransferPolicies: []TransferSpec{{
			Target:         mustAddress("0xD1220A0cf47c7B9Be7A2E6BA89F429762e7b9aDb"),
			MaxValuePerUse: *uint256.NewInt(100),
			ValueLimit:     UsageLimit{Allowance, *uint256.NewInt(1000), *uint256.NewInt(3600)},
		}},
	}
}

func TestParseSpec(t *testing.T) {
	got, err := ParseSpec([]byte(sampleJSON), true)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(sampleSpec(), got); diff != "" {
		t.Errorf("ParseSpec (-want +got):\n%s", diff)
	}
	for _, v := range []any{got, *got} {
		if text, err := json.Marshal(v); err != nil || string(text) != sampleJSON {
			t.Errorf("Marshal(%T) = %s, %v; want %s", v, text, err, sampleJSON)
		}
	}
	var viaJSON Spec
	if err := json.Unmarshal([]byte(sampleJSON), &viaJSON); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(*got, viaJSON); diff != "" {
		t.Errorf("json.Unmarshal (-ParseSpec +got):\n%s", diff)
	}
}

// Each edit is another way to write the same spec.
func TestParseSpecForms(t *testing.T) {
	for _, c := range []struct{ old, new string }{
		{`"expiresAt":"1796429380"`, `"expiresAt":1796429380`},
		{`"expiresAt":"1796429380"`, `"expiresAt":"0x6b135644"`},
		{`"limit":"5000000000000000"`, `"limit":5000000000000000`},
		{`"limitType":1`, `"limitType":"Lifetime"`},
		{`"limitType":2`, `"limitType":"Allowance"`},
		{`"limitType":0`, `"limitType":"Unlimited"`},
		{`"condition":1`, `"condition":"Equal"`},
		{`"condition":0`, `"condition":"Unconstrained"`},
		{`"index":"1"`, `"index":1`},
		{`0x40c10f19`, `0x40C10F19`},
		{`0xfB6916095ca1df60bB79Ce92cE3Ea74c37c5d359`, `0xfb6916095ca1df60bb79ce92ce3ea74c37c5d359`},
		{`"signer"`, "\n\t \"s\\u0069gner\" "},
		{`}`, " }\r\n"},
	} {
		text := edit(t, c.old, c.new)
		got, err := ParseSpec([]byte(text), true)
		if err != nil {
			t.Errorf("%s for %s: %v", c.new, c.old, err)
			continue
		}
		if diff := cmp.Diff(sampleSpec(), got); diff != "" {
			t.Errorf("%s for %s (-want +got):\n%s", c.new, c.old, diff)
		}
	}
}

func edit(t *testing.T, old, new string) string {
	t.Helper()
	if !strings.Contains(sampleJSON, old) {
		t.Fatalf("the sample has no %s", old)
	}
	return strings.ReplaceAll(sampleJSON, old, new)
}

func TestParseSpecConditionNames(t *testing.T) {
	for name, want := range map[string]Condition{
		"Unconstrained": Unconstrained, "Equal": Equal, "Greater": Greater, "Less": Less, "NotEqual": NotEqual,
		"GreaterOrEqual": GreaterOrEqual, "GreaterEqual": GreaterOrEqual, "LessOrEqual": LessOrEqual,
		"LessEqual": LessOrEqual,
	} {
		got, err := ParseSpec([]byte(edit(t, `"condition":1`, `"condition":"`+name+`"`)), true)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if c := got.CallPolicies[0].Constraints[0].Condition; c != want {
			t.Errorf("%s is %v, want %v", name, c, want)
		}
	}
}

const knownConditions = "known are Unconstrained (0), Equal (1), Greater (2), Less (3), GreaterOrEqual (4), " +
	"LessOrEqual (5) and NotEqual (6)"

func TestParseSpecRefused(t *testing.T) {
	for _, c := range []struct{ name, old, new, path, msg string }{
		{"unknown key", `"expiresAt"`, `"note":1,"expiresAt"`, "",
			`unknown key "note"; known are signer, expiresAt, feeLimit, callPolicies and transferPolicies`},
		{"other case", `"feeLimit"`, `"feelimit"`, "", `unknown key "feelimit"; did you mean "feeLimit"?`},
		{"nested unknown key", `"limitType":1`, `"limitType":1,"x":0`, "feeLimit",
			`unknown key "x"; known are limitType, limit and period`},
		{"duplicate", `"expiresAt"`, `"expiresAt":"1","expiresAt"`, "", `key "expiresAt" is given twice`},
		{"escaped duplicate", `"expiresAt"`, `"\u0065xpiresAt":"1","expiresAt"`, "", `key "expiresAt" is given twice`},
		{"nested duplicate", `"index":"1"`, `"index":"1","index":"1"`, "callPolicies[0].constraints[1]",
			`key "index" is given twice`},
		{"no signer", `"signer":"0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed",`, ``, "signer", "missing"},
		{"no refValue", `,"refValue":"0x0000000000000000000000000000000000000000000000000000000000000000"`, ``,
			"callPolicies[0].constraints[1].refValue", "missing"},
		{"no period", `,"period":"3600"`, ``, "transferPolicies[0].valueLimit.period", "missing"},
		{"null signer", `"0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed"`, `null`, "signer", "must be a string, not null"},
		{"empty signer", `0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed`, ``, "signer",
			`must be 0x and 40 hex digits; found ""`},
		{"checksum", `0x5aAe`, `0x5AAe`, "signer", `mixed-case address with a wrong EIP-55 checksum; found "0x5AAeb6053F3E94C9b9A09f33669435E7Ef1BeAed"`},
		{"exponent", `"limit":"1000"`, `"limit":1e3`, "transferPolicies[0].valueLimit.limit", errNotExact.Error() +
			"; found 1e3"},
		{"fraction", `"limit":"1000"`, `"limit":1000.0`, "transferPolicies[0].valueLimit.limit", errNotExact.Error() +
			"; found 1000.0"},
		{"negative", `"limit":"1000"`, `"limit":-1000`, "transferPolicies[0].valueLimit.limit", errNotExact.Error() +
			"; found -1000"},
		{"boolean for integer", `"limit":"1000"`, `"limit":true`, "transferPolicies[0].valueLimit.limit",
			"must be an integer, not true"},
		{"wide index", `"index":"1"`, `"index":"18446744073709551616"`, "callPolicies[0].constraints[1].index",
			`does not fit into 64 bits; found "18446744073709551616"`},
		{"limitType 3", `"limitType":1`, `"limitType":3`, "feeLimit.limitType",
			"3 is out of range: 0 to 2; known are Unlimited (0), Lifetime (1) and Allowance (2)"},
		{"condition 7", `"condition":1`, `"condition":7`, "callPolicies[0].constraints[0].condition",
			"7 is out of range: 0 to 6; " + knownConditions},
		{"condition 256", `"condition":1`, `"condition":256`, "callPolicies[0].constraints[0].condition",
			"256 is out of range: 0 to 6; " + knownConditions},
		{"enum's name", `"condition":1`, `"condition":"equals"`, "callPolicies[0].constraints[0].condition",
			`unknown name "equals"; ` + knownConditions},
		{"enum in text", `"condition":1`, `"condition":"9"`, "callPolicies[0].constraints[0].condition",
			`"9" is out of range: 0 to 6; ` + knownConditions},
		{"null enum", `"condition":1`, `"condition":null`, "callPolicies[0].constraints[0].condition",
			"must be a number or a name, not null; " + knownConditions},
		{"short selector", `0x40c10f19`, `0x40c10f`, "callPolicies[0].selector",
			`must be 0x and 8 hex digits, or a signature such as mint(address,uint256); found "0x40c10f"`},
		{"bad signature", `0x40c10f19`, `mint(adress)`, "callPolicies[0].selector",
			`unknown type "adress" in the signature: write a contract as address, an enum as uint8, and a struct as the tuple of its members`},
		{"deep", `"expiresAt":"1796429380"`, `"expiresAt":` + strings.Repeat("[", 20) + strings.Repeat("]", 20),
			"expiresAt" + strings.Repeat("[0]", 16), "nested deeper than 16 levels"},
	} {
		t.Run(c.name, func(t *testing.T) {
			wantSpecError(t, edit(t, c.old, c.new), c.path, c.msg)
		})
	}
}

func TestParseSpecRefusedDocuments(t *testing.T) {
	for _, c := range []struct{ name, text, msg string }{
		{"empty", "", "not JSON: unexpected end of JSON input at byte 0"},
		{"cut off", sampleJSON[:100], "not JSON: unexpected end of JSON input at byte 100"},
		{"trailing data", sampleJSON + "{}", "not JSON: invalid character '{' after top-level value at byte 814"},
		{"not UTF-8", strings.Replace(sampleJSON, "signer", "sign\xffer", 1), "not JSON: not UTF-8"},
		{"null", "null", "must be an object, not null"},
		{"array", "[" + sampleJSON + "]", "must be an object, not an array"},
		{"long", sampleJSON + strings.Repeat(" ", maxSpecBytes), "longer than 1048576 bytes"},
		{"many keys", tooManyKeysText(), "an object has more than 64 keys"},
	} {
		t.Run(c.name, func(t *testing.T) { wantSpecError(t, c.text, "", c.msg) })
	}
}

func tooManyKeysText() string {
	var b strings.Builder
	for i := range maxMembers + 1 {
		b.WriteString(`,"` + strings.Repeat("k", i+1) + `":0`)
	}
	return "{" + b.String()[1:] + "}"
}

func wantSpecError(t *testing.T, text, path, msg string) {
	t.Helper()
	spec, err := ParseSpec([]byte(text), true)
	var malformed *JSONError
	if !errors.As(err, &malformed) {
		t.Fatalf("ParseSpec = %+v, %v; want a JSONError", spec, err)
	}
	if diff := cmp.Diff(&JSONError{Path: path, Msg: msg}, malformed); diff != "" {
		t.Errorf("error (-want +got):\n%s", diff)
	}
}

// Absent, null, empty and another type differ.
func TestParseSpecArrays(t *testing.T) {
	head, _, _ := strings.Cut(sampleJSON, `,"transferPolicies"`)
	wantSpecError(t, head+`}`, "transferPolicies", "missing")
	wantSpecError(t, head+`,"transferPolicies":null}`, "transferPolicies", "must be an array, not null")
	wantSpecError(t, head+`,"transferPolicies":{}}`, "transferPolicies", "must be an array, not an object")
	wantSpecError(t, head+`,"transferPolicies":[null]}`, "transferPolicies[0]", "must be an object, not null")
	spec, err := ParseSpec([]byte(head+`,"transferPolicies":[]}`), true)
	if err != nil || len(spec.TransferPolicies) != 0 {
		t.Errorf("an empty array gives %v, %v", spec, err)
	}
}

func TestParseSpecWithoutSigner(t *testing.T) {
	spec, err := ParseSpec([]byte(edit(t, `"signer":"0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed",`, "")), false)
	if err != nil || !spec.Signer.IsZero() {
		t.Fatalf("ParseSpec = %v, %v", spec, err)
	}
	spec, err = ParseSpec([]byte(sampleJSON), false)
	if err != nil || spec.Signer != sampleSpec().Signer {
		t.Errorf("ParseSpec = %v, %v; a signer that is given is kept", spec, err)
	}
	if _, err := ParseSpec([]byte(edit(t, `"0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed"`, "null")), false); err == nil {
		t.Error("a null signer is taken for an absent one")
	}
}

func TestSpecWithoutPoliciesIsWrittenWithEmptyArrays(t *testing.T) {
	text, err := json.Marshal(Spec{CallPolicies: []CallSpec{{}}})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"constraints":[]`, `"transferPolicies":[]`} {
		if !strings.Contains(string(text), want) {
			t.Errorf("%s lacks %s", text, want)
		}
	}
	if _, err := ParseSpec(text, true); err != nil {
		t.Error(err)
	}
}
