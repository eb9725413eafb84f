package chain_test

import (
	"testing"

	"github.com/keyward/keyward/chain"
	"github.com/keyward/keyward/chain/chaintest"
)

func TestHead(t *testing.T) {
	node := chaintest.Start(t)
	c, err := chain.New(chaintest.Config(node.URL))
	if err != nil {
		t.Fatal(err)
	}
	b, err := c.Head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Log(b)
}
