// Package chaintest runs a real Ethereum node for tests: Foundry's anvil, with a session
// validator, a policy registry, Multicall3 and smart accounts of our own writing at the
// addresses that Abstract has them at. [Proxy] puts faults between a client and a node.
//
// Node and compiler are npm packages, pinned in the node directory. They are installed and the
// contracts compiled when the first test needs them; without npm the test fails.
package chaintest

import (
	"bufio"
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/common/hexutil"
	"github.com/ethereum/go-ethereum/rpc"

	"github.com/keyward/keyward/chain"
	"github.com/keyward/keyward/internal/config"
	"github.com/keyward/keyward/policy"
)

// ChainID is that of Abstract's mainnet.
const ChainID = 2741

// Multicall is where Multicall3 is, as on Abstract's mainnet.
var Multicall = config.Multicall

// A Node is a node of its own for one test. It mines a block for every transaction. What
// goes wrong in its methods is fatal to the test.
type Node struct {
	URL string

	t         testing.TB
	rpc       *rpc.Client
	owner     common.Address // sends all transactions
	contracts map[string]contract
	accounts  int
}

// Start starts a node, which ends with the test. Its first block is of now.
func Start(t testing.TB) *Node {
	t.Helper()
	return StartChain(t, ChainID)
}

// StartChain starts a node with another chain id.
func StartChain(t testing.TB, id uint64) *Node {
	t.Helper()
	dir := install(t)
	n := &Node{t: t, contracts: compiled(t, dir)}
	n.URL = startAnvil(t, dir, id)
	client, err := rpc.Dial(n.URL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	n.rpc = client
	var accounts []common.Address
	n.Call(&accounts, "eth_accounts")
	n.owner = accounts[0]
	n.setCode(config.SessionKeyValidator, "Validator")
	n.setCode(config.RegistryOfDocs, "Registry")
	n.setCode(Multicall, "Multicall")
	// The contracts are in every block that is read, whatever the confirmations.
	n.Mine(1)
	return n
}

// startAnvil starts the node on a free port and returns its URL.
func startAnvil(t testing.TB, dir string, id uint64) string {
	t.Helper()
	bin := filepath.Join(dir, "node_modules", "@foundry-rs", fmt.Sprintf("anvil-%s-%s", runtime.GOOS, runtime.GOARCH),
		"bin", "anvil")
	cmd := exec.Command(bin, "--host", "127.0.0.1", "--port", "0", "--chain-id", fmt.Sprint(id), "--accounts", "1",
		"--order", "fifo")
	cmd.Dir = t.TempDir()
	cmd.Env = []string{"HOME=" + cmd.Dir, "TMPDIR=" + cmd.Dir} // it keeps states there
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatalf("starting the test node: %v", err)
	}
	drained := make(chan struct{})
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-drained
		_ = cmd.Wait() // killed, it has no other error
	})
	address := make(chan string, 1)
	go func() {
		defer close(drained)
		defer close(address)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			if at, ok := strings.CutPrefix(lines.Text(), "Listening on "); ok {
				address <- at
			}
		}
	}()
	at, ok := <-address
	if !ok {
		t.Fatalf("the test node ended before it listened: %s", stderr.String())
	}
	return "http://" + at
}

// Config returns a client's configuration for the node, with Multicall3, that tries again at
// once. The URLs are the node's, or those of proxies before it.
func Config(urls ...string) chain.Config {
	return chain.Config{
		Name: "abstract", ID: ChainID, Endpoints: urls,
		Validator: config.SessionKeyValidator, Registry: config.RegistryOfDocs, Multicall: Multicall,
		RetryDelay: time.Millisecond, Rate: 100_000, Timeout: 30 * time.Second,
	}
}

// Call makes a JSON-RPC call.
func (n *Node) Call(result any, method string, args ...any) {
	n.t.Helper()
	if err := n.rpc.CallContext(context.Background(), result, method, args...); err != nil {
		n.t.Fatalf("%s: %v", method, err)
	}
}

func (n *Node) setCode(at policy.Address, name string) {
	n.t.Helper()
	c, ok := n.contracts[name]
	if !ok {
		n.t.Fatalf("there is no contract %s", name)
	}
	n.Call(nil, "anvil_setCode", common.Address(at), c.Code)
}

