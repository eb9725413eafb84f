package zktx

import (
	"bytes"
	"fmt"
	"math"
	"slices"

	"github.com/holiman/uint256"

	"github.com/keyward/keyward/policy"
)

// Kinds of chain, which differ in what their nodes refuse.
const (
	KindZKsync   = "zksync"   // the ZKsync stack on EraVM
	KindEthereum = "ethereum" // geth's rules
)

// ChainRules are what is known of the chain's nodes. The zero value is an unknown chain.
type ChainRules struct {
	Kind        string // "": unknown
	Fork        string // of KindEthereum, one of [Forks]; "": no rule that depends on it
	MaxGasLimit uint64 // a setting of the chain's nodes; 0: no such rule
	MaxTxSize   uint64 // bytes, as the node counts them; 0: no such rule
}

// Forks are the forks of Ethereum with rules of their own, oldest first.
var Forks = []string{"berlin", "london", "paris", "shanghai", "cancun", "prague", "osaka", "amsterdam"}

func (r *ChainRules) from(fork string) bool {
	return r.Kind == KindEthereum && r.Fork != "" && slices.Index(Forks, r.Fork) >= slices.Index(Forks, fork)
}

// NotIncludable says why no node of the chain can include a transaction, whatever the chain's state. It is
// the sender's mistake.
type NotIncludable struct {
	Rule string // a stable word, e.g. "intrinsicGas"
	Path string // the field, as transaction requests name it
	Msg  string // what was compared
}

func (e *NotIncludable) Error() string { return e.Path + ": " + e.Msg }

// InTypedData returns e with the field's name in typed data as its path.
func (e *NotIncludable) InTypedData() *NotIncludable {
	path := e.Path
	switch path {
	case "gas":
		path = "gasLimit"
	case "gasPerPubdata":
		path = "gasPerPubdataByteLimit"
	}
	return &NotIncludable{Rule: e.Rule, Path: "message." + path, Msg: e.Msg}
}

// Constants of the nodes' rules.
const (
	maxBatchGas       = 1 << 50 // zksync-era, vm_latest/constants.rs, BATCH_GAS_LIMIT
	l2IntrinsicGas    = 14_070  // zksync-era, fees/intrinsic.rs, L2_TX_INTRINSIC_GAS
	maxNewFactoryDeps = 64      // zksync-era, vm_latest/constants.rs, get_max_new_factory_deps
	maxKernelAddress  = 0xffff  // era-contracts, bootloader.yul, validateTypedTxStructure
	encodedWords      = 25      // zksync-era, l2/mod.rs, abi_encoding_len: words of a transaction without its bytes
	txGas             = 21_000
	txGas2780         = 12_000 // EIP-2780: the sender
	txRecipient2780   = 3_000  // EIP-2780: another account than the sender's
	txValue2780       = 6_000  // EIP-2780: value that it gets
	tokenCost         = 10     // EIP-7623
	tokenCost7976     = 16     // EIP-7976
	tokensOfByte      = 4      // EIP-7623, of a byte that is not 0; EIP-7976: of every one
	maxTxGas          = 1 << 24
	maxTxTotalGas     = 1<<32 - 1
	addressBytes      = 20
	storageKeyBytes   = 32
)

