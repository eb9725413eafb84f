package policy

import (
	"encoding/binary"
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/holiman/uint256"
)

// What is read is written, and read again to the same spec with the same hash; and
// what is written is the one form of it.
func FuzzParseSpec(f *testing.F) {
	f.Add([]byte(sampleJSON))
	f.Add([]byte(strings.ToLower(sampleJSON)))
	f.Add([]byte(strings.Replace(sampleJSON, `"condition":1`, `"condition":"LessEqual"`, 1)))
	f.Add([]byte(strings.Replace(sampleJSON, `"expiresAt"`, `"expiresAt":1,"expiresAt"`, 1)))
	f.Add([]byte(strings.Replace(sampleJSON, `"5000000000000000"`, `5e15`, 1)))
	f.Add([]byte(`{"expiresAt":"0x0","feeLimit":{"limitType":0,"limit":0,"period":0},"callPolicies":[],"transferPolicies":[]}`))
	f.Add([]byte(`{"a":[[[[{"\ud800":"\"}"}]]]], "b" : [ -0.1e5 , true,false , null ] }`))
	for _, name := range formFiles {
		f.Add([]byte(formFile(f, name)))
	}
	f.Add([]byte(strings.Replace(sampleJSON, `0x40c10f19`, `function mint(address to, tuple(uint a)[2]) external`, 1)))
	f.Fuzz(func(t *testing.T, data []byte) {
		spec, named, err := ReadSpec(data, false)
		if err != nil {
			return
		}
		for _, n := range named {
			if canonical, err := ParseSignature(n.Signature); err != nil || canonical != n.Signature ||
				SelectorOf(canonical) != n.Selector {
				t.Fatalf("%+v is read again as %q, %v", n, canonical, err)
			}
		}
		text, err := json.Marshal(spec)
		if err != nil {
			t.Fatal(err)
		}
		back, err := ParseSpec(text, true)
		if err != nil {
			t.Fatalf("%s does not parse again: %v", text, err)
		}
		if diff := cmp.Diff(spec, back); diff != "" {
			t.Fatalf("parsed again (-first +second):\n%s", diff)
		}
		if spec.Hash() != back.Hash() {
			t.Fatal("the hash differs")
		}
		again, err := json.Marshal(back)
		if err != nil || string(again) != string(text) {
			t.Fatalf("written again: %s, %v; before: %s", again, err, text)
		}
		spec.Describe()
	})
}

// Any calldata against a policy whose every kind of limit is a Lifetime one: no
// panic, and no counter passes its limit.
func FuzzCheck(f *testing.F) {
	call := sampleCall()
	f.Add(call.Data, uint64(0), uint64(3), uint64(0), uint64(1), uint8(0))
	f.Add(call.Data[:67], uint64(1), uint64(100), uint64(1<<59-1), uint64(1<<63), uint8(1))
	f.Add(call.Data[:3], uint64(5), uint64(1<<63), uint64(1<<59), uint64(0), uint8(6))
	f.Add(append(call.Data, 0xff), uint64(1), uint64(2), uint64(1), uint64(7), uint8(5))
	f.Fuzz(func(t *testing.T, data []byte, value, limit, index, gas uint64, condition uint8) {
		lifetime := UsageLimit{LimitType: Lifetime, Limit: *uint256.NewInt(limit)}
		spec := sampleSpec()
		spec.FeeLimit = lifetime
		p := &spec.CallPolicies[0]
		p.MaxValuePerUse, p.ValueLimit = *uint256.NewInt(limit), lifetime
		p.Constraints = []Constraint{
			{Condition: Condition(condition), Index: index, Limit: lifetime},
			{Index: 0, Limit: lifetime},
		}
		tx := sampleCall()
		tx.Data = data
		tx.Value.SetUint64(value)
		tx.GasLimit.SetUint64(gas)
		r := replay{spec: spec, account: tx.Account, active: true, used: map[Tracker]uint256.Int{}}
		counted := uint256.Int{}
		for range 4 {
			charges, denial := r.judge(tx, make([]uint64, 4), sampleNow)
			if denial == nil && len(data) >= 36 {
				counted.Add(&counted, uint256.NewInt(binary.BigEndian.Uint64(data[28:36])))
			}
			if (denial == nil) != (len(charges) == 4) {
				t.Fatalf("charges %v with %v", charges, denial)
			}
		}
		most := uint256.NewInt(limit)
		for tracker, used := range r.used {
			if used.Gt(most) {
				t.Fatalf("%v counted %s, limit %s", tracker, used.Dec(), most.Dec())
			}
		}
		// The first word, added up here, is what its counter says.
		param := Tracker{Kind: CallParamTracker, Target: p.Target, Selector: p.Selector, Position: 1}
		if used := r.used[param]; !used.Eq(&counted) {
			t.Fatalf("%v counted %s, want %s", param, used.Dec(), counted.Dec())
		}
	})
}

// A case from anywhere is run or refused.
func FuzzParseCase(f *testing.F) {
	f.Add([]byte(caseLine))
	f.Add([]byte(strings.Replace(caseLine, `"limitType":2`, `"limitType":200`, 1)))
	f.Add([]byte(strings.Replace(caseLine, `"now"`, `"revoke":true,"periodIds":["1",2],"now"`, 1)))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := ParseCase(data)
		if err != nil {
			return
		}
		for _, got := range c.Run(validator) {
			if got.Allow != (got.Denial == nil) || got.Allow != (got.Reason == "") {
				t.Fatalf("%+v", got)
			}
		}
	})
}
