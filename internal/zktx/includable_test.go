package zktx

import (
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/holiman/uint256"

	"github.com/keyward/keyward/policy"
)

func u(x uint64) uint256.Int { return *uint256.NewInt(x) }

// edited is a type 0x71 transaction that every node takes, with a change.
func edited(edit func(t *Transaction)) *Transaction {
	t := &Transaction{
		Type: TypeZKsync, ChainID: 2741, From: policy.Address{0: 1}, To: policy.Address{0: 2},
		GasLimit: u(100_000), MaxFeePerGas: u(10), MaxPriorityFeePerGas: u(10), GasPerPubdata: u(50_000),
	}
	edit(t)
	return t
}

// Each rule at its bound: the last value that is taken and the first that is not.
func TestIncludableZKsync(t *testing.T) {
	type edit = func(t *Transaction)
	deps := func(n int) edit { return func(t *Transaction) { t.FactoryDepsHash = make([]policy.Hash, n) } }
	kernel := func(last ...byte) (a policy.Address) { copy(a[20-len(last):], last); return a }
	for _, tt := range []struct {
		rule     string // that the second breaks
		ok, over edit
	}{
		{"priorityFeeAboveMaxFee", func(t *Transaction) {}, func(t *Transaction) { t.MaxPriorityFeePerGas = u(11) }},
		{"gasPerPubdataZero", func(t *Transaction) { t.GasPerPubdata = u(1) },
			func(t *Transaction) { t.GasPerPubdata = u(0) }},
		{"gasPerPubdataSize", func(t *Transaction) { t.GasPerPubdata = u(math.MaxUint32) },
			func(t *Transaction) { t.GasPerPubdata = u(1 << 32) }},
		{"batchGasLimit", func(t *Transaction) { t.GasLimit = u(1 << 50) },
			func(t *Transaction) { t.GasLimit = u(1<<50 + 1) }},
		{"intrinsicGas", func(t *Transaction) { t.GasLimit = u(14_070) }, func(t *Transaction) { t.GasLimit = u(14_069) }},
		{"maxFeePerGasSize", func(t *Transaction) { t.MaxFeePerGas = u(math.MaxUint64) },
			func(t *Transaction) { t.MaxFeePerGas = *new(uint256.Int).Lsh(uint256.NewInt(1), 64) }},
		{"nonceSize", func(t *Transaction) { t.Nonce = math.MaxUint32 }, func(t *Transaction) { t.Nonce = 1 << 32 }},
		{"factoryDeps", deps(64), deps(65)},
		{"paymasterInput", func(t *Transaction) { t.Paymaster, t.PaymasterInput = policy.Address{0: 3}, []byte{1} },
			func(t *Transaction) { t.PaymasterInput = []byte{1} }},
		{"kernelPaymaster", func(t *Transaction) { t.Paymaster = kernel(1, 0, 0) },
			func(t *Transaction) { t.Paymaster = kernel(0xff, 0xff) }},
		{"kernelSender", func(t *Transaction) { t.From = kernel(1, 0, 0) },
			func(t *Transaction) { t.From = kernel(0xff, 0xff) }},
		{"accessList", func(t *Transaction) { t.Type = TypeDynamicFee }, func(t *Transaction) { t.Type = TypeAccessList }},
		{"accessList", func(t *Transaction) { t.Type = TypeLegacy },
			func(t *Transaction) { t.Type, t.AccessList = TypeDynamicFee, []AccessTuple{{}} }},
		// What must not be refused: gas of which the excess is given back, and pubdata that the SDKs' default is below.
		{"", func(t *Transaction) { t.GasLimit = u(80_000_001) }, nil},
		{"", func(t *Transaction) { t.GasPerPubdata = u(50_001) }, nil},
	} {
		rules := &ChainRules{Kind: KindZKsync}
		if err := edited(tt.ok).Includable(rules, 0); err != nil {
			t.Errorf("%s: within the bound: %v", tt.rule, err)
		}
		if tt.over != nil {
			wantRule(t, edited(tt.over).Includable(rules, 0), tt.rule)
		}
	}
}

func wantRule(t *testing.T, err error, rule string) {
	t.Helper()
	no := new(NotIncludable)
	if !errors.As(err, &no) || no.Rule != rule || no.Path == "" {
		t.Errorf("Includable = %#v, want the rule %s", err, rule)
	}
}

// A chain's settings hold only where they are set.
func TestIncludableSettings(t *testing.T) {
	big := edited(func(t *Transaction) { t.GasLimit, t.Data, t.PaymasterInput = u(1_000_001), make([]byte, 33), nil })
	if err := big.Includable(&ChainRules{Kind: KindZKsync}, 65); err != nil {
		t.Errorf("without settings: %v", err)
	}
	wantRule(t, big.Includable(&ChainRules{Kind: KindZKsync, MaxGasLimit: 1_000_000}, 65), "maxGasLimit")
	if err := big.Includable(&ChainRules{Kind: KindZKsync, MaxGasLimit: 1_000_001}, 65); err != nil {
		t.Errorf("at max_gas_limit: %v", err)
	}
	const size = 32 * (25 + 2 + 3) // 33 bytes of data and 65 of signature
	if err := big.Includable(&ChainRules{Kind: KindZKsync, MaxTxSize: size}, 65); err != nil {
		t.Errorf("at max_tx_size: %v", err)
	}
	wantRule(t, big.Includable(&ChainRules{Kind: KindZKsync, MaxTxSize: size - 1}, 65), "maxTxSize")

	legacy := edited(func(t *Transaction) {
		t.Type, t.MaxPriorityFeePerGas, t.Data = TypeLegacy, u(0),
			make([]byte, 1000)
	})
	wantRule(t, legacy.Includable(&ChainRules{Kind: KindEthereum, MaxTxSize: 1000}, 65), "maxTxSize")
	if err := legacy.Includable(&ChainRules{Kind: KindEthereum, MaxTxSize: 1200}, 65); err != nil {
		t.Errorf("below max_tx_size: %v", err)
	}
}