// Mine mines blocks, a second apart.
func (n *Node) Mine(blocks int) {
	n.t.Helper()
	n.Call(nil, "anvil_mine", hexutil.Uint64(blocks), hexutil.Uint64(1))
}

// Head returns the newest block's number and time.
func (n *Node) Head() (number, time uint64) {
	n.t.Helper()
	var head struct {
		Number    hexutil.Uint64 `json:"number"`
		Timestamp hexutil.Uint64 `json:"timestamp"`
	}
	n.Call(&head, "eth_getBlockByNumber", "latest", false)
	return uint64(head.Number), uint64(head.Timestamp)
}

// SetTime mines a block of that time, in Unix seconds. It can't be before the newest's.
func (n *Node) SetTime(unix uint64) {
	n.t.Helper()
	n.Call(nil, "evm_setNextBlockTimestamp", hexutil.Uint64(unix))
	n.Call(nil, "evm_mine")
}

// Snapshot notes the state of the chain for [Node.Revert].
func (n *Node) Snapshot() (id string) {
	n.t.Helper()
	n.Call(&id, "evm_snapshot")
	return id
}

// Revert takes the chain back to a snapshot, once. What is mined afterwards are other blocks
// with the same numbers: a reorg.
func (n *Node) Revert(id string) {
	n.t.Helper()
	_, before := n.Head()
	var ok bool
	n.Call(&ok, "evm_revert", id)
	if !ok {
		n.t.Fatalf("there is no snapshot %s", id)
	}
	// A block with the same parent, content and time would have the same hash.
	n.Call(nil, "evm_setNextBlockTimestamp", hexutil.Uint64(before+1))
}

// SetRegistry sets what the registry answers to q.
func (n *Node) SetRegistry(q policy.RegistryQuery, status policy.RegistryStatus) {
	n.t.Helper()
	n.SetRegistryAt(config.RegistryOfDocs, q, status)
}

// SetRegistryAt does so at another address, and puts a registry there first.
func (n *Node) SetRegistryAt(registry policy.Address, q policy.RegistryQuery, status policy.RegistryStatus) {
	n.t.Helper()
	n.setCode(registry, "Registry")
	target := common.Address(q.Target)
	var err error
	switch q.Kind {
	case policy.CallPolicy:
		err = n.transact(registry, "Registry", "setCallPolicyStatus", target, q.Selector, uint8(status))
	case policy.TransferPolicy:
		err = n.transact(registry, "Registry", "setTransferPolicyStatus", target, uint8(status))
	case policy.ApprovalTarget:
		err = n.transact(registry, "Registry", "setApprovalTargetStatus", target, common.Address(q.Spender), uint8(status))
	}
	n.must(err)
}

// PutRegistry puts an empty registry at an address.
func (n *Node) PutRegistry(at policy.Address) {
	n.t.Helper()
	n.setCode(at, "Registry")
}

func (n *Node) must(err error) {
	n.t.Helper()
	if err != nil {
		n.t.Fatal(err)
	}
}

// transact sends a transaction that calls a contract, and mines it. A revert is an error.
func (n *Node) transact(to policy.Address, name, function string, args ...any) error {
	n.t.Helper()
	data, err := n.contracts[name].ABI.Pack(function, args...)
	if err != nil {
		n.t.Fatalf("%s.%s: %v", name, function, err)
	}
	return n.send(to, data)
}

func (n *Node) send(to policy.Address, data []byte) error {
	n.t.Helper()
	tx := map[string]any{"from": n.owner, "to": common.Address(to), "data": hexutil.Bytes(data),
		"gas": hexutil.Uint64(8_000_000)}
	// The same as a call first, for the reason of a revert.
	var out hexutil.Bytes
	if err := n.rpc.CallContext(context.Background(), &out, "eth_call", tx, "latest"); err != nil {
		return err
	}
	var hash common.Hash
	n.Call(&hash, "eth_sendTransaction", tx)
	var receipt *struct {
		Status hexutil.Uint64 `json:"status"`
	}
	for receipt == nil { // null until the block is mined, which is a moment later
		n.Call(&receipt, "eth_getTransactionReceipt", hash)
	}
	if receipt.Status != 1 {
		n.t.Fatalf("transaction %v failed", hash)
	}
	return nil
}
