package zktx

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/core/types"
	"github.com/holiman/uint256"

	"github.com/keyward/keyward/policy"
)

// randomEthereum returns a transaction of type 0, 1 or 2 with fields of all lengths.
func randomEthereum(r *rand.Rand) *Transaction {
	t := randomTransaction(r)
	t.Type = uint8(r.IntN(3))
	t.GasLimit = *uint256.NewInt(r.Uint64() >> r.IntN(64))
	t.Paymaster, t.PaymasterInput, t.FactoryDepsHash, t.GasPerPubdata = policy.Address{}, nil, nil, uint256.Int{}
	if t.Type != TypeDynamicFee {
		t.MaxPriorityFeePerGas = uint256.Int{}
	}
	if t.Type == TypeLegacy {
		return t
	}
	for range r.IntN(3) {
		var keys []policy.Hash
		for range r.IntN(3) {
			keys = append(keys, policy.Hash{byte(r.Uint32()), 31: 1})
		}
		t.AccessList = append(t.AccessList, AccessTuple{policy.Address{byte(r.Uint32()), 19: 1}, keys})
	}
	return t
}

// goEthereum is t as go-ethereum has it.
func goEthereum(t *Transaction) *types.Transaction {
	to, chainID := common.Address(t.To), new(uint256.Int).SetUint64(t.ChainID).ToBig()
	list := types.AccessList{}
	for _, e := range t.AccessList {
		tuple := types.AccessTuple{Address: common.Address(e.Address), StorageKeys: []common.Hash{}}
		for _, key := range e.StorageKeys {
			tuple.StorageKeys = append(tuple.StorageKeys, common.Hash(key))
		}
		list = append(list, tuple)
	}
	switch t.Type {
	case TypeLegacy:
		return types.NewTx(&types.LegacyTx{Nonce: t.Nonce, To: &to, Value: t.Value.ToBig(), Data: t.Data,
			Gas: t.GasLimit.Uint64(), GasPrice: t.MaxFeePerGas.ToBig()})
	case TypeAccessList:
		return types.NewTx(&types.AccessListTx{ChainID: chainID, Nonce: t.Nonce, To: &to, Value: t.Value.ToBig(),
			Data: t.Data,
			Gas:  t.GasLimit.Uint64(), GasPrice: t.MaxFeePerGas.ToBig(), AccessList: list})
	}
	return types.NewTx(&types.DynamicFeeTx{ChainID: chainID, Nonce: t.Nonce, To: &to, Value: t.Value.ToBig(), Data: t.Data,
		Gas: t.GasLimit.Uint64(), GasFeeCap: t.MaxFeePerGas.ToBig(), GasTipCap: t.MaxPriorityFeePerGas.ToBig(),
		AccessList: list})
}

// Digest, raw transaction, hash and JSON are go-ethereum's, byte for byte, for every type, chain and length.
func TestEthereumGoEthereum(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	for range 3000 {
		compareGoEthereum(t, randomEthereum(r), r)
	}
}

func FuzzEthereum(f *testing.F) {
	f.Add(uint64(1), uint64(2))
	f.Fuzz(func(t *testing.T, a, b uint64) {
		r := rand.New(rand.NewPCG(a, b))
		compareGoEthereum(t, randomEthereum(r), r)
	})
}

func compareGoEthereum(t *testing.T, tx *Transaction, r *rand.Rand) {
	t.Helper()
	signer := types.LatestSignerForChainID(new(uint256.Int).SetUint64(tx.ChainID).ToBig())
	want := goEthereum(tx)
	if got := tx.Digest(); got != policy.Hash(signer.Hash(want)) {
		t.Fatalf("Digest of %+v = %v, want %v", tx, got, signer.Hash(want))
	}
	var signature [65]byte
	for i := r.IntN(3); i < 64; i++ { // R with zeros in front too
		signature[i] = byte(r.Uint32())
	}
	signature[64] = byte(r.IntN(2))
	signed, err := want.WithSignature(signer, signature[:])
	if err != nil {
		t.Fatal(err)
	}
	signature[64] += 27
	wantRaw, err := signed.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := tx.Raw(signature[:]); err != nil || !bytes.Equal(got, wantRaw) {
		t.Fatalf("Raw of %+v = %x, %v, want %x", tx, got, err, wantRaw)
	}
	if got, err := tx.Hash(signature[:]); err != nil || got != policy.Hash(signed.Hash()) {
		t.Fatalf("Hash of %+v = %v, %v, want %v", tx, got, err, signed.Hash())
	}
	wantJSON, err := signed.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := tx.RPCJSON(signature[:]); err != nil || !bytes.Equal(got, wantJSON) {
		t.Fatalf("RPCJSON of %+v = %s, %v, want %s", tx, got, err, wantJSON)
	}
}