// Includable returns nil unless t can't be included by any node of the chain, for reasons that follow from t alone:
// then it returns a *[NotIncludable]. It looks at no state: prices, balances, nonces and the like are the sender's
// business. signatureSize is the length of the customSignature that a type 0x71 transaction will carry, of others 65;
// it counts only where rules has a MaxTxSize.
//
// Sources: zksync-era, core/node/api_server/src/tx_sender/mod.rs (validate_tx),
// core/lib/types/src/transaction_request.rs (get_fee_data_checked, get_nonce_checked); era-contracts, bootloader.yul
// (validateTypedTxStructure, validateAbiEncoding); go-ethereum v1.17.10, core/txpool/validation.go and
// core/state_transition.go.
func (t *Transaction) Includable(rules *ChainRules, signatureSize int) error {
	if t.MaxPriorityFeePerGas.Gt(&t.MaxFeePerGas) {
		return notIncludable("priorityFeeAboveMaxFee", "maxPriorityFeePerGas", "%s is above maxFeePerGas, %s",
			t.MaxPriorityFeePerGas.Dec(), t.MaxFeePerGas.Dec())
	}
	if t.Type == TypeZKsync && t.GasPerPubdata.IsZero() {
		return notIncludable("gasPerPubdataZero", "gasPerPubdata", "0 pays for no pubdata; want 1 to %d",
			uint32(math.MaxUint32))
	}
	if rules.MaxGasLimit != 0 && t.GasLimit.GtUint64(rules.MaxGasLimit) {
		return notIncludable("maxGasLimit", "gas", "%s is above the chain's max_gas_limit, %d", t.GasLimit.Dec(),
			rules.MaxGasLimit)
	}
	if size := t.nodeSize(rules, signatureSize); rules.MaxTxSize != 0 && size > rules.MaxTxSize {
		return notIncludable("maxTxSize", "data", "the encoded transaction has %d bytes, above the chain's max_tx_size, %d",
			size, rules.MaxTxSize)
	}
	if rules.Kind == KindZKsync {
		return t.includableZKsync()
	}
	return t.includableEthereum(rules)
}

func notIncludable(rule, path, format string, args ...any) error {
	return &NotIncludable{Rule: rule, Path: path, Msg: fmt.Sprintf(format, args...)}
}

// includableZKsync has the rules of a ZKsync chain's node and bootloader.
func (t *Transaction) includableZKsync() error {
	switch {
	case t.GasLimit.GtUint64(maxBatchGas):
		return notIncludable("batchGasLimit", "gas", "%s is above what a batch has, %d", t.GasLimit.Dec(), maxBatchGas)
	case t.GasLimit.LtUint64(l2IntrinsicGas):
		return notIncludable("intrinsicGas", "gas", "%s is below what every transaction costs, %d", t.GasLimit.Dec(),
			l2IntrinsicGas)
	case !t.MaxFeePerGas.IsUint64():
		return notIncludable("maxFeePerGasSize", "maxFeePerGas", "%s does not fit 64 bits", t.MaxFeePerGas.Dec())
	case t.Nonce > math.MaxUint32:
		return notIncludable("nonceSize", "nonce", "%d does not fit 32 bits", t.Nonce)
	case t.Type == TypeAccessList || len(t.AccessList) > 0:
		return notIncludable("accessList", "accessList", "ZKsync chains take no access lists")
	case t.Type == TypeZKsync:
		return t.includable0x71()
	}
	return nil
}

func (t *Transaction) includable0x71() error {
	switch {
	case t.GasPerPubdata.GtUint64(math.MaxUint32):
		return notIncludable("gasPerPubdataSize", "gasPerPubdata", "%s does not fit 32 bits", t.GasPerPubdata.Dec())
	case len(t.FactoryDepsHash) > maxNewFactoryDeps:
		return notIncludable("factoryDeps", "factoryDeps", "%d bytecodes, above the %d of one transaction",
			len(t.FactoryDepsHash), maxNewFactoryDeps)
	case t.Paymaster.IsZero() && len(t.PaymasterInput) > 0:
		return notIncludable("paymasterInput", "paymasterInput", "there is no paymaster that it is for")
	case !t.Paymaster.IsZero() && isKernel(t.Paymaster):
		return notIncludable("kernelPaymaster", "paymaster", "%s is an address of the system, up to 0xffff", t.Paymaster)
	case isKernel(t.From):
		return notIncludable("kernelSender", "from", "%s is an address of the system, up to 0xffff", t.From)
	}
	return nil
}

func isKernel(a policy.Address) bool {
	return new(uint256.Int).SetBytes(a[:]).CmpUint64(maxKernelAddress) <= 0
}

