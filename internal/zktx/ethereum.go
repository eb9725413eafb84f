package zktx

import (
	"math/big"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/core/types"
)

// signer returns the rules by which types 0, 1 and 2 are hashed: always with replay
// protection (EIP-155), since the chain id is never 0.
func (t *Transaction) signer() types.Signer {
	return types.LatestSignerForChainID(t.chainID())
}

func (t *Transaction) chainID() *big.Int { return new(big.Int).SetUint64(t.ChainID) }

// ethereum returns the unsigned transaction of type 0, 1 or 2.
func (t *Transaction) ethereum() *types.Transaction {
	to := common.Address(t.To)
	switch t.Type {
	case TypeLegacy:
		return types.NewTx(&types.LegacyTx{
			Nonce: t.Nonce, To: &to, Value: t.Value.ToBig(), Data: t.Data,
			Gas: t.GasLimit.Uint64(), GasPrice: t.MaxFeePerGas.ToBig(),
		})
	case TypeAccessList:
		return types.NewTx(&types.AccessListTx{
			ChainID: t.chainID(), Nonce: t.Nonce, To: &to, Value: t.Value.ToBig(), Data: t.Data,
			Gas: t.GasLimit.Uint64(), GasPrice: t.MaxFeePerGas.ToBig(),
			AccessList: t.accessList(),
		})
	case TypeDynamicFee:
		return types.NewTx(&types.DynamicFeeTx{
			ChainID: t.chainID(), Nonce: t.Nonce, To: &to, Value: t.Value.ToBig(), Data: t.Data,
			Gas: t.GasLimit.Uint64(), GasFeeCap: t.MaxFeePerGas.ToBig(), GasTipCap: t.MaxPriorityFeePerGas.ToBig(),
			AccessList: t.accessList(),
		})
	}
	panic("zktx: transaction of an unknown type; only this package's parsers make them")
}

func (t *Transaction) accessList() types.AccessList {
	list := make(types.AccessList, len(t.AccessList))
	for i, e := range t.AccessList {
		list[i].Address = common.Address(e.Address)
		list[i].StorageKeys = make([]common.Hash, len(e.StorageKeys))
		for j, key := range e.StorageKeys {
			list[i].StorageKeys[j] = common.Hash(key)
		}
	}
	return list
}

// signedEthereum returns the transaction of type 0, 1 or 2 with the signature
// R ‖ S ‖ V, V 27 or 28. It does not ask whose it is: the signer's caller did.
func (t *Transaction) signedEthereum(signature []byte) (*types.Transaction, error) {
	if len(signature) != 65 || (signature[64] != 27 && signature[64] != 28) {
		return nil, ErrSignature
	}
	var recoverable [65]byte // V 0 or 1, as go-ethereum has it
	copy(recoverable[:], signature)
	recoverable[64] -= 27
	return t.ethereum().WithSignature(t.signer(), recoverable[:])
}
