package policy

import (
	"encoding/binary"

	"github.com/holiman/uint256"
)

// createSessionSelector is that of createSession(SessionSpec).
var createSessionSelector = Selector{0x5a, 0x06, 0x94, 0xd2}

// Sizes in 32-byte words (Solidity ABI specification, "Formal Specification of the Encoding").
const (
	word            = 32
	specHeadWords   = 7 // signer, expiresAt, feeLimit (3), offsets of the two arrays
	callHeadWords   = 7 // target, selector, maxValuePerUse, valueLimit (3), offset of constraints
	constraintWords = 6 // condition, index, refValue, limit (3): static, so no offset
	transferWords   = 5 // target, maxValuePerUse, valueLimit (3): static too
)

// EncodeABI returns abi.encode(spec): one dynamic tuple, so it starts with the offset 0x20.
func (s *Spec) EncodeABI() []byte {
	b := make([]byte, 0, word+s.tupleBytes())
	b = appendUint64(b, word)
	return s.appendTuple(b)
}

// Hash is the session hash, keccak256(abi.encode(spec)).
func (s *Spec) Hash() Hash { return keccak256(s.EncodeABI()) }

// HookData returns abi.encode(spec, uint64[] periodIds), what the validator reads beside the signature.
func (s *Spec) HookData(periodIDs []uint64) []byte {
	tuple := s.tupleBytes()
	b := make([]byte, 0, 2*word+tuple+word+word*len(periodIDs))
	b = appendUint64(b, 2*word)
	b = appendUint64(b, uint64(2*word+tuple))
	b = s.appendTuple(b)
	b = appendUint64(b, uint64(len(periodIDs)))
	for _, id := range periodIDs {
		b = appendUint64(b, id)
	}
	return b
}

// CreateSessionCalldata returns the calldata of createSession(spec), which the
// account's owner sends to the validator.
func (s *Spec) CreateSessionCalldata() []byte {
	b := make([]byte, 0, len(createSessionSelector)+word+s.tupleBytes())
	b = append(b, createSessionSelector[:]...)
	b = appendUint64(b, word)
	return s.appendTuple(b)
}

// revokeKeysSelector is that of revokeKeys(bytes32[]).
var revokeKeysSelector = Selector{0x3e, 0xc5, 0x92, 0x79}

// RevokeKeysCalldata returns the calldata of revokeKeys(sessionHashes), which the account's
// owner sends to the validator to end sessions on chain.
func RevokeKeysCalldata(sessionHashes ...Hash) []byte {
	b := make([]byte, 0, len(revokeKeysSelector)+word*(2+len(sessionHashes)))
	b = append(b, revokeKeysSelector[:]...)
	b = appendUint64(b, word)
	b = appendUint64(b, uint64(len(sessionHashes)))
	for _, hash := range sessionHashes {
		b = append(b, hash[:]...)
	}
	return b
}

// tupleBytes is the length of what appendTuple appends.
func (s *Spec) tupleBytes() int {
	words := specHeadWords + 1 + 1 + transferWords*len(s.TransferPolicies)
	for i := range s.CallPolicies {
		words += 1 + s.CallPolicies[i].tupleWords() // an offset each
	}
	return word * words
}

func (p *CallSpec) tupleWords() int { return callHeadWords + 1 + constraintWords*len(p.Constraints) }

// appendTuple appends the spec's tuple without the offset that leads to it.
func (s *Spec) appendTuple(b []byte) []byte {
	calls := 1
	for i := range s.CallPolicies {
		calls += 1 + s.CallPolicies[i].tupleWords()
	}
	b = appendAddress(b, s.Signer)
	b = appendUint(b, &s.ExpiresAt)
	b = appendLimit(b, &s.FeeLimit)
	b = appendUint64(b, word*specHeadWords)
	b = appendUint64(b, uint64(word*(specHeadWords+calls)))
	b = s.appendCallPolicies(b)
	b = appendUint64(b, uint64(len(s.TransferPolicies)))
	for i := range s.TransferPolicies {
		p := &s.TransferPolicies[i]
		b = appendAddress(b, p.Target)
		b = appendUint(b, &p.MaxValuePerUse)
		b = appendLimit(b, &p.ValueLimit)
	}
	return b
}

// appendCallPolicies appends the array: its length, an offset for each policy counted
// from behind the length, and the policies.
func (s *Spec) appendCallPolicies(b []byte) []byte {
	b = appendUint64(b, uint64(len(s.CallPolicies)))
	offset := len(s.CallPolicies)
	for i := range s.CallPolicies {
		b = appendUint64(b, uint64(word*offset))
		offset += s.CallPolicies[i].tupleWords()
	}
	for i := range s.CallPolicies {
		b = s.CallPolicies[i].appendTuple(b)
	}
	return b
}

func (p *CallSpec) appendTuple(b []byte) []byte {
	b = appendAddress(b, p.Target)
	b = append(b, p.Selector[:]...)
	b = append(b, make([]byte, word-len(p.Selector))...) // bytes4 is padded on the right
	b = appendUint(b, &p.MaxValuePerUse)
	b = appendLimit(b, &p.ValueLimit)
	b = appendUint64(b, word*callHeadWords)
	b = appendUint64(b, uint64(len(p.Constraints)))
	for i := range p.Constraints {
		c := &p.Constraints[i]
		b = appendUint64(b, uint64(c.Condition))
		b = appendUint64(b, c.Index)
		b = append(b, c.RefValue[:]...)
		b = appendLimit(b, &c.Limit)
	}
	return b
}

func appendLimit(b []byte, l *UsageLimit) []byte {
	b = appendUint64(b, uint64(l.LimitType))
	b = appendUint(b, &l.Limit)
	return appendUint(b, &l.Period)
}

func appendAddress(b []byte, a Address) []byte {
	b = append(b, make([]byte, word-len(a))...)
	return append(b, a[:]...)
}

func appendUint64(b []byte, x uint64) []byte {
	b = append(b, make([]byte, word-8)...)
	return binary.BigEndian.AppendUint64(b, x)
}

func appendUint(b []byte, x *uint256.Int) []byte {
	w := x.Bytes32()
	return append(b, w[:]...)
}
