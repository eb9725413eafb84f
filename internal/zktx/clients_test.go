package zktx

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"os"
	"testing"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/common/hexutil"
	"github.com/ethereum/go-ethereum/core/types"
	"github.com/google/go-cmp/cmp"

	"github.com/keyward/keyward/policy"
)

// clientFile is testdata/clients.json.
type clientFile struct {
	Custom struct {
		Signature, CustomSignature hexutil.Bytes
		Validator                  policy.Address
		HookData                   []hexutil.Bytes
	}
	TypedData, ZKsync, Ethereum []clientCase
}

type clientCase struct {
	Client, Name string
	Params       []json.RawMessage
	Digest, Hash policy.Hash
	Raw          hexutil.Bytes
	Signature    hexutil.Bytes
}

func (c *clientCase) name() string { return c.Client + "/" + c.Name }

func readClients(t testing.TB) *clientFile {
	t.Helper()
	data, err := os.ReadFile("testdata/clients.json")
	if err != nil {
		t.Fatal(err)
	}
	clients := new(clientFile)
	if err := json.Unmarshal(data, clients); err != nil {
		t.Fatal(err)
	}
	return clients
}

func TestTypedDataOfClients(t *testing.T) {
	clients := readClients(t)
	for _, c := range clients.TypedData {
		t.Run(c.name(), func(t *testing.T) {
			text, err := UnwrapTypedData(policy.JSONValue(c.Params[1]))
			if err != nil {
				t.Fatal(err)
			}
			tx, err := parseTypedText(text)
			if err != nil {
				t.Fatalf("ParseTypedData: %v", err)
			}
			if c.Name == "factoryDeps" {
				if _, err := tx.Raw(clients.Custom.CustomSignature); !errors.Is(err, ErrUnknownBytecode) {
					t.Errorf("Raw without bytecodes = %v, want ErrUnknownBytecode", err)
				}
				if _, err := tx.RPCJSON(clients.Custom.CustomSignature); !errors.Is(err, ErrUnknownBytecode) {
					t.Errorf("RPCJSON without bytecodes = %v, want ErrUnknownBytecode", err)
				}
				c.Raw = nil
			}
			checkOutput(t, tx, &c, clients.Custom.CustomSignature)
		})
	}
}

func TestZKsyncRequestsOfClients(t *testing.T) {
	clients := readClients(t)
	for _, c := range clients.ZKsync {
		t.Run(c.name(), func(t *testing.T) {
			tx, err := ParseTransaction(c.Params[0], TypeZKsync, 1)
			if err != nil {
				t.Fatalf("ParseTransaction: %v", err)
			}
			checkOutput(t, tx, &c, clients.Custom.CustomSignature)
		})
	}
}

func TestEthereumRequestsOfClients(t *testing.T) {
	for _, c := range readClients(t).Ethereum {
		t.Run(c.name(), func(t *testing.T) {
			tx, err := ParseTransaction(c.Params[0], TypeDynamicFee, 5)
			if err != nil {
				t.Fatalf("ParseTransaction: %v", err)
			}
			checkOutput(t, tx, &c, c.Signature)
			var sent types.Transaction
			rpc, err := tx.RPCJSON(c.Signature)
			if err != nil {
				t.Fatal(err)
			}
			if err := json.Unmarshal(rpc, &sent); err != nil {
				t.Fatalf("go-ethereum does not read RPCJSON: %v", err)
			}
			sender, err := types.Sender(types.LatestSignerForChainID(sent.ChainId()), &sent)
			if err != nil || sender != common.Address(tx.From) {
				t.Errorf("sender of RPCJSON = %v, %v, want %v", sender, err, tx.From)
			}
		})
	}
}

// checkOutput compares what tx gives with what the client library itself computed.
func checkOutput(t *testing.T, tx *Transaction, c *clientCase, signature []byte) {
	t.Helper()
	if got := tx.Digest(); got != c.Digest {
		t.Errorf("Digest = %v, want %v", got, c.Digest)
	}
	if hash, err := tx.Hash(signature); hash != c.Hash || err != nil {
		t.Errorf("Hash = %v, %v, want %v", hash, err, c.Hash)
	}
	if c.Raw == nil {
		return
	}
	raw, err := tx.Raw(signature)
	if diff := cmp.Diff(hexutil.Encode(raw), c.Raw.String()); err != nil || diff != "" {
		t.Errorf("Raw: %v, got- want+\n%s", err, diff)
	}
}

func TestRawOfClientsReadsBack(t *testing.T) {
	clients := readClients(t)
	for _, c := range clients.ZKsync {
		tx, customSignature, err := ParseRaw(c.Raw)
		if err != nil {
			t.Fatalf("%s: ParseRaw: %v", c.name(), err)
		}
		if !bytes.Equal(customSignature, clients.Custom.CustomSignature) {
			t.Errorf("%s: customSignature = %x", c.name(), customSignature)
		}
		want, err := ParseTransaction(c.Params[0], TypeZKsync, 0)
		if diff := cmp.Diff(want, tx, equateEmpty); err != nil || diff != "" {
			t.Errorf("%s: ParseRaw differs from ParseTransaction: %v, want- got+\n%s", c.name(), err, diff)
		}
	}
}

func TestCustomSignature(t *testing.T) {
	want := readClients(t).Custom
	var hookData [][]byte
	for _, b := range want.HookData {
		hookData = append(hookData, b)
	}
	got := CustomSignature([65]byte(want.Signature), want.Validator, hookData)
	if diff := cmp.Diff(want.CustomSignature.String(), hexutil.Encode(got)); diff != "" {
		t.Errorf("CustomSignature differs from viem's, want- got+\n%s", diff)
	}
}

// vectorStep is what TestDigestVectors needs of a step of the verdict vectors.
type vectorStep struct {
	Tx     json.RawMessage
	Digest policy.Hash
}

func TestDigestVectors(t *testing.T) {
	const vectors = 1156 // in the file: a digest that is left out of the walk is a failure
	f, err := os.Open("../../policy/testdata/session-vectors.jsonl.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	unzipped, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	checked := 0
	for dec := json.NewDecoder(unzipped); ; {
		var c struct {
			Name    string
			ChainID uint64
			Steps   []vectorStep
		}
		if err := dec.Decode(&c); err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		for i, step := range c.Steps {
			tx, err := ParseTransaction(step.Tx, TypeZKsync, c.ChainID)
			if err != nil {
				t.Errorf("%s step %d: %v", c.Name, i, err)
				continue
			}
			if step.Digest == (policy.Hash{}) {
				continue
			}
			checked++
			if got := tx.Digest(); got != step.Digest {
				t.Errorf("%s step %d: Digest = %v, want %v", c.Name, i, got, step.Digest)
			}
		}
	}
	if checked != vectors {
		t.Errorf("checked %d digests, want %d", checked, vectors)
	}
}
