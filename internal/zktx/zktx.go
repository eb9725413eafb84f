// Package zktx reads transactions to sign, as EIP-712 typed data or as
// transaction JSON, into one struct, and computes from that struct alone the
// digest that is signed and the raw transaction.
package zktx

import (
	"github.com/holiman/uint256"

	"github.com/keyward/keyward/policy"
)

// Transaction types.
const (
	TypeLegacy     = 0x00
	TypeAccessList = 0x01 // EIP-2930
	TypeDynamicFee = 0x02 // EIP-1559
	TypeZKsync     = 0x71 // ZKsync EIP-712 transaction
)

// Transaction is one transaction, of any type that a session may sign.
type Transaction struct {
	Type                 uint8
	ChainID              uint64
	Nonce                uint64
	From                 policy.Address
	To                   policy.Address
	Value                uint256.Int // wei
	Data                 []byte
	GasLimit             uint256.Int
	MaxFeePerGas         uint256.Int // wei; of types 0 and 1 the gas price
	MaxPriorityFeePerGas uint256.Int // wei

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

// A FieldError is malformed input: which field, and what is wrong with it.
type FieldError struct {
	Path string // e.g. "message.gasLimit"
	Msg  string
}

func (e *FieldError) Error() string { return e.Path + ": " + e.Msg }

// ParseTypedData reads EIP-712 typed data that is a ZKsync transaction, strictly.
// Errors are *[FieldError]; [ErrForeign] if the data is well-formed typed data of another kind.
func ParseTypedData(data []byte) (*Transaction, error) { panic("to be written") }

// ParseTransaction reads a transaction request as JSON-RPC clients send it, strictly.
// kind TypeZKsync reads a type 0x71 one; TypeDynamicFee one of types 0, 1 and 2, as the fields say.
// "from" is required. chainID is what a request without chainId means. Errors are *[FieldError].
func ParseTransaction(data []byte, kind uint8, chainID uint64) (*Transaction, error) {
	panic("to be written")
}

// Digest is the 32 bytes that are signed: EIP-712 for type 0x71, the signing hash for the others.
func (t *Transaction) Digest() policy.Hash { panic("to be written") }

// Call is what the policy looks at.
func (t *Transaction) Call(validator policy.Address) *policy.Call { panic("to be written") }

// Raw returns the complete raw transaction. For type 0x71 signature is the customSignature,
// see [CustomSignature]; for others it is the 65 bytes R ‖ S ‖ V, V 27 or 28.
func (t *Transaction) Raw(signature []byte) ([]byte, error) { panic("to be written") }

// Hash is the hash that the transaction has on chain. For type 0x71 it is
// keccak256(digest ‖ keccak256(customSignature)).
func (t *Transaction) Hash(signature []byte) (policy.Hash, error) { panic("to be written") }

// CustomSignature returns abi.encode(bytes signature, address validator, bytes[] hookData).
func CustomSignature(signature [65]byte, validator policy.Address, hookData [][]byte) []byte {
	panic("to be written")
}
