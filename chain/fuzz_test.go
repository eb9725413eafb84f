package chain

import (
	"bytes"
	"slices"
	"testing"

	"github.com/holiman/uint256"

	"github.com/keyward/keyward/policy"
)

// encodeResults is what aggregate3 returns for the outcomes of calls.
func encodeResults(calls []*call) []byte {
	word := func(b []byte, n int) []byte { return appendWord(b, uintWord(uint64(n))) }
	b := word(word(nil, wordSize), len(calls))
	at := wordSize * len(calls)
	for _, c := range calls {
		b = word(b, at)
		at += 3*wordSize + padded(len(c.output))
	}
	for _, c := range calls {
		success := 1
		if c.reverted {
			success = 0
		}
		b = word(word(word(b, success), 2*wordSize), len(c.output))
		b = append(b, c.output...)
		b = append(b, make([]byte, padded(len(c.output))-len(c.output))...)
	}
	return b
}

// What is decoded is encoded byte for byte as it was.
func FuzzDecodeAggregate(f *testing.F) {
	f.Add(encodeResults([]*call{{output: []byte("abc")}, {reverted: true, output: make([]byte, 32)}}), 2)
	f.Add(encodeResults([]*call{{}}), 1)
	f.Add([]byte{}, 0)
	f.Fuzz(func(t *testing.T, data []byte, n int) {
		if n < 0 || n > 8 {
			return
		}
		calls := make([]*call, n)
		for i := range calls {
			calls[i] = new(call)
		}
		if decodeAggregate(data, calls) == nil && !bytes.Equal(encodeResults(calls), data) {
			t.Fatalf("%x was decoded, and is encoded as %x", data, encodeResults(calls))
		}
	})
}

// fuzzSpec has one limit of each kind.
func fuzzSpec() *policy.Spec {
	limit := func(t policy.LimitType) policy.UsageLimit {
		return policy.UsageLimit{LimitType: t, Limit: *uint256.NewInt(1000), Period: *uint256.NewInt(60)}
	}
	return &policy.Spec{
		ExpiresAt: *uint256.NewInt(5000), FeeLimit: limit(policy.Lifetime),
		CallPolicies: []policy.CallSpec{{Target: policy.Address{1}, Selector: policy.Selector{2},
			ValueLimit:  limit(policy.Unlimited),
			Constraints: []policy.Constraint{{Index: 3, Limit: limit(policy.Allowance)}}}},
		TransferPolicies: []policy.TransferSpec{{Target: policy.Address{4}, ValueLimit: limit(policy.Lifetime)}},
	}
}

// stateWords is a SessionState of fuzzSpec.
func stateWords() []policy.Hash {
	most := policy.Hash(bytes.Repeat([]byte{0xff}, wordSize))
	return []policy.Hash{
		uintWord(32), uintWord(5000), uintWord(1), uintWord(900), // offset, expiresAt, status, fees
		uintWord(6 * 32), uintWord(11 * 32), uintWord(16 * 32),
		uintWord(1), uintWord(800), addressWord(policy.Address{4}), {}, {},
		uintWord(1), most, addressWord(policy.Address{1}), selectorWord(policy.Selector{2}), {},
		uintWord(1), uintWord(700), addressWord(policy.Address{1}), selectorWord(policy.Selector{2}), uintWord(3),
	}
}

func TestSetState(t *testing.T) {
	set := func(words []policy.Hash) (*Snapshot, error) {
		s := &Snapshot{Status: Active, Time: 123}
		return s, s.setState(&call{output: joinWords(words)}, fuzzSpec())
	}
	s, err := set(stateWords())
	if err != nil || len(s.Remaining) != 3 || s.Status != Active {
		t.Fatalf("setState: %+v, %v", s, err)
	}
	period := policy.Tracker{Kind: policy.CallParamTracker, Target: policy.Address{1}, Selector: policy.Selector{2},
		Allowance: true, PeriodID: 2}
	if remaining := s.Remaining[period]; remaining.Uint64() != 700 {
		t.Errorf("remaining of %v: %s, want 700", period, remaining.Dec())
	}
	// Another value in any word is an error, unless it is a remaining amount, or says that the
	// contract stored no expiry.
	for i, word := range stateWords() {
		for _, other := range []policy.Hash{{}, uintWord(1), uintWord(3), uintWord(999), uintWord(1001), {0: 1}, {30: 1}} {
			words := stateWords()
			words[i] = other
			_, err := set(words)
			amount := (i == 3 || i == 8 || i == 18) && other != uintWord(1001) && other != policy.Hash{0: 1}
			fine := other == word || amount || i == 1 && other == policy.Hash{} || i == 2 && other == uintWord(3)
			if (err == nil) != fine {
				t.Errorf("word %d as %v: %v", i, other, err)
			}
		}
	}
}

func joinWords(words []policy.Hash) []byte {
	var b []byte
	for _, w := range words {
		b = append(b, w[:]...)
	}
	return b
}

// Any bytes are a state that says of each limit no more than there is, or an error.
func FuzzSetState(f *testing.F) {
	f.Add(joinWords(stateWords()), uint64(100))
	f.Add(joinWords(stateWords()[:20]), uint64(6000))
	f.Add(joinWords(slices.Concat(stateWords(), stateWords())), uint64(0))
	f.Fuzz(func(t *testing.T, data []byte, now uint64) {
		s := &Snapshot{Status: Active, Time: now}
		if s.setState(&call{output: data}, fuzzSpec()) != nil {
			if s.Used != nil || s.Remaining != nil {
				t.Fatal("an error with usage")
			}
			return
		}
		if len(s.Used) != 3 || len(data) != wordSize*len(stateWords()) {
			t.Fatalf("%d limits from %d bytes", len(s.Used), len(data))
		}
		for tracker, used := range s.Used {
			remaining := s.Remaining[tracker]
			if used.AddUint64(&used, remaining.Uint64()); used.Uint64() != 1000 || !remaining.IsUint64() {
				t.Fatalf("%v: %v and %v are not 1000", tracker, used, remaining)
			}
		}
	})
}
