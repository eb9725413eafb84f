package chain

import (
	"encoding/binary"
	"fmt"

	"github.com/ethereum/go-ethereum/crypto"
	"github.com/holiman/uint256"

	"github.com/keyward/keyward/policy"
)

// wordSize is that of the ABI's words, in bytes.
const wordSize = 32

// selectorOf is the first four bytes of the hash of a function's signature.
func selectorOf(signature string) policy.Selector {
	return policy.Selector(crypto.Keccak256([]byte(signature))[:4])
}

// calldata is a function's selector and static arguments.
func calldata(selector policy.Selector, words ...policy.Hash) []byte {
	b := append(make([]byte, 0, len(selector)+wordSize*len(words)), selector[:]...)
	for _, w := range words {
		b = append(b, w[:]...)
	}
	return b
}

func addressWord(a policy.Address) (w policy.Hash) {
	copy(w[wordSize-len(a):], a[:])
	return w
}

// selectorWord is a bytes4, which is padded on the right.
func selectorWord(s policy.Selector) (w policy.Hash) {
	copy(w[:], s[:])
	return w
}

func uintWord(x uint64) (w policy.Hash) {
	binary.BigEndian.PutUint64(w[wordSize-8:], x)
	return w
}

// words reads a return value from front to back, in the one form that the ABI
// specification gives it. It keeps the first error and goes on with zeros; the caller
// looks at [words.end] before it believes any of it.
type words struct {
	rest []byte
	err  error
}

func (w *words) fail(format string, args ...any) {
	if w.err == nil {
		w.err = fmt.Errorf("%w: %s", ErrGarbled, fmt.Sprintf(format, args...))
	}
}

func (w *words) next() (word policy.Hash) {
	if len(w.rest) < wordSize {
		w.fail("the return value is too short")
		w.rest = nil
		return word
	}
	copy(word[:], w.rest)
	w.rest = w.rest[wordSize:]
	return word
}

func (w *words) uint() uint256.Int {
	word := w.next()
	return *new(uint256.Int).SetBytes32(word[:])
}

// uint64 reads an unsigned integer that is at most max.
func (w *words) uint64(max uint64) uint64 {
	x := w.uint()
	if !x.IsUint64() || x.Uint64() > max {
		w.fail("%s is more than %d", x.Dec(), max)
		return 0
	}
	return x.Uint64()
}

// want reads a word that can only be this.
func (w *words) want(word policy.Hash, what string) {
	if got := w.next(); got != word && w.err == nil {
		w.fail("%s is %v, want %v", what, got, word)
	}
}

// end returns the first error; bytes that are left over are one.
func (w *words) end() error {
	if len(w.rest) > 0 {
		w.fail("%d bytes too many", len(w.rest))
	}
	return w.err
}
