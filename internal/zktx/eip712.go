package zktx

import (
	"encoding/binary"
	"strings"
	"sync"

	"github.com/ethereum/go-ethereum/crypto"
	"github.com/holiman/uint256"

	"github.com/keyward/keyward/policy"
)

var (
	zksyncType = uint256.NewInt(TypeZKsync)

	// EIP-712, "Definition of hashStruct" and "Definition of domainSeparator".
	domainTypeHash      = policy.Hash(crypto.Keccak256Hash([]byte(encodeType("EIP712Domain", domainFields))))
	transactionTypeHash = policy.Hash(crypto.Keccak256Hash([]byte(encodeType(primaryType, transactionFields))))
	domainNameHash      = policy.Hash(crypto.Keccak256Hash([]byte(domainName)))
	domainVersionHash   = policy.Hash(crypto.Keccak256Hash([]byte(domainVersion)))
)

// encodeType returns a type's declaration, e.g. "Mail(address to,string contents)" (EIP-712, encodeType).
func encodeType(name string, fields []typedField) string {
	members := make([]string, len(fields))
	for i, f := range fields {
		members[i] = f.typ + " " + f.name
	}
	return name + "(" + strings.Join(members, ",") + ")"
}

// hasher computes digests without allocating. Its buffer has room for the longest of what is hashed in words, the
// type hash and the 13 fields of a transaction.
type hasher struct {
	state crypto.KeccakState
	buf   [14 * wordSize]byte
	sum   [wordSize]byte
}

var hashers = sync.Pool{New: func() any { return &hasher{state: crypto.NewKeccakState()} }}

// emptyHash is the hash of no data, which factory dependencies and a paymaster's input mostly are.
var emptyHash = policy.Hash(crypto.Keccak256Hash())

// keccak returns the hash of data.
func (h *hasher) keccak(data []byte) policy.Hash {
	if len(data) == 0 {
		return emptyHash
	}
	h.state.Reset()
	h.state.Write(data)    // never fails (hash.Hash)
	h.state.Read(h.sum[:]) // never fails (crypto.KeccakState)
	return h.sum
}

// eip712Digest returns keccak256(0x1901 ‖ domain separator ‖ struct hash).
func (t *Transaction) eip712Digest() policy.Hash {
	h := hashers.Get().(*hasher)
	defer hashers.Put(h)
	domain := h.domainSeparator(t.ChainID)
	message := h.structHash(t)
	digest := append(h.buf[:0], 0x19, 0x01)
	digest = append(digest, domain[:]...)
	return h.keccak(append(digest, message[:]...))
}

func (h *hasher) domainSeparator(chainID uint64) policy.Hash {
	words := words(h.buf[:0])
	words.hash(domainTypeHash)
	words.hash(domainNameHash)
	words.hash(domainVersionHash)
	words.uint64(chainID)
	return h.keccak(words)
}

// structHash has the fields in the order of [transactionFields].
func (h *hasher) structHash(t *Transaction) policy.Hash {
	data, deps, input := h.keccak(t.Data), h.hashList(t.FactoryDepsHash), h.keccak(t.PaymasterInput)
	words := words(h.buf[:0])
	words.hash(transactionTypeHash)
	words.uint256(zksyncType)
	words.address(t.From)
	words.address(t.To)
	words.uint256(&t.GasLimit)
	words.uint256(&t.GasPerPubdata)
	words.uint256(&t.MaxFeePerGas)
	words.uint256(&t.MaxPriorityFeePerGas)
	words.address(t.Paymaster)
	words.uint64(t.Nonce)
	words.uint256(&t.Value)
	words.hash(data)
	words.hash(deps)
	words.hash(input)
	return h.keccak(words)
}

// hashList returns the hash that stands for a bytes32[] (EIP-712, encodeData).
func (h *hasher) hashList(list []policy.Hash) policy.Hash {
	words := words(h.buf[:0])
	for _, e := range list {
		words.hash(e)
	}
	return h.keccak(words)
}

const wordSize = 32

// words is ABI-encoded data under construction: 32-byte words, big-endian.
type words []byte

var zeros [wordSize]byte

func (w *words) hash(h policy.Hash) { *w = append(*w, h[:]...) }

func (w *words) uint256(x *uint256.Int) {
	b := x.Bytes32()
	*w = append(*w, b[:]...)
}

func (w *words) uint64(x uint64) {
	*w = append(*w, zeros[:wordSize-8]...)
	*w = binary.BigEndian.AppendUint64(*w, x)
}

func (w *words) address(a policy.Address) {
	*w = append(*w, zeros[:wordSize-len(a)]...)
	*w = append(*w, a[:]...)
}

// bytes appends the length and the data, filled up with zeros to whole words.
func (w *words) bytes(b []byte) {
	w.uint64(uint64(len(b)))
	*w = append(*w, b...)
	*w = append(*w, zeros[:-len(b)&(wordSize-1)]...)
}
