package policy

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// registryVectors returns the decompressed lines of testdata/registry-vectors.jsonl.gz.
func registryVectors(t testing.TB) []byte {
	t.Helper()
	f, err := os.Open("testdata/registry-vectors.jsonl.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// The SDK itself decided these.
func TestProductionAgreesWithSDK(t *testing.T) {
	data := registryVectors(t)
	wants := bufio.NewScanner(bytes.NewReader(data))
	wants.Buffer(nil, maxCaseBytes)
	cases, refused := 0, 0
	for c, err := range ReadRegistryCases(bytes.NewReader(data)) {
		if err != nil {
			t.Fatal(err)
		}
		cases++
		var want struct {
			Name  string
			OK    bool
			Error string
		}
		if !wants.Scan() {
			t.Fatal("more cases than lines")
		}
		if err := json.Unmarshal(wants.Bytes(), &want); err != nil {
			t.Fatal(err)
		}
		got := c.Lint(WarningRules{Now: sampleNow})
		if got.Case != want.Name || got.OK != want.OK || got.Error != want.Error {
			t.Errorf("%s: ok %v %q, want %s: %v %q", got.Case, got.OK, got.Error, want.Name, want.OK, want.Error)
		}
		if !got.OK {
			refused++
		}
	}
	if cases != 162 || refused != 98 {
		t.Errorf("%d cases, %d refused, want 162 and 98", cases, refused)
	}
}

// All that is asked is asked once, in the SDK's order: calls and approvals as they come, then transfers.
func TestRegistryQueries(t *testing.T) {
	token, spender, other := Address{19: 1}, Address{19: 2}, Address{19: 3}
	approve := Selector{0x09, 0x5e, 0xa7, 0xb3}
	spec := &Spec{
		CallPolicies: []CallSpec{
			{Target: token, Selector: approve, Constraints: []Constraint{
				{Condition: Equal, Index: 1, RefValue: Hash{31: 9}},    // another word
				{Condition: NotEqual, Index: 0, RefValue: Hash{31: 9}}, // another condition
				{Condition: Equal, Index: 0, RefValue: Hash{0: 1, 31: 2}},
				{Condition: Equal, Index: 0, RefValue: Hash{31: 3}},
			}},
			{Target: other, Selector: Selector{1}},
			{Target: token, Selector: approve, Constraints: []Constraint{{Condition: Equal, RefValue: Hash{31: 2}}}},
		},
		TransferPolicies: []TransferSpec{{Target: token}, {Target: token}},
	}
	want := []RegistryQuery{
		{Kind: ApprovalTarget, Target: token, Spender: spender},
		{Kind: ApprovalTarget, Target: token, Spender: other},
		{Kind: CallPolicy, Target: other, Selector: Selector{1}},
		{Kind: TransferPolicy, Target: token},
	}
	if diff := cmp.Diff(want, spec.RegistryQueries()); diff != "" {
		t.Errorf("RegistryQueries (-want +got):\n%s", diff)
	}
}

// Every rule that is broken is reported, with the one first at which the SDK stops.
func TestCheckProductionReportsAll(t *testing.T) {
	token := Address{19: 1}
	spec := &Spec{
		CallPolicies: []CallSpec{
			{Target: token, Selector: Selector{1}},
			{Target: token, Selector: Selector{0xa9, 0x05, 0x9c, 0xbb},
				Constraints: []Constraint{{Condition: Equal, RefValue: Hash{31: 7}}}},
			{Target: token, Selector: Selector{0xa2, 0x2c, 0xb4, 0x65}},
		},
		TransferPolicies: []TransferSpec{{Target: token}},
	}
	registry := Registry{
		{Kind: CallPolicy, Target: token, Selector: Selector{1}}:                   Blocked,
		{Kind: TransferPolicy, Target: token}:                                      Allowed,
		{Kind: CallPolicy, Target: token, Selector: spec.CallPolicies[1].Selector}: Allowed, // not what is asked
	}
	one, seven := "0x0000000000000000000000000000000000000001", "0x0000000000000000000000000000000000000007"
	want := []string{
		"callPolicies[2]: Unconstrained token approval/transfer destination in call policy. Selector: 0xa22cb465; Target: " +
			one,
		"callPolicies[0]: Session key policy violation. Target: " + one + "; Status: Denied",
		"callPolicies[1].constraints[0].refValue: Session key policy violation. Target: " + seven + "; Status: Unset",
	}
	var got []string
	for _, v := range spec.CheckProduction(registry.Status) {
		got = append(got, v.Path+": "+v.Message)
		if unfixed := v.Query == nil; unfixed != strings.HasPrefix(v.Message, "Unconstrained") {
			t.Errorf("%s has the query %v", v.Message, v.Query)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("CheckProduction (-want +got):\n%s", diff)
	}
	if got := spec.UnfixedDestinations(); len(got) != 1 || got[0].Path != "callPolicies[2]" {
		t.Errorf("UnfixedDestinations() = %v, want that of callPolicies[2]", got)
	}
	// A number that is no status is not Allowed.
	if got := RegistryStatus(3).String(); got != "undefined" {
		t.Errorf("status 3 is %q", got)
	}
	all := spec.CheckProduction(func(RegistryQuery) RegistryStatus { return 3 })
	if len(all) != 4 {
		t.Errorf("%d violations with a status of 3, want 4", len(all))
	}
}

const registryCaseLine = `{"name":"a","chainId":2741,"session":` + sampleJSON + `,"registry":{` +
	`"call":{"0xfb6916095ca1df60bb79ce92ce3ea74c37c5d359:0x40c10f19":1},` +
	`"transfer":{"0xd1220a0cf47c7b9be7a2e6ba89f429762e7b9adb":1},"approval":{}}}`

func TestLintOnAnotherChain(t *testing.T) {
	for chain, want := range map[string]string{
		"2741":  `{true "" [paymasterUnbounded]}`,
		"11124": `{true "" [paymasterUnbounded]}`,
	} {
		c, err := ParseRegistryCase([]byte(strings.Replace(registryCaseLine, "2741", chain, 1)))
		if err != nil {
			t.Fatal(err)
		}
		if got := lintText(c); got != want {
			t.Errorf("chain %s, all allowed: %s, want %s", chain, got, want)
		}
	}
	target := mustAddress("0xfb6916095ca1df60bb79ce92ce3ea74c37c5d359").String()
	for chain, want := range map[string]string{
		"2741":  `{false "Session key policy violation. Target: ` + target + `; Status: Denied" [paymasterUnbounded]}`,
		"11124": `{true "" [production paymasterUnbounded]}`,
	} {
		line := strings.NewReplacer("2741", chain, `:0x40c10f19":1`, `:0x40c10f19":2`).Replace(registryCaseLine)
		c, err := ParseRegistryCase([]byte(line))
		if err != nil {
			t.Fatal(err)
		}
		if got := lintText(c); got != want {
			t.Errorf("chain %s, blocked: %s, want %s", chain, got, want)
		}
	}
}

// The SDK has no word for a status above Denied, and whatever is not Allowed breaks the rule (agw-client,
// assertSessionKeyPolicies).
func TestLintOfAnUnknownStatus(t *testing.T) {
	target := mustAddress("0xfb6916095ca1df60bb79ce92ce3ea74c37c5d359").String()
	for _, status := range []string{"3", `"7"`, "255", "256", `"0x100000001"`, "18446744073709551617",
		strings.Repeat("9", 70)} {
		c, err := ParseRegistryCase([]byte(strings.Replace(registryCaseLine, `0f19":1`, `0f19":`+status, 1)))
		if err != nil {
			t.Errorf("status %s: %v", status, err)
			continue
		}
		want := `{false "Session key policy violation. Target: ` + target + `; Status: undefined" [paymasterUnbounded]}`
		if got := lintText(c); got != want {
			t.Errorf("status %s: %s, want %s", status, got, want)
		}
	}
}

func lintText(c *RegistryCase) string {
	result := c.Lint(WarningRules{Now: sampleNow})
	codes := []string{}
	for _, w := range result.Warnings {
		codes = append(codes, w.Code)
	}
	return fmt.Sprintf("{%v %q %v}", result.OK, result.Error, codes)
}

func TestParseRegistryCaseRefused(t *testing.T) {
	for _, c := range []struct{ old, new, path, msg string }{
		{`"name":"a",`, ``, "name", "missing"},
		{`"registry"`, `"Registry"`, "", `unknown key "Registry"; did you mean "registry"?`},
		{`"approval":{}`, `"approval":[]`, "registry.approval", "must be an object, not an array"},
		{`,"approval":{}`, ``, "registry.approval", "missing"},
		{`0f19":1`, `0f19":-1`, `registry.call."0xfb6916095ca1df60bb79ce92ce3ea74c37c5d3…"`, errNotExact.Error()},
		{`:0x40c10f19":1`, `":1`, `registry.call."0xfb6916095ca1df60bb79ce92ce3ea74c37c5d3…"`, errCallKey.Error()},
		{`"approval":{}`, `"approval":{"0x":1}`, `registry.approval."0x"`, errApprovalKey.Error()},
		{`:1},"transfer"`, `:1,"0xFB6916095CA1DF60BB79CE92CE3EA74C37C5D359:0x40c10f19":2},"transfer"`,
			`registry.call."0xFB6916095CA1DF60BB79CE92CE3EA74C37C5D3…"`, "names the same policy twice"},
		{`"transfer":{"0x`, `"transfer":{"`, `registry.transfer."d1220a0cf47c7b9be7a2e6ba89f429762e7b9adb"`,
			"must be 0x and 40 hex digits"},
	} {
		line := strings.Replace(registryCaseLine, c.old, c.new, 1)
		if line == registryCaseLine {
			t.Fatalf("%s is not in the line", c.old)
		}
		_, err := ParseRegistryCase([]byte(line))
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

func TestParseRegistryOfManyPolicies(t *testing.T) {
	var keys []string
	for i := range 1000 {
		keys = append(keys, fmt.Sprintf(`"0x%040x":1`, i))
	}
	r, err := ParseRegistry([]byte(`{"call":{},"approval":{},"transfer":{` + strings.Join(keys, ",") + `}}`))
	if err != nil || len(r) != 1000 {
		t.Errorf("%d answers, %v; want 1000", len(r), err)
	}
}

// A case from anywhere is judged or refused, and what passes on mainnet breaks no rule.
func FuzzParseRegistryCase(f *testing.F) {
	f.Add([]byte(registryCaseLine))
	f.Add([]byte(strings.Replace(registryCaseLine, `0f19":1`, `0f19":2`, 1)))
	f.Add([]byte(strings.Replace(registryCaseLine, `"approval":{}`,
		`"approval":{"0x0000000000000000000000000000000000000001:0x0000000000000000000000000000000000000002":1}`, 1)))
	for line := range bytes.Lines(registryVectors(f)) {
		f.Add(line)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := ParseRegistryCase(data)
		if err != nil {
			return
		}
		got := c.Lint(WarningRules{Now: sampleNow, MaxLifetime: 3600})
		if got.OK != (got.Error == "") || !got.OK && c.ChainID != ProductionChain || got.Warnings == nil {
			t.Fatalf("%+v", got)
		}
		for _, q := range c.Session.RegistryQueries() {
			if got.OK && c.ChainID == ProductionChain && c.Registry.Status(q) != Allowed {
				t.Fatalf("passed, and %v is %v", q, c.Registry.Status(q))
			}
		}
		c.Session.Risk(sampleNow)
	})
}
