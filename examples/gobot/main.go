// Command gobot mints an item each interval until its session's limits are used up. It has no key:
// the agent signs, and says when it is enough.
//
//	KEYWARD_SOCKET=.keyward/agent.sock RPC_URL=… go run ./examples/gobot --to 0x…
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"math/big"
	"os"
	"os/signal"
	"time"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/common/hexutil"
	"github.com/ethereum/go-ethereum/ethclient"
	"github.com/ethereum/go-ethereum/rpc"

	"github.com/keyward/keyward/socket/api"
	"github.com/keyward/keyward/socket/client"
)

// items is the contract that mints.
var items = common.HexToAddress("0xC4822AbB9F05646A9Ce44EFa6dDcda0Bf45595AA")

// gas is enough for a mint. All of it counts against the session's fee limit, whatever is used.
const gas = 400_000

func main() {
	to := flag.String("to", "", "who gets the items")
	interval := flag.Duration("interval", 10*time.Second, "time between two mints")
	flag.Parse()
	if !common.IsHexAddress(*to) {
		log.Fatal("gobot: --to: want an address")
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, common.HexToAddress(*to), *interval); err != nil {
		log.Fatal("gobot: ", err)
	}
}

// run mints until the agent refuses, ctx is done, or something fails. A refusal is no error.
func run(ctx context.Context, to common.Address, interval time.Duration) error {
	b, err := dial(ctx)
	if err != nil {
		return err
	}
	defer b.close()
	for {
		hash, err := b.mint(ctx, to)
		if reply := client.Details(err); reply != nil && reply.Code == api.CodeDenied {
			fmt.Println("enough:", reply.Message)
			return nil
		}
		if err != nil {
			return err
		}
		fmt.Println("minted:", hash)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(interval):
		}
	}
}

// bot mints from the account of one session.
type bot struct {
	agent   *client.Client
	node    *ethclient.Client
	session *api.Session
}

func dial(ctx context.Context) (*bot, error) {
	agent, err := client.Dial(ctx, env("KEYWARD_SOCKET", ".keyward/agent.sock"))
	if err != nil {
		return nil, err
	}
	node, err := rpc.DialContext(ctx, env("RPC_URL", "https://api.testnet.abs.xyz"))
	if err != nil {
		agent.Close()
		return nil, err
	}
	b := &bot{agent: agent, node: ethclient.NewClient(node)}
	if b.session, err = granted(ctx, agent); err != nil {
		b.close()
		return nil, err
	}
	return b, nil
}

func (b *bot) close() {
	b.agent.Close()
	b.node.Close()
}

// granted is the first session that the operator lets this user use.
func granted(ctx context.Context, agent *client.Client) (*api.Session, error) {
	sessions, err := agent.Sessions(ctx)
	if err != nil {
		return nil, err
	}
	for _, s := range sessions {
		if s.Kind == "agw" && s.Status == "active" {
			return s, nil
		}
	}
	return nil, errors.New("the operator has granted no session to this user")
}

// transaction is what session_signTransaction takes; see docs/protocol.md.
type transaction struct {
	Session      string         `json:"session"`
	From         common.Address `json:"from"`
	To           common.Address `json:"to"`
	Data         hexutil.Bytes  `json:"data"`
	Nonce        hexutil.Uint64 `json:"nonce"`
	Gas          hexutil.Uint64 `json:"gas"`
	MaxFeePerGas *hexutil.Big   `json:"maxFeePerGas"` // wei
}

// mint signs and sends a transaction that mints one item, and returns its hash.
func (b *bot) mint(ctx context.Context, to common.Address) (common.Hash, error) {
	account := common.Address(b.session.Account)
	nonce, err := b.node.PendingNonceAt(ctx, account)
	if err != nil {
		return common.Hash{}, fmt.Errorf("asking for the nonce: %w", err)
	}
	price, err := b.node.SuggestGasPrice(ctx)
	if err != nil {
		return common.Hash{}, fmt.Errorf("asking for the gas price: %w", err)
	}
	signed, err := b.agent.SignTransaction(ctx, transaction{
		Session: b.session.ID, From: account, To: items, Data: mintData(to, 1),
		Nonce: hexutil.Uint64(nonce), Gas: gas, MaxFeePerGas: (*hexutil.Big)(price),
	})
	if err != nil {
		return common.Hash{}, err
	}
	// go-ethereum's types do not know type 0x71, so the raw transaction goes as it is.
	var hash common.Hash
	err = b.node.Client().CallContext(ctx, &hash, "eth_sendRawTransaction", hexutil.Bytes(signed.Raw))
	if err != nil {
		return common.Hash{}, fmt.Errorf("sending: %w", err)
	}
	return hash, nil
}

// mintData is the calldata of mint(address to, uint256 amount).
func mintData(to common.Address, amount int64) []byte {
	data := []byte{0x40, 0xc1, 0x0f, 0x19}
	data = append(data, common.LeftPadBytes(to[:], 32)...)
	return append(data, common.BigToHash(big.NewInt(amount)).Bytes()...)
}

func env(name, fallback string) string {
	if value := os.Getenv(name); value != "" {
		return value
	}
	return fallback
}
