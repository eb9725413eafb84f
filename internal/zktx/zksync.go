package zktx

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/ethereum/go-ethereum/crypto"
	"github.com/ethereum/go-ethereum/rlp"
	"github.com/holiman/uint256"

	"github.com/keyward/keyward/policy"
)

// rawTransaction is what follows the type byte in a raw transaction of type 0x71, as
// an RLP list (viem's ZKsync serializer; the node's TransactionRequest::from_bytes). It is for reading; what
// writes the same fields is [Transaction.rawZKsync].
type rawTransaction struct {
	Nonce                uint64
	MaxPriorityFeePerGas *uint256.Int
	MaxFeePerGas         *uint256.Int
	GasLimit             *uint256.Int
	To                   policy.Address
	Value                *uint256.Int
	Data                 []byte
	ChainID              uint64 // with R and S, where other types have the signature
	R, S                 []byte // always empty
	ChainIDAgain         uint64
	From                 policy.Address
	GasPerPubdata        *uint256.Int
	FactoryDeps          [][]byte
	CustomSignature      []byte
	PaymasterParams      [][]byte // empty, or the paymaster and its input
}

// rawZKsync returns the raw transaction of type 0x71.
func (t *Transaction) rawZKsync(customSignature []byte) ([]byte, error) {
	if len(t.FactoryDeps) != len(t.FactoryDepsHash) {
		return nil, ErrUnknownBytecode
	}
	w := rlp.NewEncoderBuffer(nil)
	list := w.List()
	w.WriteUint64(t.Nonce)
	w.WriteUint256(&t.MaxPriorityFeePerGas)
	w.WriteUint256(&t.MaxFeePerGas)
	w.WriteUint256(&t.GasLimit)
	w.WriteBytes(t.To[:])
	w.WriteUint256(&t.Value)
	w.WriteBytes(t.Data)
	w.WriteUint64(t.ChainID)
	w.WriteBytes(nil) // R and S, where other types have the signature
	w.WriteBytes(nil)
	w.WriteUint64(t.ChainID)
	w.WriteBytes(t.From[:])
	w.WriteUint256(&t.GasPerPubdata)
	writeBytesList(w, t.FactoryDeps)
	w.WriteBytes(customSignature)
	writeBytesList(w, t.paymasterParams())
	w.ListEnd(list)
	return w.AppendToBytes([]byte{TypeZKsync}), nil
}

func writeBytesList(w rlp.EncoderBuffer, items [][]byte) {
	list := w.List()
	for _, b := range items {
		w.WriteBytes(b)
	}
	w.ListEnd(list)
}

// paymasterParams returns nothing only where the digest has zeros for both: an input
// without a paymaster is signed too, so it is sent too.
func (t *Transaction) paymasterParams() [][]byte {
	if t.Paymaster == (policy.Address{}) && len(t.PaymasterInput) == 0 {
		return nil
	}
	return [][]byte{t.Paymaster[:], t.PaymasterInput}
}

// hashZKsync returns the hash that the node gives the transaction
// (zksync-era, L2Tx hash: keccak256(signed digest ‖ keccak256(signature))).
func (t *Transaction) hashZKsync(customSignature []byte) policy.Hash {
	digest := t.Digest()
	return policy.Hash(crypto.Keccak256Hash(digest[:], crypto.Keccak256(customSignature)))
}

