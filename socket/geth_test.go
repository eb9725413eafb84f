package socket

import (
	"context"
	"errors"
	"math/big"
	"strings"
	"testing"

	"github.com/ethereum/go-ethereum/accounts"
	"github.com/ethereum/go-ethereum/accounts/abi/bind"
	"github.com/ethereum/go-ethereum/accounts/external"
	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/core/types"
	"github.com/ethereum/go-ethereum/rpc"

	goclient "github.com/keyward/keyward/socket/client"
	"github.com/keyward/keyward/socket/client/ethsigner"
)

// go-ethereum's own client, unchanged, over the stream: calls, errors with data, and batches.
func TestGoEthereumRPC(t *testing.T) {
	a := startAgent(t)
	sess := a.session("agw", testSpec)
	c, err := rpc.DialIPC(t.Context(), a.appPath)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var signature string
	if err := c.Call(&signature, "eth_signTypedData_v4", sess.Signer, typedData(nil)); err != nil ||
		len(signature) != 132 {
		t.Errorf("eth_signTypedData_v4 = %s, %v", signature, err)
	}
	err = c.Call(&signature, "eth_signTypedData_v4", sess.Signer, typedData(map[string]any{"to": asInteger(testOther)}))
	var coded rpc.DataError
	if !errors.As(err, &coded) || err.(rpc.Error).ErrorCode() != 4001 ||
		coded.ErrorData().(map[string]any)["reason"] != "callNotAllowed" {
		t.Errorf("denied: %v, want 4001 with a reason", err)
	}
	batch := make([]rpc.BatchElem, 50)
	for i := range batch {
		batch[i] = rpc.BatchElem{Method: "eth_signTypedData_v4", Args: []any{sess.Signer, typedData(nil)},
			Result: new(string)}
	}
	batch[49].Method = "eth_nothing"
	if err := c.BatchCall(batch); err != nil {
		t.Fatal(err)
	}
	for i, b := range batch[:49] {
		if b.Error != nil || *b.Result.(*string) != signature {
			t.Errorf("batch element %d = %s, %v, want %s", i, *b.Result.(*string), b.Error, signature)
		}
	}
	if batch[49].Error == nil || !strings.Contains(batch[49].Error.Error(), "does not exist/is not available") {
		t.Errorf("last batch element: %v", batch[49].Error)
	}
}

// ethereumTransactions are of the types that an eoa session signs, all within testSpec's transfer policy.
func ethereumTransactions() map[string]types.TxData {
	to := common.HexToAddress(testGame)
	gwei := big.NewInt(10)
	return map[string]types.TxData{
		"legacy": &types.LegacyTx{Nonce: 1, GasPrice: gwei, Gas: 21000, To: &to, Value: big.NewInt(1)},
		"access list": &types.AccessListTx{ChainID: big.NewInt(ethereumChain), Nonce: 2, GasPrice: gwei, Gas: 30000, To: &to,
			Value:      big.NewInt(1),
			AccessList: types.AccessList{{Address: to, StorageKeys: []common.Hash{{1}}}}},
		"empty access list": &types.AccessListTx{ChainID: big.NewInt(ethereumChain), Nonce: 3, GasPrice: gwei, Gas: 30000,
			To: &to, Value: big.NewInt(1)},
		"dynamic fee": &types.DynamicFeeTx{ChainID: big.NewInt(ethereumChain), Nonce: 4, GasTipCap: big.NewInt(1),
			GasFeeCap: gwei, Gas: 21000, To: &to, Value: big.NewInt(1)},
	}
}

// accounts/external, made for Clef, works unchanged with an eoa session.
func TestGoEthereumExternalSigner(t *testing.T) {
	a := startAgent(t)
	sess := a.sessionOn("other", "eoa", testSpec)
	wallet, err := external.NewExternalSigner(a.appPath)
	if err != nil {
		t.Fatal(err)
	}
	account := accounts.Account{Address: common.Address(sess.Signer)}
	if list := wallet.Accounts(); len(list) != 1 || list[0].Address != account.Address {
		t.Fatalf("Accounts = %v, want %v", list, account)
	}
	if status, err := wallet.Status(); err != nil || !strings.Contains(status, clefVersion) {
		t.Errorf("Status = %q, %v", status, err)
	}
	for name, data := range ethereumTransactions() {
		signed, err := wallet.SignTx(account, types.NewTx(data), big.NewInt(ethereumChain))
		checkEthereum(t, name, signed, err, account.Address, types.NewTx(data))
	}
	if _, err := wallet.SignText(account, []byte("hello")); err == nil {
		t.Error("SignText signed a message")
	}
}

// checkEthereum checks that signed is want, signed by from.
func checkEthereum(t *testing.T, name string, signed *types.Transaction, err error, from common.Address,
	want *types.Transaction) {
	t.Helper()
	if err != nil {
		t.Errorf("%s: %v", name, err)
		return
	}
	signer := types.LatestSignerForChainID(big.NewInt(ethereumChain))
	sender, err := types.Sender(signer, signed)
	if err != nil || sender != from || signer.Hash(signed) != signer.Hash(want) {
		t.Errorf("%s: signed by %v (%v), want %v over the same transaction", name, sender, err, from)
	}
}

func TestSigner(t *testing.T) {
	a := startAgent(t)
	sess := a.sessionOn("other", "eoa", testSpec)
	address, chain := common.Address(sess.Signer), big.NewInt(ethereumChain)
	signer := ethsigner.New(a.app, address)
	opts := bind.TransactOpts{From: address, Signer: signer.SignerFn(t.Context(), chain)}
	for name, data := range ethereumTransactions() {
		signed, err := opts.Signer(address, types.NewTx(data))
		checkEthereum(t, name, signed, err, address, types.NewTx(data))
		signed, err = signer.SignTx(signer.Accounts()[0], types.NewTx(data), chain)
		checkEthereum(t, name+" as a wallet", signed, err, address, types.NewTx(data))
	}
	if status, err := signer.Status(); err != nil || !strings.Contains(status, "active") {
		t.Errorf("Status = %q, %v", status, err)
	}
	to := common.HexToAddress(testOther)
	_, err := opts.Signer(address, types.NewTx(&types.DynamicFeeTx{ChainID: chain, Nonce: 9, GasFeeCap: big.NewInt(1),
		Gas: 21000, To: &to}))
	if reply := goclient.Details(err); reply == nil || reply.Denial() == nil ||
		reply.Denial().Reason != "transferNotAllowed" {
		t.Errorf("outside the policy: %v, want a denial", err)
	}
	_, err = opts.Signer(address, types.NewTx(&types.DynamicFeeTx{ChainID: chain, Nonce: 9, GasFeeCap: big.NewInt(1),
		Gas: 90000, Data: []byte{1}}))
	if reply := goclient.Details(err); reply == nil || reply.Code != 4001 {
		t.Errorf("contract creation: %v, want 4001", err)
	}
	if _, err := opts.Signer(to, types.NewTx(ethereumTransactions()["legacy"])); !errors.Is(err,
		accounts.ErrUnknownAccount) {
		t.Errorf("another account: %v, want ErrUnknownAccount", err)
	}
	if _, err := signer.SignText(signer.Accounts()[0], nil); !errors.Is(err, accounts.ErrNotSupported) {
		t.Errorf("SignText: %v, want ErrNotSupported", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := signer.SignTransaction(ctx, types.NewTx(ethereumTransactions()["legacy"]), chain); !errors.Is(err,
		context.Canceled) {
		t.Errorf("cancelled: %v, want context.Canceled", err)
	}
}
