package policy

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"os"
	"slices"
	"testing"
)

// validator is the SessionKeyValidator of Abstract's mainnet and testnet.
var validator = mustAddress("0x34ca1501FAE231cC2ebc995CE013Dbe882d7d081")

func mustAddress(text string) (a Address) {
	if err := a.UnmarshalText([]byte(text)); err != nil {
		panic(err)
	}
	return a
}

// expectation is what the chain and the SDK made of a case.
type expectation struct {
	Name        string          `json:"name"`
	Session     json.RawMessage `json:"session"`
	SessionHash Hash            `json:"sessionHash"`
	CreateError string          `json:"createError"`
	HookData    string          `json:"hookData"`
	Steps       []struct {
		Allow  bool   `json:"allow"`
		Reason string `json:"reason"`
		IDs    string `json:"ids"`
	} `json:"steps"`
}

// vectors returns the decompressed lines of testdata/session-vectors.jsonl.gz.
func vectors(t testing.TB) []byte {
	t.Helper()
	f, err := os.Open("testdata/session-vectors.jsonl.gz")
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

// vectorCase is a case and what came of it on chain.
type vectorCase struct {
	*Case
	want expectation
}

// vectorCases reads the cases with the code under test, and the outcomes without it.
func vectorCases(t testing.TB) []vectorCase {
	t.Helper()
	data := vectors(t)
	var cases []vectorCase
	for c, err := range ReadCases(bytes.NewReader(data)) {
		if err != nil {
			t.Fatal(err)
		}
		cases = append(cases, vectorCase{Case: c})
	}
	lines := bufio.NewScanner(bytes.NewReader(data))
	lines.Buffer(nil, maxCaseBytes)
	for i := range cases {
		if !lines.Scan() {
			t.Fatalf("%d cases, but the file ends after %d lines", len(cases), i)
		}
		if err := json.Unmarshal(lines.Bytes(), &cases[i].want); err != nil {
			t.Fatal(err)
		}
	}
	if lines.Scan() {
		t.Fatalf("the file has more than %d lines", len(cases))
	}
	return cases
}

// The contract itself decided these, in an EVM.
func TestVerdictsAgreeWithChain(t *testing.T) {
	cases, steps := vectorCases(t), 0
	for _, c := range cases {
		results := c.Run(validator)
		if len(results) != len(c.want.Steps) {
			t.Fatalf("%s: %d results, want %d", c.Name, len(results), len(c.want.Steps))
		}
		for i, got := range results {
			steps++
			want := c.want.Steps[i]
			if got.Allow != want.Allow || got.Reason != want.Reason {
				t.Errorf("%s step %d: allow %v %q, want %v %q (%v)",
					c.Name, i, got.Allow, got.Reason, want.Allow, want.Reason, got.Denial)
			}
			if got.Case != c.want.Name || got.Step != i || got.SessionHash != c.want.SessionHash {
				t.Errorf("%s step %d: result names %q step %d of %v", c.Name, i, got.Case, got.Step, got.SessionHash)
			}
		}
	}
	if len(cases) != 2000 || steps != 5717 {
		t.Errorf("ran %d cases with %d steps, want 2000 with 5717", len(cases), steps)
	}
}

func TestEncodingAgreesWithChain(t *testing.T) {
	hooks := 0
	for _, c := range vectorCases(t) {
		if got := c.Session.Hash(); got != c.want.SessionHash {
			t.Errorf("%s: session hash %v, want %v", c.Name, got, c.want.SessionHash)
		}
		if c.want.HookData == "" {
			continue
		}
		hooks++
		if got := "0x" + hex.EncodeToString(c.Session.HookData(c.Steps[0].PeriodIDs)); got != c.want.HookData {
			t.Errorf("%s: hook data %s, want %s", c.Name, got, c.want.HookData)
		}
	}
	if hooks != 91 {
		t.Errorf("compared %d hook data, want 91", hooks)
	}
}

func TestValidateAgreesWithCreateSession(t *testing.T) {
	refused := 0
	for _, c := range vectorCases(t) {
		got := ""
		if err := c.Session.Validate(); err != nil {
			var denial *Denial
			if !errors.As(err, &denial) {
				t.Fatalf("%s: Validate returned a %T", c.Name, err)
			}
			got = denial.Revert
			refused++
		}
		if got != c.want.CreateError {
			t.Errorf("%s: Validate: %q, want %q", c.Name, got, c.want.CreateError)
		}
	}
	if refused != 23 {
		t.Errorf("%d specs refused, want 23", refused)
	}
}

// Steps without "ids" have the period ids that the SDK computed.
func TestPeriodIDsAgreeWithSDK(t *testing.T) {
	compared, matchless := 0, 0
	for _, c := range vectorCases(t) {
		for i, step := range c.Steps {
			got := c.Session.PeriodIDs(step.Tx.Call(validator), step.Now)
			switch c.want.Steps[i].IDs {
			case "":
				compared++
				if !slices.Equal(got, step.PeriodIDs) {
					t.Errorf("%s step %d: period ids %v, want %v", c.Name, i, got, step.PeriodIDs)
				}
			case "fallback": // the SDK threw: no policy, or a period of 0
				if got == nil {
					matchless++
				}
			}
		}
	}
	if compared != 4927 || matchless != 231 {
		t.Errorf("compared %d steps and found %d without a policy, want 4927 and 231", compared, matchless)
	}
}

// Without periodIds in a step the verdicts are the same where the SDK computed them.
func TestRunComputesPeriodIDs(t *testing.T) {
	for _, c := range vectorCases(t) {
		computed := true
		for i := range c.Steps {
			computed = computed && c.want.Steps[i].IDs == ""
			c.Steps[i].PeriodIDs = nil
		}
		if !computed {
			continue
		}
		for i, got := range c.Run(validator) {
			if got.Reason != c.want.Steps[i].Reason {
				t.Errorf("%s step %d: %q, want %q", c.Name, i, got.Reason, c.want.Steps[i].Reason)
			}
		}
	}
}

// What the SDK wrote is what comes out again, but for the checksums of addresses.
func TestSpecJSONIsTheSDKs(t *testing.T) {
	for _, c := range vectorCases(t) {
		got, err := json.Marshal(c.Session)
		if err != nil {
			t.Fatal(err)
		}
		// The vectors' addresses are in lower case, and so is all else but the keys.
		if !bytes.Equal(bytes.ToLower(got), bytes.ToLower(c.want.Session)) {
			t.Errorf("%s: %s, want %s", c.Name, got, c.want.Session)
		}
	}
}
