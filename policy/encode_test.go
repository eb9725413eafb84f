package policy

import (
	"bytes"
	"math/big"
	"testing"

	"github.com/ethereum/go-ethereum/accounts/abi"
	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/crypto"
)

// The spec in the types that go-ethereum's encoder takes.
type (
	abiLimit struct {
		LimitType     uint8
		Limit, Period *big.Int
	}
	abiConstraint struct {
		Condition uint8
		Index     uint64
		RefValue  [32]byte
		Limit     abiLimit
	}
	abiCall struct {
		Target         common.Address
		Selector       [4]byte
		MaxValuePerUse *big.Int
		ValueLimit     abiLimit
		Constraints    []abiConstraint
	}
	abiTransfer struct {
		Target         common.Address
		MaxValuePerUse *big.Int
		ValueLimit     abiLimit
	}
	abiSpec struct {
		Signer           common.Address
		ExpiresAt        *big.Int
		FeeLimit         abiLimit
		CallPolicies     []abiCall
		TransferPolicies []abiTransfer
	}
)

func toABI(s *Spec) abiSpec {
	limit := func(l UsageLimit) abiLimit { return abiLimit{uint8(l.LimitType), l.Limit.ToBig(), l.Period.ToBig()} }
	out := abiSpec{Signer: common.Address(s.Signer), ExpiresAt: s.ExpiresAt.ToBig(), FeeLimit: limit(s.FeeLimit)}
	for _, p := range s.CallPolicies {
		call := abiCall{common.Address(p.Target), p.Selector, p.MaxValuePerUse.ToBig(), limit(p.ValueLimit), nil}
		for _, c := range p.Constraints {
			call.Constraints = append(call.Constraints, abiConstraint{uint8(c.Condition), c.Index, c.RefValue, limit(c.Limit)})
		}
		out.CallPolicies = append(out.CallPolicies, call)
	}
	for _, p := range s.TransferPolicies {
		out.TransferPolicies = append(out.TransferPolicies,
			abiTransfer{common.Address(p.Target), p.MaxValuePerUse.ToBig(), limit(p.ValueLimit)})
	}
	return out
}

// specType is the tuple SessionSpec.
func specType(t *testing.T) abi.Type {
	t.Helper()
	type arg = abi.ArgumentMarshaling
	limit := []arg{{Name: "limitType", Type: "uint8"}, {Name: "limit", Type: "uint256"}, {Name: "period", Type: "uint256"}}
	constraint := []arg{{Name: "condition", Type: "uint8"}, {Name: "index", Type: "uint64"},
		{Name: "refValue", Type: "bytes32"},
		{Name: "limit", Type: "tuple", Components: limit}}
	call := []arg{{Name: "target", Type: "address"}, {Name: "selector", Type: "bytes4"},
		{Name: "maxValuePerUse", Type: "uint256"},
		{Name: "valueLimit", Type: "tuple", Components: limit},
		{Name: "constraints", Type: "tuple[]", Components: constraint}}
	transfer := []arg{{Name: "target", Type: "address"}, {Name: "maxValuePerUse", Type: "uint256"},
		{Name: "valueLimit", Type: "tuple", Components: limit}}
	typ, err := abi.NewType("tuple", "", []arg{{Name: "signer", Type: "address"}, {Name: "expiresAt", Type: "uint256"},
		{Name: "feeLimit", Type: "tuple", Components: limit}, {Name: "callPolicies", Type: "tuple[]", Components: call},
		{Name: "transferPolicies", Type: "tuple[]", Components: transfer}})
	if err != nil {
		t.Fatal(err)
	}
	return typ
}

func TestEncodingAgreesWithGoEthereum(t *testing.T) {
	ids, err := abi.NewType("uint64[]", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	hook := abi.Arguments{{Type: specType(t)}, {Type: ids}}
	specs := map[string]*Spec{"sample": sampleSpec(), "zero": {}, "one bare call": {CallPolicies: make([]CallSpec, 1)}}
	for i, c := range vectorCases(t) {
		if i%20 == 0 {
			specs[c.Name] = &c.Session
		}
	}
	for name, spec := range specs {
		for _, periodIDs := range [][]uint64{{}, {0}, {20000, 0, 1<<64 - 1}} {
			want, err := hook.Pack(toABI(spec), periodIDs)
			if err != nil {
				t.Fatal(err)
			}
			if got := spec.HookData(periodIDs); !bytes.Equal(got, want) {
				t.Errorf("%s: HookData(%v) = %x, want %x", name, periodIDs, got, want)
			}
		}
		want, err := hook[:1].Pack(toABI(spec))
		if err != nil {
			t.Fatal(err)
		}
		if got := spec.EncodeABI(); !bytes.Equal(got, want) {
			t.Errorf("%s: EncodeABI() = %x, want %x", name, got, want)
		}
		if got := spec.Hash(); got != Hash(crypto.Keccak256Hash(want)) {
			t.Errorf("%s: Hash() = %v", name, got)
		}
		method := abi.NewMethod("createSession", "createSession", abi.Function, "", false, false, hook[:1], nil)
		if got := spec.CreateSessionCalldata(); !bytes.Equal(got, append(method.ID, want...)) {
			t.Errorf("%s: CreateSessionCalldata() = %x, want %x", name, got, append(method.ID, want...))
		}
	}
}

func TestRevokeKeysCalldata(t *testing.T) {
	list, err := abi.NewType("bytes32[]", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	args := abi.Arguments{{Type: list}}
	method := abi.NewMethod("revokeKeys", "revokeKeys", abi.Function, "", false, false, args, nil)
	for _, hashes := range [][]Hash{{}, {{1}}, {{1}, {31: 2}}} {
		want, err := args.Pack(append([][32]byte{}, toWords(hashes)...))
		if err != nil {
			t.Fatal(err)
		}
		if got := RevokeKeysCalldata(hashes...); !bytes.Equal(got, append(method.ID, want...)) {
			t.Errorf("RevokeKeysCalldata(%v) = %x, want %x", hashes, got, append(method.ID, want...))
		}
	}
}

func toWords(hashes []Hash) (words [][32]byte) {
	for _, h := range hashes {
		words = append(words, h)
	}
	return words
}

// The signing path encodes a spec for each signature.
func TestEncodingAllocatesOnce(t *testing.T) {
	spec := sampleSpec()
	for name, encode := range map[string]func() []byte{
		"EncodeABI":             spec.EncodeABI,
		"HookData":              func() []byte { return spec.HookData([]uint64{1, 2, 3}) },
		"CreateSessionCalldata": spec.CreateSessionCalldata,
	} {
		if b := encode(); len(b) != cap(b) {
			t.Errorf("%s: %d bytes in a buffer of %d", name, len(b), cap(b))
		}
		if n := testing.AllocsPerRun(100, func() { encode() }); n != 1 {
			t.Errorf("%s: %v allocations, want 1", name, n)
		}
	}
}

func BenchmarkHookData(b *testing.B) {
	spec := sampleSpec()
	ids := []uint64{0, 0, 0, 20000}
	b.ReportAllocs()
	for b.Loop() {
		spec.HookData(ids)
	}
}