// Of an unknown chain only what holds on every chain is known.
func TestIncludableUnknownChain(t *testing.T) {
	unknown := &ChainRules{}
	dynamic := func(edit func(t *Transaction)) *Transaction {
		return edited(func(t *Transaction) { t.Type = TypeDynamicFee; edit(t) })
	}
	wantRule(t, dynamic(func(t *Transaction) { t.MaxPriorityFeePerGas = u(11) }).Includable(unknown, 0),
		"priorityFeeAboveMaxFee")
	wantRule(t, dynamic(func(t *Transaction) { t.Nonce = math.MaxUint64 }).Includable(unknown, 0), "nonceSize")
	wantRule(t, edited(func(t *Transaction) { t.GasPerPubdata = u(0) }).Includable(unknown, 0), "gasPerPubdataZero")
	for name, tx := range map[string]*Transaction{
		"little gas":         dynamic(func(t *Transaction) { t.GasLimit = u(1) }),
		"the last but one":   dynamic(func(t *Transaction) { t.Nonce = math.MaxUint64 - 1 }),
		"an access list":     dynamic(func(t *Transaction) { t.AccessList = []AccessTuple{{}} }),
		"0x71 of little gas": edited(func(t *Transaction) { t.GasLimit = u(1) }),
	} {
		if err := tx.Includable(unknown, 0); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What a transaction costs before it runs, for each fork, as go-ethereum v1.17.10 computes it (core.IntrinsicGas and
// core.FloorDataGas).
func TestIncludableGasByFork(t *testing.T) {
	self := policy.Address{0: 1}
	type cost struct {
		gas  uint64
		rule string
	}
	for _, tt := range []struct {
		name                      string
		edit                      func(t *Transaction)
		berlin, prague, amsterdam cost
	}{
		{"plain", func(*Transaction) {}, cost{21_000, "intrinsicGas"}, cost{21_000, "intrinsicGas"},
			cost{15_000, "intrinsicGas"}},
		{"with value", func(t *Transaction) { t.Value = u(1) },
			cost{21_000, "intrinsicGas"}, cost{21_000, "intrinsicGas"}, cost{21_000, "intrinsicGas"}},
		{"to itself", func(t *Transaction) { t.To, t.Value = self, u(1) },
			cost{21_000, "intrinsicGas"}, cost{21_000, "intrinsicGas"}, cost{12_000, "intrinsicGas"}},
		{"with data", func(t *Transaction) { t.Data = append(make([]byte, 300), []byte(strings.Repeat("x", 700))...) },
			cost{33_400, "intrinsicGas"}, cost{52_000, "floorGas"}, cost{79_000, "floorGas"}},
		{"with a list", func(t *Transaction) { t.AccessList = []AccessTuple{{StorageKeys: make([]policy.Hash, 3)}, {}} },
			cost{31_500, "intrinsicGas"}, cost{31_500, "intrinsicGas"}, cost{35_504, "intrinsicGas"}},
		{"both", func(t *Transaction) {
			t.Data, t.AccessList = make([]byte, 77), []AccessTuple{{StorageKeys: make([]policy.Hash, 1)}}
		}, cost{25_608, "intrinsicGas"}, cost{25_608, "intrinsicGas"}, cost{23_536, "intrinsicGas"}},
	} {
		for fork, want := range map[string]cost{
			"berlin": tt.berlin, "cancun": tt.berlin, "prague": tt.prague, "osaka": tt.prague, "amsterdam": tt.amsterdam,
		} {
			tx := edited(func(t *Transaction) { t.Type, t.From = TypeDynamicFee, self; tt.edit(t) })
			chain := &ChainRules{Kind: KindEthereum, Fork: fork}
			tx.GasLimit = u(want.gas)
			if err := tx.Includable(chain, 0); err != nil {
				t.Errorf("%s, %s, with %d gas: %v", fork, tt.name, want.gas, err)
			}
			tx.GasLimit = u(want.gas - 1)
			wantRule(t, tx.Includable(chain, 0), want.rule)
		}
	}
}

// The gas limit's cap came with Osaka and changes with Amsterdam (EIP-7825, EIP-8037).
func TestIncludableGasCap(t *testing.T) {
	for _, tt := range []struct {
		fork string
		last uint64 // 0: no cap
	}{{"prague", 0}, {"osaka", 16_777_216}, {"amsterdam", 4_294_967_295}, {"", 0}} {
		chain := &ChainRules{Kind: KindEthereum, Fork: tt.fork}
		with := func(gas uint64) *Transaction {
			return edited(func(t *Transaction) { t.Type, t.GasLimit = TypeDynamicFee, u(gas) })
		}
		if tt.last == 0 {
			if err := with(math.MaxUint64).Includable(chain, 0); err != nil {
				t.Errorf("fork %q: %v", tt.fork, err)
			}
			continue
		}
		if err := with(tt.last).Includable(chain, 0); err != nil {
			t.Errorf("fork %q: %v", tt.fork, err)
		}
		wantRule(t, with(tt.last+1).Includable(chain, 0), "gasLimitCap")
	}
}
