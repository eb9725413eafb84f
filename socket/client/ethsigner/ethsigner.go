// Package ethsigner signs go-ethereum's transactions through a Keyward agent. It is a package of its own because
// go-ethereum's types come with much code that other clients do not need.
package ethsigner

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"time"

	"github.com/ethereum/go-ethereum"
	"github.com/ethereum/go-ethereum/accounts"
	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/common/hexutil"
	"github.com/ethereum/go-ethereum/core/types"

	"github.com/keyward/keyward/socket/client"
)

// signTimeout bounds a call where go-ethereum's interfaces have no context.
const signTimeout = 60 * time.Second

// errTransactionsOnly: a session's key signs nothing else.
var errTransactionsOnly = fmt.Errorf("keyward: a session signs transactions only: %w", accounts.ErrNotSupported)

// Signer signs go-ethereum's transactions with an eoa session, where the signer is the account itself.
// It is an [accounts.Wallet] of one account, and its [Signer.SignerFn] is what
// bind.TransactOpts takes.
type Signer struct {
	client  *client.Client
	account accounts.Account
}

var _ accounts.Wallet = (*Signer)(nil)

// New returns the signer with that address. Closing the Client ends it.
func New(c *client.Client, address common.Address) *Signer {
	url := accounts.URL{Scheme: "keyward", Path: c.Socket()}
	return &Signer{client: c, account: accounts.Account{Address: address, URL: url}}
}

// transaction is a transaction in the JSON that session_signTransaction takes.
type transaction struct {
	Session              common.Address    `json:"session"` // by its signer
	Type                 hexutil.Uint64    `json:"type"`
	ChainID              *hexutil.Big      `json:"chainId"`
	From                 common.Address    `json:"from"`
	To                   *common.Address   `json:"to"` // null asks for a contract, which is refused
	Nonce                hexutil.Uint64    `json:"nonce"`
	Gas                  hexutil.Uint64    `json:"gas"`
	GasPrice             *hexutil.Big      `json:"gasPrice,omitempty"`
	MaxFeePerGas         *hexutil.Big      `json:"maxFeePerGas,omitempty"`
	MaxPriorityFeePerGas *hexutil.Big      `json:"maxPriorityFeePerGas,omitempty"`
	Value                *hexutil.Big      `json:"value"`
	Data                 hexutil.Bytes     `json:"data"`
	AccessList           *types.AccessList `json:"accessList,omitempty"`
}

// SignTransaction has tx signed. Types 0, 1 and 2 are; a legacy one always with its chain (EIP-155).
func (s *Signer) SignTransaction(ctx context.Context, tx *types.Transaction, chainID *big.Int) (*types.Transaction,
	error) {
	signed, err := s.client.SignTransaction(ctx, s.request(tx, chainID))
	if err != nil {
		return nil, err
	}
	out := new(types.Transaction)
	if err := out.UnmarshalBinary(signed.Raw); err != nil {
		return nil, fmt.Errorf("decoding the signed transaction: %w", err)
	}
	signer := types.LatestSignerForChainID(chainID)
	if signer.Hash(out) != signer.Hash(tx) {
		return nil, errors.New("the agent signed another transaction than it was asked to")
	}
	return out, nil
}

func (s *Signer) request(tx *types.Transaction, chainID *big.Int) *transaction {
	req := &transaction{
		Session: s.account.Address, From: s.account.Address, To: tx.To(),
		Type: hexutil.Uint64(tx.Type()), ChainID: (*hexutil.Big)(chainID),
		Nonce: hexutil.Uint64(tx.Nonce()), Gas: hexutil.Uint64(tx.Gas()),
		Value: (*hexutil.Big)(tx.Value()), Data: tx.Data(),
	}
	if tx.Type() == types.LegacyTxType || tx.Type() == types.AccessListTxType {
		req.GasPrice = (*hexutil.Big)(tx.GasPrice())
	} else {
		req.MaxFeePerGas, req.MaxPriorityFeePerGas = (*hexutil.Big)(tx.GasFeeCap()), (*hexutil.Big)(tx.GasTipCap())
	}
	if tx.Type() != types.LegacyTxType {
		list := tx.AccessList()
		if list == nil {
			list = types.AccessList{}
		}
		req.AccessList = &list
	}
	return req
}

// SignerFn returns a function that bind.TransactOpts takes as its Signer. It signs for ctx's lifetime.
func (s *Signer) SignerFn(ctx context.Context, chainID *big.Int) func(common.Address, *types.Transaction) (*types.Transaction, error) {
	return func(from common.Address, tx *types.Transaction) (*types.Transaction, error) {
		if from != s.account.Address {
			return nil, accounts.ErrUnknownAccount
		}
		return s.SignTransaction(ctx, tx, chainID)
	}
}

// SignTx is [Signer.SignTransaction] for go-ethereum's account manager.
func (s *Signer) SignTx(account accounts.Account, tx *types.Transaction, chainID *big.Int) (*types.Transaction, error) {
	if !s.Contains(account) {
		return nil, accounts.ErrUnknownAccount
	}
	ctx, cancel := context.WithTimeout(context.Background(), signTimeout)
	defer cancel()
	return s.SignTransaction(ctx, tx, chainID)
}

// SignTxWithPassphrase is not supported: PINs are the operator's.
func (s *Signer) SignTxWithPassphrase(accounts.Account, string, *types.Transaction, *big.Int) (*types.Transaction,
	error) {
	return nil, fmt.Errorf("keyward: PINs are the operator's to give: %w", accounts.ErrNotSupported)
}

// URL names the socket.
func (s *Signer) URL() accounts.URL { return s.account.URL }

// Status asks the agent whether this process may use the signer.
func (s *Signer) Status() (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), signTimeout)
	defer cancel()
	sess, err := s.client.Session(ctx, s.account.Address.Hex())
	if err != nil {
		return "", err
	}
	return "session " + sess.ID + " is " + sess.Status, nil
}

// Open does nothing: the Client is connected.
func (s *Signer) Open(string) error { return nil }

// Close does nothing: the Client is its owner's to close.
func (s *Signer) Close() error { return nil }

// Accounts is the one account.
func (s *Signer) Accounts() []accounts.Account { return []accounts.Account{s.account} }

// Contains reports whether account is the one.
func (s *Signer) Contains(account accounts.Account) bool {
	return account.Address == s.account.Address && (account.URL == accounts.URL{} || account.URL == s.account.URL)
}

// Derive is not supported: every session has a key of its own.
func (s *Signer) Derive(accounts.DerivationPath, bool) (accounts.Account, error) {
	return accounts.Account{}, accounts.ErrNotSupported
}

// SelfDerive does nothing, see [Signer.Derive].
func (s *Signer) SelfDerive([]accounts.DerivationPath, ethereum.ChainStateReader) {}

// SignData is refused, as the agent would.
func (s *Signer) SignData(accounts.Account, string, []byte) ([]byte, error) {
	return nil, errTransactionsOnly
}

// SignDataWithPassphrase is refused, as the agent would.
func (s *Signer) SignDataWithPassphrase(accounts.Account, string, string, []byte) ([]byte, error) {
	return nil, errTransactionsOnly
}

// SignText is refused, as the agent would.
func (s *Signer) SignText(accounts.Account, []byte) ([]byte, error) { return nil, errTransactionsOnly }

// SignTextWithPassphrase is refused, as the agent would.
func (s *Signer) SignTextWithPassphrase(accounts.Account, string, []byte) ([]byte, error) {
	return nil, errTransactionsOnly
}
