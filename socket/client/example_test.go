package client_test

import (
	"context"
	"fmt"
	"log"

	"github.com/keyward/keyward/socket/client"
)

// An app signs a transaction of a session that it is a client of.
func ExampleClient_SignTransaction() {
	ctx := context.Background()
	c, err := client.Dial(ctx, "/run/keyward/agent.sock")
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	signed, err := c.SignTransaction(ctx, map[string]any{
		"from":         "0x1111111111111111111111111111111111111111", // the smart account
		"to":           "0xC4822AbB9F05646A9Ce44EFa6dDcda0Bf45595AA",
		"data":         "0x40c10f19",
		"gas":          "300000",
		"maxFeePerGas": "25000000",
		"nonce":        0,
		"chainId":      11124,
	})
	if refused := client.Details(err); refused != nil {
		log.Fatalf("%s: %s", refused.Details().Reason, refused.Message) // such as lifetimeLimitExceeded
	} else if err != nil {
		log.Fatal(err)
	}
	fmt.Println(signed.Digest)
}
