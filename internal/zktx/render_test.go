package zktx

import (
	"encoding/json"
	"math/rand/v2"
	"testing"

	"github.com/ethereum/go-ethereum/common/hexutil"
	"github.com/holiman/uint256"

	"github.com/keyward/keyward/policy"
)

// decoded is a transaction as the audit trail has it, for encoding/json.
type decoded struct {
	Type                 hexutil.Uint64  `json:"type"`
	ChainID              uint64          `json:"chainId"`
	Nonce                uint64          `json:"nonce,string"`
	From                 policy.Address  `json:"from"`
	To                   policy.Address  `json:"to"`
	Value                policy.Decimal  `json:"value"`
	Data                 hexutil.Bytes   `json:"data,omitempty"`
	Gas                  policy.Decimal  `json:"gas"`
	GasPrice             *policy.Decimal `json:"gasPrice,omitempty"`
	MaxFeePerGas         *policy.Decimal `json:"maxFeePerGas,omitempty"`
	MaxPriorityFeePerGas *policy.Decimal `json:"maxPriorityFeePerGas,omitempty"`
	AccessList           *[]AccessTuple  `json:"accessList,omitempty"`
	GasPerPubdata        *policy.Decimal `json:"gasPerPubdata,omitempty"`
	FactoryDepsHash      []policy.Hash   `json:"factoryDepsHash,omitempty"`
	Paymaster            *policy.Address `json:"paymaster,omitempty"`
	PaymasterInput       *hexutil.Bytes  `json:"paymasterInput,omitempty"`
}

func toDecoded(t *Transaction) *decoded {
	decimal := func(x *uint256.Int) *policy.Decimal { return (*policy.Decimal)(x) }
	d := &decoded{
		Type: hexutil.Uint64(t.Type), ChainID: t.ChainID, Nonce: t.Nonce,
		From: t.From, To: t.To, Value: policy.Decimal(t.Value), Data: t.Data,
		Gas: policy.Decimal(t.GasLimit), FactoryDepsHash: t.FactoryDepsHash,
	}
	switch t.Type {
	case TypeLegacy, TypeAccessList:
		d.GasPrice = decimal(&t.MaxFeePerGas)
	default:
		d.MaxFeePerGas, d.MaxPriorityFeePerGas = decimal(&t.MaxFeePerGas), decimal(&t.MaxPriorityFeePerGas)
	}
	if t.Type == TypeAccessList || len(t.AccessList) > 0 {
		d.AccessList = &t.AccessList
	}
	if t.Type == TypeZKsync {
		d.GasPerPubdata = decimal(&t.GasPerPubdata)
	}
	if t.paymasterParams() != nil {
		d.Paymaster, d.PaymasterInput = &t.Paymaster, (*hexutil.Bytes)(&t.PaymasterInput)
	}
	return d
}

// What is written without reflection is what encoding/json writes, for every type and length.
func TestAppendJSONIsEncodingJSON(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	for i := range 3000 {
		tx := randomTransaction(r)
		if i%2 == 1 {
			tx = randomEthereum(r)
		}
		wantEncodingJSON(t, tx)
	}
	if b, err := (*Transaction)(nil).AppendJSON([]byte("x")); err != nil || string(b) != "xnull" {
		t.Errorf("AppendJSON of nil = %s, %v", b, err)
	}
}

func FuzzAppendJSON(f *testing.F) {
	f.Add(uint64(1), uint64(2), true)
	f.Fuzz(func(t *testing.T, a, b uint64, zksync bool) {
		r := rand.New(rand.NewPCG(a, b))
		tx := randomEthereum(r)
		if zksync {
			tx = randomTransaction(r)
		}
		wantEncodingJSON(t, tx)
	})
}

func wantEncodingJSON(t *testing.T, tx *Transaction) {
	t.Helper()
	want, err := json.Marshal(toDecoded(tx))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := tx.MarshalJSON(); err != nil || string(got) != string(want) {
		t.Fatalf("MarshalJSON of %+v = %s, %v, want %s", tx, got, err, want)
	}
}
