package zktx

import (
	"encoding/hex"
	"encoding/json"
	"strconv"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/common/hexutil"
	"github.com/ethereum/go-ethereum/crypto"

	"github.com/keyward/keyward/policy"
)

// MarshalJSON returns the decoded form for the audit trail: the names are those of a transaction request, integers are
// decimal strings. Without factory dependencies, which it has by their hashes only, it is also a request that
// [ParseTransaction] reads.
func (t *Transaction) MarshalJSON() ([]byte, error) { return t.AppendJSON(nil) }

// AppendJSON appends what MarshalJSON returns to b. There is never an error.
func (t *Transaction) AppendJSON(b []byte) ([]byte, error) {
	if t == nil {
		return append(b, "null"...), nil
	}
	b = append(b, `{"type":"`...)
	b = strconv.AppendUint(append(b, "0x"...), uint64(t.Type), 16)
	b = append(b, `","chainId":`...)
	b = strconv.AppendUint(b, t.ChainID, 10)
	b = append(b, `,"nonce":"`...)
	b = strconv.AppendUint(b, t.Nonce, 10)
	b = appendMember(b, `","from":"`, t.From)
	b = appendMember(b, `","to":"`, t.To)
	b = appendMember(b, `","value":"`, policy.Decimal(t.Value))
	if len(t.Data) > 0 {
		b = append(b, `","data":"0x`...)
		b = hex.AppendEncode(b, t.Data)
	}
	b = appendMember(b, `","gas":"`, policy.Decimal(t.GasLimit))
	b = t.appendFees(b)
	b = append(b, '"')
	// A type 1 transaction is one by its access list, even where that is empty.
	if t.Type == TypeAccessList || len(t.AccessList) > 0 {
		b = append(b, `,"accessList":`...)
		b = appendAccessList(b, t.AccessList)
	}
	return append(t.appendExtras(b), '}'), nil
}

// appendMember appends the name with what is before it, and the text of v, up to its closing quote. No text
// has a character in it that JSON escapes.
func appendMember[T interface{ AppendText([]byte) ([]byte, error) }](b []byte, name string, v T) []byte {
	b, _ = v.AppendText(append(b, name...)) // addresses, hashes and decimals give no error
	return b
}

func (t *Transaction) appendFees(b []byte) []byte {
	if t.Type == TypeLegacy || t.Type == TypeAccessList {
		return appendMember(b, `","gasPrice":"`, policy.Decimal(t.MaxFeePerGas))
	}
	b = appendMember(b, `","maxFeePerGas":"`, policy.Decimal(t.MaxFeePerGas))
	return appendMember(b, `","maxPriorityFeePerGas":"`, policy.Decimal(t.MaxPriorityFeePerGas))
}

func appendAccessList(b []byte, list []AccessTuple) []byte {
	if list == nil {
		return append(b, "null"...)
	}
	encoded, _ := json.Marshal(list) // of addresses and hashes it never fails
	return append(b, encoded...)
}

// appendExtras appends the members that only type 0x71 has.
func (t *Transaction) appendExtras(b []byte) []byte {
	if t.Type == TypeZKsync {
		b = append(appendMember(b, `,"gasPerPubdata":"`, policy.Decimal(t.GasPerPubdata)), '"')
	}
	for i, h := range t.FactoryDepsHash {
		name := `","`
		if i == 0 {
			name = `,"factoryDepsHash":["`
		}
		b = appendMember(b, name, h)
	}
	if len(t.FactoryDepsHash) > 0 {
		b = append(b, `"]`...)
	}
	if t.paymasterParams() != nil {
		b = appendMember(b, `,"paymaster":"`, t.Paymaster)
		b = append(b, `","paymasterInput":"0x`...)
		b = append(hex.AppendEncode(b, t.PaymasterInput), '"')
	}
	return b
}

// rpcTransaction is a signed type 0x71 transaction as a node's API shows one that is not in
// a block (eth_getTransactionByHash), with the eip712Meta of the API's requests.
type rpcTransaction struct {
	Type                 hexutil.Uint64 `json:"type"`
	Hash                 policy.Hash    `json:"hash"`
	ChainID              hexutil.Uint64 `json:"chainId"`
	Nonce                hexutil.Uint64 `json:"nonce"`
	From                 policy.Address `json:"from"`
	To                   policy.Address `json:"to"`
	Value                *hexutil.U256  `json:"value"`
	Gas                  *hexutil.U256  `json:"gas"`
	MaxFeePerGas         *hexutil.U256  `json:"maxFeePerGas"`
	MaxPriorityFeePerGas *hexutil.U256  `json:"maxPriorityFeePerGas"`
	Input                hexutil.Bytes  `json:"input"`
	Meta                 rpcMeta        `json:"eip712Meta"`
}

type rpcMeta struct {
	GasPerPubdata   *hexutil.U256       `json:"gasPerPubdata"`
	FactoryDeps     []hexutil.Bytes     `json:"factoryDeps"`
	CustomSignature hexutil.Bytes       `json:"customSignature"`
	PaymasterParams *rpcPaymasterParams `json:"paymasterParams,omitempty"`
}

