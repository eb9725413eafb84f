package zktx

import (
	"github.com/ethereum/go-ethereum/crypto"
	"github.com/ethereum/go-ethereum/rlp"
	"github.com/holiman/uint256"

	"github.com/keyward/keyward/policy"
)

// vrs is the signature of a transaction of type 0, 1 or 2, as its last three fields.
type vrs struct{ v, r, s uint256.Int }

// signedFields returns the last three fields for the signature R ‖ S ‖ V, V 27 or 28: of type 0
// V is chainID*2 + 35 or 36 (EIP-155), of the others 0 or 1. It does not ask whose signature it is: the signer's
// caller did.
func (t *Transaction) signedFields(signature []byte) (*vrs, error) {
	if len(signature) != 65 || (signature[64] != 27 && signature[64] != 28) {
		return nil, ErrSignature
	}
	f := new(vrs)
	f.r.SetBytes32(signature[:32])
	f.s.SetBytes32(signature[32:64])
	f.v.SetUint64(uint64(signature[64] - 27))
	if t.Type == TypeLegacy {
		f.v.AddUint64(&f.v, 35)
		f.v.Add(&f.v, uint256.NewInt(t.ChainID))
		f.v.Add(&f.v, uint256.NewInt(t.ChainID))
	}
	return f, nil
}

// encodeEthereum returns a transaction of type 0, 1 or 2: the type byte, which type 0 has not, and an RLP list
// (EIP-155, EIP-2930, EIP-1559). Without a signature it is what is hashed to be signed, always with
// replay protection, since the chain id is never 0.
func (t *Transaction) encodeEthereum(signature *vrs) []byte {
	var out []byte
	if t.Type != TypeLegacy {
		out = append(out, t.Type)
	}
	w := rlp.NewEncoderBuffer(nil)
	list := w.List()
	if t.Type != TypeLegacy {
		w.WriteUint64(t.ChainID)
	}
	w.WriteUint64(t.Nonce)
	if t.Type == TypeDynamicFee {
		w.WriteUint256(&t.MaxPriorityFeePerGas)
	}
	w.WriteUint256(&t.MaxFeePerGas)
	w.WriteUint256(&t.GasLimit)
	w.WriteBytes(t.To[:])
	w.WriteUint256(&t.Value)
	w.WriteBytes(t.Data)
	if t.Type != TypeLegacy {
		writeAccessList(w, t.AccessList)
	}
	switch {
	case signature != nil:
		w.WriteUint256(&signature.v)
		w.WriteUint256(&signature.r)
		w.WriteUint256(&signature.s)
	case t.Type == TypeLegacy:
		w.WriteUint64(t.ChainID)
		w.WriteUint64(0)
		w.WriteUint64(0)
	}
	w.ListEnd(list)
	return w.AppendToBytes(out)
}

func writeAccessList(w rlp.EncoderBuffer, tuples []AccessTuple) {
	list := w.List()
	for i := range tuples {
		tuple := w.List()
		w.WriteBytes(tuples[i].Address[:])
		keys := w.List()
		for j := range tuples[i].StorageKeys {
			w.WriteBytes(tuples[i].StorageKeys[j][:])
		}
		w.ListEnd(keys)
		w.ListEnd(tuple)
	}
	w.ListEnd(list)
}

// digestEthereum is the hash that is signed.
func (t *Transaction) digestEthereum() policy.Hash {
	return policy.Hash(crypto.Keccak256Hash(t.encodeEthereum(nil)))
}
