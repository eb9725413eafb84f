package rules

import (
	"errors"
	"fmt"
	"time"

	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/interpreter"
	"github.com/holiman/uint256"

	"github.com/keyward/keyward/internal/zktx"
	"github.com/keyward/keyward/policy"
)

// Input is what the rules look at.
type Input struct {
	Tx      *zktx.Transaction // nil: it is a message
	Message *Message          // nil: it is a transaction
	Session Session
	Client  Client
	Now     time.Time

	args map[string]any // of the rule that is evaluated now
}

// Session is what rules can know of the session.
type Session struct {
	ID         string
	Kind       string // "agw" or "eoa"
	Account    policy.Address
	ChainID    uint64
	Signer     policy.Address
	Backend    string // the configuration's name
	Protection string // "resident", "sealed" …
	ExpiresAt  time.Time
}

// Client is what the socket knows of the program that asks.
type Client struct {
	UID, GID uint32
}

// variables are the names that an expression may use, and their types.
var variables = map[string]*types.Type{
	"now": types.TimestampType,

	"tx.type":         types.IntType,
	"tx.chainId":      types.IntType,
	"tx.nonce":        types.IntType,
	"tx.from":         addressType,
	"tx.target":       addressType,
	"tx.selector":     selectorType,
	"tx.function":     types.StringType,
	"tx.value":        weiType,
	"tx.gasLimit":     weiType,
	"tx.maxFeePerGas": weiType,
	"tx.maxFee":       weiType,
	"tx.cost":         weiType,
	"tx.dataSize":     types.IntType,
	"tx.paymaster":    addressType,

	"session.id":         types.StringType,
	"session.kind":       types.StringType,
	"session.account":    addressType,
	"session.signer":     addressType,
	"session.backend":    types.StringType,
	"session.protection": types.StringType,
	"session.expiresAt":  types.TimestampType,

	"client.uid": types.IntType,
	"client.gid": types.IntType,
}

// ResolveName returns the value of a variable.
func (in *Input) ResolveName(name string) (any, bool) {
	if value, ok := in.args[name]; ok {
		return value, true
	}
	switch name {
	case "now":
		return types.Timestamp{Time: in.Now.UTC()}, true
	case "session.id":
		return types.String(in.Session.ID), true
	case "session.kind":
		return types.String(in.Session.Kind), true
	case "session.account":
		return address(in.Session.Account), true
	case "session.signer":
		return address(in.Session.Signer), true
	case "session.backend":
		return types.String(in.Session.Backend), true
	case "session.protection":
		return types.String(in.Session.Protection), true
	case "session.expiresAt":
		return types.Timestamp{Time: in.Session.ExpiresAt.UTC()}, true
	case "client.uid":
		return types.Int(in.Client.UID), true
	case "client.gid":
		return types.Int(in.Client.GID), true
	}
	return in.resolveTx(name)
}

func (in *Input) resolveTx(name string) (any, bool) {
	if in.Tx == nil {
		return nil, false
	}
	switch tx := in.Tx; name {
	case "tx.type":
		return types.Int(tx.Type), true
	case "tx.chainId":
		return integer(tx.ChainID), true
	case "tx.nonce":
		return integer(tx.Nonce), true
	case "tx.from":
		return address(tx.From), true
	case "tx.target":
		return address(tx.To), true
	case "tx.selector":
		return selector(selectorOf(tx)), true
	case "tx.function":
		return types.String(selectorOf(tx).Name()), true
	case "tx.value":
		return wei(tx.Value), true
	case "tx.gasLimit":
		return wei(tx.GasLimit), true
	case "tx.maxFeePerGas":
		return wei(tx.MaxFeePerGas), true
	case "tx.maxFee":
		return wei(maxFee(tx)), true
	case "tx.cost":
		return wei(txCost(tx)), true
	case "tx.dataSize":
		return types.Int(len(tx.Data)), true
	case "tx.paymaster":
		return address(tx.Paymaster), true
	}
	return nil, false
}

// Parent returns nil: there are no other variables.
func (in *Input) Parent() interpreter.Activation { return nil }

// integer is x as CEL's 64-bit integer. One that does not fit is an error of the rule, which denies.
func integer(x uint64) any {
	if x > 1<<63-1 {
		return types.NewErr("%d is too large for an int", x)
	}
	return types.Int(x)
}

// selectorOf is the first four bytes of the calldata. Of less than four it is zero, as in a transfer policy.
func selectorOf(tx *zktx.Transaction) (s policy.Selector) {
	if len(tx.Data) >= len(s) {
		copy(s[:], tx.Data)
	}
	return s
}

// maxFee is what the transaction may cost in gas, in wei; the largest number if that does not fit.
func maxFee(tx *zktx.Transaction) uint256.Int {
	product, overflow := new(uint256.Int).MulOverflow(&tx.GasLimit, &tx.MaxFeePerGas)
	if overflow {
		product.SetAllOne()
	}
	return *product
}

// txCost is what may leave the account, in wei: the value, and the fee unless a paymaster pays it; the largest number
// if that does not fit.
func txCost(tx *zktx.Transaction) uint256.Int {
	if !tx.Paymaster.IsZero() {
		return tx.Value
	}
	fee := maxFee(tx)
	sum, overflow := new(uint256.Int).AddOverflow(&tx.Value, &fee)
	if overflow {
		sum.SetAllOne()
	}
	return *sum
}

// key returns which of a rule's counters in counts on.
func (in *Input) key(per string) (string, error) {
	switch per {
	case "all":
		return "", nil
	case "client":
		return fmt.Sprintf("uid:%d", in.Client.UID), nil
	case "session":
		return in.Session.ID, nil
	case "account":
		return in.Session.Account.String(), nil
	case "target":
		if in.Tx == nil {
			return "", errors.New("a message has no target")
		}
		return in.Tx.To.String(), nil
	}
	return "", fmt.Errorf("unknown per %q", per)
}