// includableEthereum has what geth checks of a transaction alone.
func (t *Transaction) includableEthereum(rules *ChainRules) error {
	gas := t.GasLimit.Uint64() // of types 0, 1 and 2 it fits
	switch {
	case t.Type == TypeZKsync:
		return nil
	case t.Nonce == math.MaxUint64: // EIP-2681
		return notIncludable("nonceSize", "nonce", "%d is the last one, which no account uses", t.Nonce)
	case !rules.from("berlin"):
		return nil
	case gas < t.intrinsicGas(rules):
		return notIncludable("intrinsicGas", "gas", "%d is below what the transaction costs at least, %d", gas,
			t.intrinsicGas(rules))
	case rules.from("prague") && gas < t.floorGas(rules):
		return notIncludable("floorGas", "gas", "%d is below the floor for its data, %d", gas, t.floorGas(rules))
	case rules.from("amsterdam") && max(t.intrinsicGas(rules), t.floorGas(rules)) > maxTxGas:
		return notIncludable("floorGas", "data", "it costs %d, above %d", max(t.intrinsicGas(rules), t.floorGas(rules)),
			maxTxGas)
	case rules.from("amsterdam") && gas > maxTxTotalGas: // EIP-8037
		return notIncludable("gasLimitCap", "gas", "%d is above the fork's cap, %d", gas, uint32(maxTxTotalGas))
	case rules.from("osaka") && !rules.from("amsterdam") && gas > maxTxGas: // EIP-7825
		return notIncludable("gasLimitCap", "gas", "%d is above the fork's cap, %d", gas, maxTxGas)
	}
	return nil
}

// intrinsicGas is what t costs before it runs (go-ethereum, IntrinsicGas). It can't overflow: t came as one message.
func (t *Transaction) intrinsicGas(rules *ChainRules) uint64 {
	zeros := uint64(bytes.Count(t.Data, []byte{0}))
	gas := t.baseGas(rules) + 4*zeros + 16*(uint64(len(t.Data))-zeros)
	addresses, keys := t.accessed()
	if rules.from("amsterdam") { // EIP-8038, and EIP-7981: the list's bytes as well
		perByte := uint64(tokensOfByte * tokenCost7976)
		return gas + addresses*(2_900+addressBytes*perByte) + keys*(2_000+storageKeyBytes*perByte)
	}
	return gas + addresses*2_400 + keys*1_900
}

func (t *Transaction) baseGas(rules *ChainRules) uint64 {
	if !rules.from("amsterdam") {
		return txGas
	}
	gas := uint64(txGas2780)
	if t.To == t.From {
		return gas
	}
	gas += txRecipient2780
	if !t.Value.IsZero() {
		gas += txValue2780
	}
	return gas
}

// floorGas is the least that t costs for its data (EIP-7623; EIP-7976 and EIP-7981 from Amsterdam on).
func (t *Transaction) floorGas(rules *ChainRules) uint64 {
	length := uint64(len(t.Data))
	if rules.from("amsterdam") {
		addresses, keys := t.accessed()
		return t.baseGas(rules) + tokensOfByte*tokenCost7976*(length+addresses*addressBytes+keys*storageKeyBytes)
	}
	zeros := uint64(bytes.Count(t.Data, []byte{0}))
	return t.baseGas(rules) + tokenCost*(zeros+tokensOfByte*(length-zeros))
}

func (t *Transaction) accessed() (addresses, keys uint64) {
	for i := range t.AccessList {
		keys += uint64(len(t.AccessList[i].StorageKeys))
	}
	return uint64(len(t.AccessList)), keys
}

// nodeSize is the transaction's size as the node's limit counts it: on ZKsync chains that of the bootloader's encoding
// (zksync-era, check_encoded_size), else of the raw transaction (go-ethereum, txMaxSize).
func (t *Transaction) nodeSize(rules *ChainRules, signatureSize int) uint64 {
	if rules.MaxTxSize == 0 {
		return 0
	}
	if rules.Kind == KindZKsync {
		n := encodedWords + wordsOf(len(t.Data)) + wordsOf(signatureSize) + wordsOf(len(t.PaymasterInput)) +
			len(t.FactoryDepsHash)
		return wordSize * uint64(n)
	}
	var signature [65]byte
	signature[0], signature[32], signature[64] = 1, 1, 27 // as long as they get
	raw, err := t.Raw(signature[:])
	if err != nil {
		return 0
	}
	return uint64(len(raw))
}

// wordsOf is how many words n bytes take.
func wordsOf(n int) int { return (n + wordSize - 1) / wordSize }
