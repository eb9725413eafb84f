// Package zktx reads transactions to sign, as EIP-712 typed data or as
// transaction JSON, into one struct, and computes from that struct alone the
// digest that is signed and the raw transaction.
//
// Reading is strict, because a reader that guesses lets policy judge one
// transaction and the chain execute another: unknown and duplicate fields,
// rounded numbers, dirty upper bits of an address and null where a value belongs
// are errors. Each is a *[FieldError] that names the field.
package zktx

import (
	"errors"

	"github.com/ethereum/go-ethereum/crypto"
	"github.com/holiman/uint256"

	"github.com/keyward/keyward/policy"
)

// Transaction types (EIP-2718).
const (
	TypeLegacy     = 0x00
	TypeAccessList = 0x01 // EIP-2930
	TypeDynamicFee = 0x02 // EIP-1559
	TypeZKsync     = 0x71 // ZKsync EIP-712 transaction

	typeBlob    = 0x03 // EIP-4844
	typeSetCode = 0x04 // EIP-7702
)

// Errors that callers test for with errors.Is.
var (
	// ErrForeign: well-formed typed data that is no ZKsync transaction. A session
	// signs transactions only, so this is a refusal and no mistake of the client's.
	ErrForeign = errors.New("typed data that is no ZKsync transaction")
	// ErrRefusedType: a blob or set-code transaction, or a contract creation. It may be
	// well formed, but no session may sign one. The *[FieldError] around it says which.
	ErrRefusedType = errors.New("refused transaction type")
	// ErrUnknownBytecode: the transaction came as typed data, which has only the hashes
	// of its factory dependencies, and so the raw transaction can't be made.
	ErrUnknownBytecode = errors.New("bytecode of the factory dependencies is not known")
	// ErrSignature: not a signature of the length or with the V that the transaction takes.
	ErrSignature = errors.New("want 65 bytes R, S and V, with V 27 or 28")
)

// Transaction is one transaction, of any type that a session may sign. It comes from
// one of this package's parsers; its methods rely on what they check.
type Transaction struct {
	Type                 uint8
	ChainID              uint64 // never 0
	Nonce                uint64
	From                 policy.Address
	To                   policy.Address
	Value                uint256.Int // wei
	Data                 []byte
	GasLimit             uint256.Int // of types 0, 1 and 2 below 2^64
	MaxFeePerGas         uint256.Int // wei; of types 0 and 1 the gas price
	MaxPriorityFeePerGas uint256.Int // wei; of types 0 and 1 zero

	AccessList []AccessTuple // types 1 and 2

	// Type 0x71 only.
	GasPerPubdata   uint256.Int
	FactoryDeps     [][]byte      // bytecodes, as the raw transaction carries them; unknown if it came as typed data
	FactoryDepsHash []policy.Hash // bytecode hashes, as the digest has them
	Paymaster       policy.Address
	PaymasterInput  []byte
}

// AccessTuple is an EIP-2930 access list entry.
type AccessTuple struct {
	Address     policy.Address `json:"address"`
	StorageKeys []policy.Hash  `json:"storageKeys"`
}

// A FieldError is malformed input: which field, e.g. "message.gasLimit", and what is wrong with it. It wraps
// [ErrRefusedType] where that is the reason.
type FieldError = policy.JSONError

// Call is what the policy looks at.
func (t *Transaction) Call(validator policy.Address) *policy.Call {
	return &policy.Call{
		Account:        t.From,
		Validator:      validator,
		To:             t.To,
		Value:          t.Value,
		Data:           t.Data,
		GasLimit:       t.GasLimit,
		MaxFeePerGas:   t.MaxFeePerGas,
		Paymaster:      t.Paymaster,
		PaymasterInput: t.PaymasterInput,
	}
}

// Digest is the 32 bytes that are signed: EIP-712 for type 0x71, the signing hash for the others.
func (t *Transaction) Digest() policy.Hash {
	if t.Type == TypeZKsync {
		return t.eip712Digest()
	}
	return t.digestEthereum()
}

// Raw returns the complete raw transaction. For type 0x71 signature is the customSignature,
// see [CustomSignature]; for others it is the 65 bytes R ‖ S ‖ V, V 27 or 28.
// Errors are [ErrUnknownBytecode] and [ErrSignature].
func (t *Transaction) Raw(signature []byte) ([]byte, error) {
	if t.Type == TypeZKsync {
		return t.rawZKsync(signature)
	}
	fields, err := t.signedFields(signature)
	if err != nil {
		return nil, err
	}
	return t.encodeEthereum(fields), nil
}

// Hash is the hash that the transaction has on chain. For type 0x71 it is
// keccak256(digest ‖ keccak256(customSignature)). The signature is as for [Transaction.Raw].
func (t *Transaction) Hash(signature []byte) (policy.Hash, error) {
	if t.Type == TypeZKsync {
		return t.hashZKsync(signature), nil
	}
	raw, err := t.Raw(signature)
	return policy.Hash(crypto.Keccak256Hash(raw)), err
}
