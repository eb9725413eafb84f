package chaintest

import (
	"encoding/binary"
	"fmt"
	"math/big"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/common/hexutil"

	"github.com/keyward/keyward/internal/config"
	"github.com/keyward/keyward/policy"
)

// NewAccount makes a smart account with ether in it and a nonce of 0.
func (n *Node) NewAccount() policy.Address {
	n.t.Helper()
	n.accounts++
	account := policy.Address{0xac, 0xc0}
	binary.BigEndian.PutUint64(account[12:], uint64(n.accounts))
	n.setCode(account, "Account")
	n.Call(nil, "anvil_setBalance", common.Address(account), hexutil.EncodeBig(new(big.Int).Lsh(big.NewInt(1), 80)))
	n.Mine(1)
	return account
}

// Nonce is the account's, in the newest block.
func (n *Node) Nonce(account policy.Address) uint64 {
	n.t.Helper()
	var nonce hexutil.Uint64
	n.Call(&nonce, "eth_getTransactionCount", common.Address(account), "latest")
	return uint64(nonce)
}

// SetNonce sets the account's nonce.
func (n *Node) SetNonce(account policy.Address, nonce uint64) {
	n.t.Helper()
	n.Call(nil, "anvil_setNonce", common.Address(account), hexutil.Uint64(nonce))
	n.Mine(1)
}

// TakeNonces has the account's owner send transactions that do nothing.
func (n *Node) TakeNonces(account policy.Address, count int) {
	n.t.Helper()
	n.must(n.transact(account, "Account", "takeNonces", big.NewInt(int64(count))))
}

// Execute has the account's owner call a contract. A revert is an error.
func (n *Node) Execute(account, to policy.Address, data []byte) error {
	n.t.Helper()
	return n.transact(account, "Account", "execute", common.Address(to), new(big.Int), data)
}

// CreateSession has the account's owner create the session.
func (n *Node) CreateSession(account policy.Address, spec *policy.Spec) {
	n.t.Helper()
	n.must(n.Execute(account, config.SessionKeyValidator, spec.CreateSessionCalldata()))
}

// Revoke has the account's owner revoke sessions.
func (n *Node) Revoke(account policy.Address, sessions ...policy.Hash) {
	n.t.Helper()
	data, err := n.contracts["Validator"].ABI.Pack("revokeKeys", sessions)
	n.must(err)
	n.must(n.Execute(account, config.SessionKeyValidator, data))
}

// SetKeepsExpiry says whether sessions that are created from now on have an expiresAt in
// sessionState. In the published contract, and here at first, they have not.
func (n *Node) SetKeepsExpiry(keeps bool) {
	n.t.Helper()
	n.must(n.transact(config.SessionKeyValidator, "Validator", "setKeepsExpiry", keeps))
}

// Use is what a session transaction counts by.
type Use struct {
	To        policy.Address
	Value     *big.Int // wei; nil is 0
	Data      []byte
	Fee       *big.Int // wei; nil is 0
	Paymaster bool     // which pays the fee, so that it does not count
}

// Use has the account send a session transaction that nobody signed: for usage that the
// agent knows nothing of. It takes a nonce. A limit that is exceeded is an error.
func (n *Node) Use(account policy.Address, spec *policy.Spec, use Use) error {
	n.t.Helper()
	return n.transact(account, "Account", "use", common.Address(config.SessionKeyValidator), spec.EncodeABI(), struct {
		To        common.Address
		Value     *big.Int
		Data      []byte
		Fee       *big.Int
		Paymaster bool
	}{common.Address(use.To), orZero(use.Value), use.Data, orZero(use.Fee), use.Paymaster})
}

func orZero(x *big.Int) *big.Int {
	if x == nil {
		return new(big.Int)
	}
	return x
}

// Transaction is a ZKsync transaction with neither factory dependencies nor the
// fields that are the same in all of ours.
type Transaction struct {
	To                     policy.Address
	GasLimit               *big.Int
	GasPerPubdataByteLimit *big.Int
	MaxFeePerGas           *big.Int
	MaxPriorityFeePerGas   *big.Int
	Paymaster              policy.Address
	Nonce                  uint64
	Value                  *big.Int
	Data                   []byte
	PaymasterInput         []byte
}

// Land has the account accept a session transaction as the chain would: the nonce is the
// account's next, the signature is the session signer's over this very transaction, and
// the spec allows it. Whatever does not hold is an error, and nothing lands.
func (n *Node) Land(account policy.Address, spec *policy.Spec, tx *Transaction, signature []byte) error {
	n.t.Helper()
	if next := n.Nonce(account); next != tx.Nonce {
		return fmt.Errorf("nonce %d, the account's next is %d", tx.Nonce, next)
	}
	word := func(a policy.Address) *big.Int { return new(big.Int).SetBytes(a[:]) }
	return n.transact(account, "Account", "land", common.Address(config.SessionKeyValidator), spec.EncodeABI(), struct {
		From, To, GasLimit, GasPerPubdataByteLimit, MaxFeePerGas, MaxPriorityFeePerGas, Paymaster, Nonce, Value *big.Int
		Data, PaymasterInput                                                                                    []byte
	}{
		word(account), word(tx.To), tx.GasLimit, tx.GasPerPubdataByteLimit, tx.MaxFeePerGas, tx.MaxPriorityFeePerGas,
		word(tx.Paymaster), new(big.Int).SetUint64(tx.Nonce), orZero(tx.Value), tx.Data, tx.PaymasterInput,
	}, signature)
}