// ParseRaw reads a raw transaction of type 0x71 and the customSignature in it. It is the
// inverse of [Transaction.Raw]: what it accepts, Raw returns byte for byte.
// Errors are *[FieldError].
func ParseRaw(raw []byte) (t *Transaction, customSignature []byte, err error) {
	if len(raw) == 0 || raw[0] != TypeZKsync {
		return nil, nil, &FieldError{Msg: "want a raw transaction of type 0x71"}
	}
	var r rawTransaction
	if err := rlp.DecodeBytes(raw[1:], &r); err != nil {
		return nil, nil, &FieldError{Msg: err.Error()}
	}
	if err := r.check(); err != nil {
		return nil, nil, err
	}
	t = &Transaction{
		Type:                 TypeZKsync,
		ChainID:              r.ChainID,
		Nonce:                r.Nonce,
		From:                 r.From,
		To:                   r.To,
		Value:                *r.Value,
		Data:                 r.Data,
		GasLimit:             *r.GasLimit,
		MaxFeePerGas:         *r.MaxFeePerGas,
		MaxPriorityFeePerGas: *r.MaxPriorityFeePerGas,
		GasPerPubdata:        *r.GasPerPubdata,
	}
	if len(r.PaymasterParams) > 0 {
		t.Paymaster = policy.Address(r.PaymasterParams[0])
		t.PaymasterInput = r.PaymasterParams[1]
	}
	if err := t.setFactoryDeps(r.FactoryDeps); err != nil {
		return nil, nil, policy.WithinPath("factoryDeps", err)
	}
	return t, r.CustomSignature, nil
}

// check refuses what rlp accepts and [Transaction.Raw] never writes.
func (r *rawTransaction) check() error {
	if r.ChainID == 0 || r.ChainID != r.ChainIDAgain || len(r.R) != 0 || len(r.S) != 0 {
		return &FieldError{Path: "chainId", Msg: "want the chain id, two empty fields and the chain id again"}
	}
	switch p := r.PaymasterParams; {
	case len(p) == 0:
		return nil
	case len(p) != 2 || len(p[0]) != len(policy.Address{}):
		return &FieldError{Path: "paymasterParams", Msg: "want no fields, or a paymaster's address and its input"}
	case policy.Address(p[0]) == policy.Address{} && len(p[1]) == 0:
		return &FieldError{Path: "paymasterParams", Msg: "want no fields where there is no paymaster"}
	}
	return nil
}

// setFactoryDeps sets the bytecodes and their hashes.
func (t *Transaction) setFactoryDeps(bytecodes [][]byte) error {
	for i, code := range bytecodes {
		h, err := hashBytecode(code)
		if err != nil {
			return policy.WithinPath(fmt.Sprintf("[%d]", i), err)
		}
		t.FactoryDepsHash = append(t.FactoryDepsHash, h)
	}
	t.FactoryDeps = bytecodes
	return nil
}

// hashBytecode returns the versioned hash of an EraVM bytecode: version 1, a zero
// byte, the length in 32-byte words as 16 bits, and the last 28 bytes of its SHA-256
// (zksync-era, BytecodeHash::for_bytecode).
func hashBytecode(code []byte) (h policy.Hash, err error) {
	n := len(code) / wordSize
	switch {
	case len(code)%wordSize != 0:
		return h, fmt.Errorf("bytecode has %d bytes, want a multiple of 32", len(code))
	case n%2 == 0:
		return h, fmt.Errorf("bytecode has %d words of 32 bytes, want an odd number", n)
	case n >= 1<<16:
		return h, errors.New("bytecode has 2^16 words of 32 bytes or more")
	}
	h = sha256.Sum256(code)
	h[0], h[1] = 1, 0
	binary.BigEndian.PutUint16(h[2:4], uint16(n))
	return h, nil
}

// CustomSignature returns abi.encode(bytes signature, address validator, bytes[] hookData),
// which the smart account reads as the signature of a session's transaction.
func CustomSignature(signature [65]byte, validator policy.Address, hookData [][]byte) []byte {
	var sig words
	sig.bytes(signature[:])
	const head = 3 * wordSize

	var w words
	w.uint64(head) // offset of signature
	w.address(validator)
	w.uint64(uint64(head + len(sig))) // offset of hookData
	w = append(w, sig...)
	w.bytesArray(hookData)
	return w
}

// bytesArray appends a bytes[]: its length, the offset of each element from what
// follows the length, and the elements.
func (w *words) bytesArray(list [][]byte) {
	var tail words
	w.uint64(uint64(len(list)))
	for _, b := range list {
		w.uint64(uint64(len(list)*wordSize + len(tail)))
		tail.bytes(b)
	}
	*w = append(*w, tail...)
}
