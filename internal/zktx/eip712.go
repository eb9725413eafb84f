package zktx

import (
	"encoding/binary"
	"strings"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/crypto"
	"github.com/holiman/uint256"

	"github.com/keyward/keyward/policy"
)

var (
	zksyncType = uint256.NewInt(TypeZKsync)

	// EIP-712, "Definition of hashStruct" and "Definition of domainSeparator".
	domainTypeHash      = crypto.Keccak256Hash([]byte(encodeType("EIP712Domain", domainFields)))
	transactionTypeHash = crypto.Keccak256Hash([]byte(encodeType(primaryType, transactionFields)))
	domainNameHash      = crypto.Keccak256Hash([]byte(domainName))
	domainVersionHash   = crypto.Keccak256Hash([]byte(domainVersion))
)

// encodeType returns a type's declaration, e.g. "Mail(address to,string contents)" (EIP-712, encodeType).
func encodeType(name string, fields []typedField) string {
	members := make([]string, len(fields))
	for i, f := range fields {
		members[i] = f.typ + " " + f.name
	}
	return name + "(" + strings.Join(members, ",") + ")"
}

// eip712Digest returns keccak256(0x1901 ‖ domain separator ‖ struct hash).
func (t *Transaction) eip712Digest() policy.Hash {
	domain := domainSeparator(t.ChainID)
	message := t.structHash()
	return policy.Hash(crypto.Keccak256Hash([]byte{0x19, 0x01}, domain[:], message[:]))
}

func domainSeparator(chainID uint64) common.Hash {
	words := make(words, 0, (1+len(domainFields))*wordSize)
	words.hash(domainTypeHash)
	words.hash(domainNameHash)
	words.hash(domainVersionHash)
	words.uint64(chainID)
	return crypto.Keccak256Hash(words)
}

// structHash has the fields in the order of [transactionFields].
func (t *Transaction) structHash() common.Hash {
	words := make(words, 0, (1+len(transactionFields))*wordSize)
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
	words.hash(crypto.Keccak256Hash(t.Data))
	words.hash(hashList(t.FactoryDepsHash))
	words.hash(crypto.Keccak256Hash(t.PaymasterInput))
	return crypto.Keccak256Hash(words)
}

// hashList returns the hash that stands for a bytes32[] (EIP-712, encodeData).
func hashList(list []policy.Hash) common.Hash {
	words := make(words, 0, len(list)*wordSize)
	for _, h := range list {
		words.hash(common.Hash(h))
	}
	return crypto.Keccak256Hash(words)
}

const wordSize = 32

// words is ABI-encoded data under construction: 32-byte words, big-endian.
type words []byte

func (w *words) hash(h common.Hash) { *w = append(*w, h[:]...) }

func (w *words) uint256(x *uint256.Int) {
	b := x.Bytes32()
	*w = append(*w, b[:]...)
}

func (w *words) uint64(x uint64) {
	*w = append(*w, make([]byte, wordSize-8)...)
	*w = binary.BigEndian.AppendUint64(*w, x)
}

func (w *words) address(a policy.Address) {
	*w = append(*w, make([]byte, wordSize-len(a))...)
	*w = append(*w, a[:]...)
}

// bytes appends the length and the data, filled up with zeros to whole words.
func (w *words) bytes(b []byte) {
	w.uint64(uint64(len(b)))
	*w = append(*w, b...)
	*w = append(*w, make([]byte, -len(b)&(wordSize-1))...)
}
