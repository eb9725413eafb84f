package bench

import (
	"bufio"
	"bytes"
	"fmt"
	"net"
	"strconv"
)

// Caller is one connection that asks for signatures, at as little cost as can be: it may run on the same
// cores as what it measures. It is not safe for concurrent use.
type Caller struct {
	nc            net.Conn
	br            *bufio.Reader
	before, after []byte // the request up to the nonce, and behind it
	buf           []byte
}

// Dial connects to an agent's socket. The requests are transfers of 1 wei from account to [Recipient] that
// signer is asked to sign, as agw-client sends them through viem.
func Dial(socket, signer, account string, chainID uint64) (*Caller, error) {
	nc, err := net.Dial("unix", socket)
	if err != nil {
		return nil, err
	}
	text := fmt.Appendf(nil, request, signer, chainID, account, Recipient)
	before, after, _ := bytes.Cut(text, []byte("NONCE"))
	return &Caller{nc: nc, br: bufio.NewReader(nc), before: before, after: after}, nil
}

// answer is how an answer with a signature begins.
var answer = []byte(`{"jsonrpc":"2.0","id":1,"result":"0x`)

// shed is the error of a request that was turned away (api.CodeLimited).
var shed = []byte(`"code":-32005,`)

// Sign asks for a signature over the transaction with that nonce. The error has the agent's answer; it is [ErrShed] if
// the request was turned away.
func (c *Caller) Sign(nonce uint64) error {
	c.buf = append(c.buf[:0], c.before...)
	c.buf = strconv.AppendUint(c.buf, nonce, 10)
	c.buf = append(c.buf, c.after...)
	if _, err := c.nc.Write(c.buf); err != nil {
		return err
	}
	line, err := c.br.ReadSlice('\n')
	if err != nil {
		return err
	}
	if !bytes.HasPrefix(line, answer) || len(line) != len(answer)+2*65+len("\"}\n") {
		if bytes.Contains(line, shed) {
			return fmt.Errorf("%w: %s", ErrShed, bytes.TrimSpace(line))
		}
		return fmt.Errorf("the agent answered %s", bytes.TrimSpace(line))
	}
	return nil
}

// typedData is the second parameter of the requests, for nonce 0.
func (c *Caller) typedData() []byte {
	text := bytes.Join([][]byte{c.before, c.after}, []byte("0"))
	start := bytes.Index(text, []byte(`{"domain"`))
	return text[start : len(text)-len("]}\n")]
}

// Close closes the connection.
func (c *Caller) Close() error { return c.nc.Close() }

// Recipient is the only address that [Spec] allows transfers to.
const Recipient = "0x2222222222222222222222222222222222222222"

// request is an eth_signTypedData_v4 of agw-client, which viem sends. Its arguments are the signer, the chain, the
// account and the recipient.
const request = `{"jsonrpc":"2.0","id":1,"method":"eth_signTypedData_v4","params":["%s",{"domain":{"name":"zkSync","version":"2","chainId":%d},` +
	`"types":{"EIP712Domain":[{"name":"name","type":"string"},{"name":"version","type":"string"},{"name":"chainId","type":"uint256"}],` +
	`"Transaction":[{"name":"txType","type":"uint256"},{"name":"from","type":"uint256"},{"name":"to","type":"uint256"},` +
	`{"name":"gasLimit","type":"uint256"},{"name":"gasPerPubdataByteLimit","type":"uint256"},{"name":"maxFeePerGas","type":"uint256"},` +
	`{"name":"maxPriorityFeePerGas","type":"uint256"},{"name":"paymaster","type":"uint256"},{"name":"nonce","type":"uint256"},` +
	`{"name":"value","type":"uint256"},{"name":"data","type":"bytes"},{"name":"factoryDeps","type":"bytes32[]"},` +
	`{"name":"paymasterInput","type":"bytes"}]},"primaryType":"Transaction",` +
	`"message":{"txType":"113","from":"%s","to":"%s","gasLimit":"100000","gasPerPubdataByteLimit":"50000",` +
	`"maxFeePerGas":"1","maxPriorityFeePerGas":"0","paymaster":"0","nonce":"NONCE","value":"1","data":"0x","factoryDeps":[],"paymasterInput":"0x"}}]}` + "\n"