type rpcPaymasterParams struct {
	Paymaster      policy.Address `json:"paymaster"`
	PaymasterInput hexutil.Bytes  `json:"paymasterInput"`
}

// RPCJSON returns the complete signed transaction in the form of a node's API: for types 0,
// 1 and 2 as go-ethereum's types.Transaction reads it, for type 0x71 with eip712Meta.
// The signature and the errors are as for [Transaction.Raw].
func (t *Transaction) RPCJSON(signature []byte) (json.RawMessage, error) {
	if t.Type == TypeZKsync {
		return t.rpcZKsync(signature)
	}
	return t.rpcEthereum(signature)
}

// rpcTuple is an [AccessTuple] there.
type rpcTuple struct {
	Address     common.Address `json:"address"` // in lower case
	StorageKeys []policy.Hash  `json:"storageKeys"`
}

// rpcSigned is a signed transaction of type 0, 1 or 2, with the fields, their order and their spelling as in
// go-ethereum.
type rpcSigned struct {
	Type                 hexutil.Uint64  `json:"type"`
	ChainID              hexutil.Uint64  `json:"chainId"`
	Nonce                hexutil.Uint64  `json:"nonce"`
	To                   common.Address  `json:"to"`
	Gas                  hexutil.Uint64  `json:"gas"`
	GasPrice             *hexutil.U256   `json:"gasPrice"`
	MaxPriorityFeePerGas *hexutil.U256   `json:"maxPriorityFeePerGas"`
	MaxFeePerGas         *hexutil.U256   `json:"maxFeePerGas"`
	Value                *hexutil.U256   `json:"value"`
	Input                hexutil.Bytes   `json:"input"`
	AccessList           *[]rpcTuple     `json:"accessList,omitempty"`
	V                    *hexutil.U256   `json:"v"`
	R                    *hexutil.U256   `json:"r"`
	S                    *hexutil.U256   `json:"s"`
	YParity              *hexutil.Uint64 `json:"yParity,omitempty"`
	Hash                 policy.Hash     `json:"hash"`
}

func (t *Transaction) rpcEthereum(signature []byte) (json.RawMessage, error) {
	fields, err := t.signedFields(signature)
	if err != nil {
		return nil, err
	}
	tx := rpcSigned{
		Type: hexutil.Uint64(t.Type), ChainID: hexutil.Uint64(t.ChainID), Nonce: hexutil.Uint64(t.Nonce),
		To:  common.Address(t.To),
		Gas: hexutil.Uint64(t.GasLimit.Uint64()), Value: (*hexutil.U256)(&t.Value), Input: t.Data,
		V: (*hexutil.U256)(&fields.v), R: (*hexutil.U256)(&fields.r), S: (*hexutil.U256)(&fields.s),
		Hash: policy.Hash(crypto.Keccak256Hash(t.encodeEthereum(fields))),
	}
	if t.Type == TypeDynamicFee {
		tx.MaxFeePerGas, tx.MaxPriorityFeePerGas = (*hexutil.U256)(&t.MaxFeePerGas), (*hexutil.U256)(&t.MaxPriorityFeePerGas)
	} else {
		tx.GasPrice = (*hexutil.U256)(&t.MaxFeePerGas)
	}
	if t.Type != TypeLegacy {
		tx.AccessList, tx.YParity = rpcAccessList(t.AccessList), new(hexutil.Uint64(fields.v.Uint64()))
	}
	return json.Marshal(&tx)
}

// rpcAccessList returns list with nothing in it that JSON would have as null.
func rpcAccessList(list []AccessTuple) *[]rpcTuple {
	all := make([]rpcTuple, len(list))
	for i, tuple := range list {
		all[i] = rpcTuple{common.Address(tuple.Address), make([]policy.Hash, len(tuple.StorageKeys))}
		copy(all[i].StorageKeys, tuple.StorageKeys)
	}
	return &all
}

func (t *Transaction) rpcZKsync(customSignature []byte) (json.RawMessage, error) {
	if len(t.FactoryDeps) != len(t.FactoryDepsHash) {
		return nil, ErrUnknownBytecode
	}
	tx := rpcTransaction{
		Type: TypeZKsync, Hash: t.hashZKsync(customSignature),
		ChainID: hexutil.Uint64(t.ChainID), Nonce: hexutil.Uint64(t.Nonce),
		From: t.From, To: t.To, Value: (*hexutil.U256)(&t.Value), Gas: (*hexutil.U256)(&t.GasLimit),
		MaxFeePerGas:         (*hexutil.U256)(&t.MaxFeePerGas),
		MaxPriorityFeePerGas: (*hexutil.U256)(&t.MaxPriorityFeePerGas),
		Input:                t.Data,
		Meta: rpcMeta{
			GasPerPubdata:   (*hexutil.U256)(&t.GasPerPubdata),
			FactoryDeps:     make([]hexutil.Bytes, len(t.FactoryDeps)),
			CustomSignature: customSignature,
		},
	}
	for i, code := range t.FactoryDeps {
		tx.Meta.FactoryDeps[i] = code
	}
	if t.paymasterParams() != nil {
		tx.Meta.PaymasterParams = &rpcPaymasterParams{t.Paymaster, t.PaymasterInput}
	}
	return json.Marshal(&tx)
}
