package policy

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// formFile is sampleSpec as a library has written it; see testdata/forms/README.md.
func formFile(t testing.TB, name string) string {
	t.Helper()
	data, err := os.ReadFile("testdata/forms/" + name + ".json")
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

var formFiles = []string{"superjson", "superjsonSession", "wagmi", "ox", "n", "bigint"}

// What libraries write is the same spec, and what is printed of it is read again as the same.
func TestParseSpecOfLibraries(t *testing.T) {
	for _, name := range formFiles {
		got, err := ParseSpec([]byte(formFile(t, name)), true)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if diff := cmp.Diff(sampleSpec(), got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		if text, err := json.Marshal(got); err != nil || string(text) != sampleJSON {
			t.Errorf("%s is printed as %s, %v", name, text, err)
		}
	}
}

// Each form goes wherever an integer stands.
func TestParseSpecIntegerForms(t *testing.T) {
	places := []string{
		`"expiresAt":"1796429380"`, `"limit":"5000000000000000"`, `"period":"86400"`, `"maxValuePerUse":"100"`, `"index":"1"`,
		`"limitType":2`, `"condition":1`, `"limit":"5","period"`,
	}
	for _, place := range places {
		key, rest, _ := strings.Cut(place, ":")
		digits, after, _ := strings.Cut(rest, ",")
		digits = strings.Trim(digits, `"`)
		if after != "" {
			after = "," + after
		}
		for _, form := range []string{
			digits, `"` + digits + `"`, `"` + digits + `n"`, `"__bigint__` + digits + `"`,
			`{"__type":"bigint","value":"` + digits + `"}`, ` { "value" : "` + digits + `", "__type":"big\u0069nt" } `,
		} {
			got, err := ParseSpec([]byte(edit(t, place, key+":"+form+after)), true)
			if err != nil {
				t.Errorf("%s:%s: %v", key, form, err)
			} else if diff := cmp.Diff(sampleSpec(), got); diff != "" {
				t.Errorf("%s:%s (-want +got):\n%s", key, form, diff)
			}
		}
		for _, form := range []string{
			`"` + digits + `nn"`, `"n"`, `"0` + digits + `n"`, `"-1n"`, `"0x1n"`, `"__bigint__"`, `"__bigint__0x1"`,
			`"__bigint__1n"`, `"__bigint__-1"`,
			`"` + digits + `N"`, `"#bigint.` + digits + `"`, `{"__type":"bigint","value":` + digits + `}`, `{"__type":"bigint"}`,
			`{"__type":"Map","value":"1"}`,
			`{"__type":"bigint","value":"1","x":1}`, `{"__type":"bigint","value":"1n"}`, `{"$bigint":"1"}`,
			`{"type":"bigint","value":"1"}`,
			`1.0`, `1e3`, `-1`, `null`, `true`, `[1]`, `""`, `" 1"`,
		} {
			if got, err := ParseSpec([]byte(edit(t, place, key+":"+form+after)), true); err == nil {
				t.Errorf("%s:%s is read as %+v", key, form, got)
			}
		}
	}
}

func TestParseSpecEnumNames(t *testing.T) {
	for name, want := range map[string]Condition{
		"equal": Equal, "EQUAL": Equal, "notEqual": NotEqual, "not_equal": NotEqual, "NOT-EQUAL": NotEqual,
		"unconstrained":  Unconstrained,
		"greaterOrEqual": GreaterOrEqual, "GREATER_OR_EQUAL": GreaterOrEqual, "greater equal": GreaterOrEqual,
		"lessEqual": LessOrEqual,
	} {
		got, err := ParseSpec([]byte(edit(t, `"condition":1`, `"condition":"`+name+`"`)), true)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if c := got.CallPolicies[0].Constraints[0].Condition; c != want {
			t.Errorf("%s is %v, want %v", name, c, want)
		}
	}
	for name, want := range map[string]LimitType{"lifetime": Lifetime, "LIFETIME": Lifetime, "allowance": Allowance,
		"unlimited": Unlimited} {
		got, err := ParseSpec([]byte(edit(t, `"limitType":1`, `"limitType":"`+name+`"`)), true)
		if err != nil || got.FeeLimit.LimitType != want {
			t.Errorf("%s is %+v, %v, want %v", name, got, err, want)
		}
	}
}

func TestReadSpecNamesSelectors(t *testing.T) {
	text := edit(t, `0x40c10f19`, `function mint(address to, uint amount) external`)
	spec, named, err := ReadSpec([]byte(`{"json":{"session":`+text+`}}`), true)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(sampleSpec(), spec); diff != "" {
		t.Errorf("spec (-want +got):\n%s", diff)
	}
	want := []NamedSelector{{"json.session.callPolicies[0].selector", "mint(address,uint256)",
		Selector{0x40, 0xc1, 0x0f, 0x19}}}
	if diff := cmp.Diff(want, named); diff != "" {
		t.Errorf("named (-want +got):\n%s", diff)
	}
	if _, named, err := ReadSpec([]byte(sampleJSON), true); err != nil || named != nil {
		t.Errorf("a selector in hex is named %v, %v", named, err)
	}
}

func TestParseSpecSuperjsonRefused(t *testing.T) {
	whole := formFile(t, "superjson")
	for _, c := range []struct{ old, new, path, msg string }{
		{`"expiresAt":["bigint"]`, `"expiresAt":["Date"]`, `meta.values."expiresAt"`,
			`is of type "Date": a spec has no values but those of JSON and "bigint"`},
		{`"expiresAt":["bigint"]`, `"expiresAt":["undefined"]`, `meta.values."expiresAt"`, `is of type "undefined"`},
		{`"expiresAt":["bigint"]`, `"expiresAt":[["custom","X"]]`, `meta.values."expiresAt"`, `must be ["bigint"]`},
		{`"expiresAt":["bigint"]`, `"expiresAt":["bigint",{}]`, `meta.values."expiresAt"`, `must be ["bigint"]`},
		{`"expiresAt":["bigint"]`, `"expiresAt":"bigint"`, `meta.values."expiresAt"`, `must be ["bigint"]`},
		{`"expiresAt":["bigint"]`, `"expires":["bigint"]`, `meta.values."expires"`, `there is no such path in "json"`},
		{`"expiresAt":["bigint"]`, `"":["bigint"]`, `meta.values.""`, `there is no such path`},
		{`"callPolicies.0.maxValuePerUse":["bigint"]`, `"callPolicies.1.maxValuePerUse":["bigint"]`,
			`meta.values."callPolicies.1.maxValuePerUse"`, `there is no such path`},
		{`"callPolicies.0.maxValuePerUse":["bigint"]`, `"callPolicies.00.maxValuePerUse":["bigint"]`,
			`meta.values."callPolicies.00.maxValuePerUse"`, `there is no such path`},
		{`"callPolicies.0.maxValuePerUse":["bigint"]`, `"callPolicies.0":["bigint"]`, `meta.values."callPolicies.0"`,
			`is no decimal string: an object`},
		{`"expiresAt":"1796429380"`, `"expiresAt":1796429380`, `meta.values."expiresAt"`, `is no decimal string: 1796429380`},
		{`"expiresAt":"1796429380"`, `"expiresAt":"0x6b135644"`, `meta.values."expiresAt"`,
			`is no decimal string: "0x6b135644"`},
		{`"values":{`, `"x":{`, `meta`, `unknown key "x"; known are values, referentialEqualities and v`},
		{`"values":{`, `"values":["bigint"],"referentialEqualities":{},"values2":{`, `meta`, `is given twice`},
		{`"referentialEqualities":{`, `"referentialEqualities":[["signer"]],"r":{`, `meta`, `unknown key "r"`},
		{`"v":1`, `"v":2`, `meta.v`, `2 is no version`},
		{`"meta":`, `"metas":`, ``, `unknown key "metas"; known are json and meta`},
		{`"meta":{`, `"meta":null,"m":{`, ``, `unknown key "m"`},
		{`"callPolicies.0.valueLimit":["callPolicies.0.constraints.0.limit"]`,
			`"callPolicies.0.valueLimit":["callPolicies.0.constraints.1.limit"]`,
			`meta.referentialEqualities."callPolicies.0.valueLimit"`,
			`"callPolicies.0.constraints.1.limit" has another value in "json"`},
		{`"callPolicies.0.valueLimit":["callPolicies.0.constraints.0.limit"]`,
			`"callPolicies.0.valueLimit":["callPolicies.0.limit"]`,
			`meta.referentialEqualities."callPolicies.0.valueLimit"`, `there is no path "callPolicies.0.limit" in "json"`},
		{`"callPolicies.0.valueLimit":["callPolicies.0.constraints.0.limit"]`, `"callPolicies.0.valueLimit":"x"`,
			`meta.referentialEqualities."callPolicies.0.valueLimit"`, `must be an array of paths, not "x"`},
		{`"signer":`, `"sign":`, `json`, `unknown key "sign"; known are signer`},
		{`"period":"86400"`, `"period":"-86400"`, `meta.values."callPolicies.0.constraints.1.limit.period"`,
			`is no decimal string: "-86400"`},
	} {
		if !strings.Contains(whole, c.old) {
			t.Fatalf("the file has no %s", c.old)
		}
		wantSpecErrorWith(t, strings.Replace(whole, c.old, c.new, 1), c.path, c.msg)
	}
	for _, list := range []string{"values", "referentialEqualities"} {
		wantSpecErrorWith(t, `{"json":`+sampleJSON+`,"meta":{"`+list+`":["bigint"]}}`, "meta."+list,
			"must be an object of paths, not an array")
	}
	wantSpecErrorWith(t, formFile(t, "dedupe"), `meta.referentialEqualities."feeLimit.period"`,
		`superjson's option "dedupe" has left its value out`)
	wantSpecErrorWith(t, `{"json":`+strings.Repeat(`{"json":`, 20)+"1"+strings.Repeat("}", 21),
		strings.Repeat(".json", 17)[1:], "nested deeper than 16 levels")
}

func wantSpecErrorWith(t *testing.T, text, path, msg string) {
	t.Helper()
	_, err := ParseSpec([]byte(text), false)
	var malformed *JSONError
	if !errors.As(err, &malformed) || malformed.Path != path || !strings.Contains(malformed.Msg, msg) {
		t.Errorf("%.80s...\n%v, want %s: %s", text, err, path, msg)
	}
}

// superjson names each bigint, so a spec of some size has more paths than an object of a spec has keys.
func TestParseSpecSuperjsonOfManyPaths(t *testing.T) {
	var policies, paths []string
	for i := range 200 {
		policies = append(policies, `{"target":"0xD1220A0cf47c7B9Be7A2E6BA89F429762e7b9aDb","maxValuePerUse":"1","valueLimit":{"limitType":1,"limit":"1","period":"0"}}`)
		paths = append(paths, fmt.Sprintf(`"transferPolicies.%d.maxValuePerUse":["bigint"]`, i))
	}
	head, _, _ := strings.Cut(sampleJSON, `"transferPolicies"`)
	text := `{"json":` + head + `"transferPolicies":[` + strings.Join(policies, ",") + `]},"meta":{"values":{` +
		strings.Join(paths, ",") + `},"v":1}}`
	spec, err := ParseSpec([]byte(text), true)
	if err != nil || len(spec.TransferPolicies) != 200 {
		t.Errorf("%v", err)
	}
}

const testKey = "4c0883a69102937d6231471b5dbb6204fe5129617082792ae468d01a3f362318"

// A private key is refused wherever it is, and is never in an error.
func TestParseSpecRefusesPrivateKeys(t *testing.T) {
	named := func(m string) string {
		return fmt.Sprintf("what the file has at %q is a private key: delete it from the file", m)
	}
	for _, c := range []struct{ text, path, msg string }{
		{`{"session":` + sampleJSON + `,"privateKey":"0x` + testKey + `"}`, "", named("privateKey")},
		{`{"privateKey":"0x` + testKey + `","session":{}}`, "", named("privateKey")},
		{`{"session":` + sampleJSON + `,"PRIVATE_KEY":"` + testKey + `"}`, "", named("PRIVATE_KEY")},
		{`{"session":` + sampleJSON + `,"sessionPrivateKey":null}`, "", named("sessionPrivateKey")},
		{`{"session":` + sampleJSON + `,"session-key":{"a":1}}`, "", named("session-key")},
		{`{"session":` + sampleJSON + `,"mnemonic":"test test test"}`, "", named("mnemonic")},
		{`{"json":{"session":` + sampleJSON + `,"privateKey":"0x` + testKey + `"},"meta":{}}`, "json", named("privateKey")},
		{`[{"privateKey":"0x` + testKey + `"}]`, "[0]", named("privateKey")},
		{edit(t, `"period":"3600"`, `"period":"3600","privateKey":"0x`+testKey+`"`), "transferPolicies[0].valueLimit",
			named("privateKey")},
		{edit(t, `"expiresAt"`, `"pk":"0x`+testKey+`","expiresAt"`), "", `"pk" could be a private key: delete it`},
		{edit(t, `"expiresAt"`, `"pk":" `+strings.ToUpper(testKey)+` ","expiresAt"`), "",
			`"pk" could be a private key: delete it`},
		{edit(t, `"expiresAt"`, `"note":"`+testKey[:40]+`","expiresAt"`), "", `unknown key "note"; known are`},
		{edit(t, `"expiresAt"`, `"sessionHash":"0x`+testKey+`","expiresAt"`), "", `unknown key "sessionHash"; known are`},
		{edit(t, `"expiresAt"`, `"`+testKey+`":1,"expiresAt"`), "",
			`the name of a member, a text of 64 characters, could be a private key: delete it`},
		{edit(t, `"expiresAt"`, `"`+testKey+`":{"secret":1},"expiresAt"`), "",
			`the name of a member, a text of 64 characters, could be`},
		{edit(t, `"feeLimit":{`, `"feeLimit":{"0x`+testKey+`":{},`), "feeLimit",
			`the name of a member, a text of 66 characters, could be`},
		{`["0x` + testKey + `"]`, "[0]", "what the file has here could be a private key: delete it"},
		{`[[1,"` + testKey + `"]]`, "[0][1]", "what the file has here could be a private key: delete it"},
		{`{"session":` + sampleJSON + `,"wallet":{"k":["0x` + testKey + `"]}}`, "wallet.k[0]",
			"what the file has here could be a private key"},
		{`{"session":{"session":` + sampleJSON + `,"wallet":{"k":["0x` + testKey + `"]}}}`, "session.wallet.k[0]",
			"what the file has here could be a private key"},
		{`"` + testKey + `"`, "", "must be an object"},
		{edit(t, `"limitType":1`, `"limitType":"0x`+testKey+`"`), "feeLimit.limitType",
			"a text of 66 characters is out of range: 0 to 2; known are Unlimited (0), Lifetime (1) and Allowance (2); if " +
				"that is a private key, delete it"},
		{edit(t, `0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed`, "0x"+testKey), "signer",
			"must be 0x and 40 hex digits; found a text of 66 characters; if that is a private key, delete it"},
		{edit(t, `0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed`, testKey[1:]), "signer",
			"found a text of 63 characters; if that is a private key"},
		{edit(t, `0x40c10f19`, "0x"+testKey), "callPolicies[0].selector",
			"found a text of 66 characters; if that is a private key, delete it"},
		{edit(t, `0x40c10f19`, "f(x"+testKey+")"), "callPolicies[0].selector", "unknown type a text of 65 characters"},
		{edit(t, `"condition":1`, `"condition":"`+testKey+`"`), "callPolicies[0].constraints[0].condition",
			"unknown name a text of 64 characters; known are "},
		{edit(t, `"index":"1"`, `"index":"0x`+testKey+`"`), "callPolicies[0].constraints[1].index",
			"does not fit into 64 bits; found a text of 66 characters"},
		{edit(t, `"limit":"1000"`, `"limit":"`+testKey+`"`), "transferPolicies[0].valueLimit.limit",
			"found a text of 64 characters"},
		{edit(t, `"limit":"1000"`, `"limit":`+strings.Repeat("7", 90)), "transferPolicies[0].valueLimit.limit",
			"found a number of 90 characters"},
		{edit(t, `0x0000000000000000000000000000000000000000000000000000000000000000`, "0x"+testKey[1:]),
			"callPolicies[0].constraints[1].refValue",
			"must be 0x and 64 hex digits; found a text of 65 characters"},
		{`{"json":` + sampleJSON + `,"meta":{"values":{"` + testKey + `":["bigint"]}}}`, "meta.values",
			"the name of a member, a text of 64 characters, could be a private key"},
		{`{"json":` + sampleJSON + `,"meta":{"values":{"` + testKey[:50] + `":["bigint"]}}}`, `meta.values."..."`,
			"no such path"},
		{`{"session":` + sampleJSON + `,"account":"0x00"}`, "", `the spec at "session" has other members beside it`},
	} {
		wantSpecErrorWith(t, c.text, c.path, c.msg)
		_, err := ParseSpec([]byte(c.text), false)
		for n := 0; err != nil && n+16 <= len(testKey); n++ {
			if strings.Contains(strings.ToLower(err.Error()), testKey[n:n+16]) {
				t.Errorf("the error shows a part of the key: %v", err)
				break
			}
		}
	}
}

// A value of 20 bytes is shown, and told how it goes into a word.
func TestParseSpecShortRefValue(t *testing.T) {
	wantSpecErrorWith(t, edit(t, `0x0000000000000000000000000000000000000000000000000000000000000000`,
		"0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed"),
		"callPolicies[0].constraints[1].refValue",
		`must be 0x and 64 hex digits; found "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed": put 24 zeros in front of an address's digits`)
}
