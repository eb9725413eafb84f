package backends_test

import (
	"context"
	"fmt"
	"log"

	"github.com/ethereum/go-ethereum/crypto"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/backends/soft"
)

// A backend makes a key and signs a digest with it. Its signatures have no recovery id; Recoverable verifies one and
// finds it.
func ExampleRecoverable() {
	var b backends.Backend = new(soft.Backend) // a device in memory, for tests
	defer b.Close()
	ctx := context.Background()
	key, err := b.Generate(ctx, backends.KeyAttributes{Label: "keyward-example"})
	if err != nil {
		log.Fatal(err)
	}
	digest := [32]byte(crypto.Keccak256([]byte("hello")))
	sig, err := key.SignDigest(ctx, digest)
	if err != nil {
		log.Fatal(err)
	}
	whole, err := backends.Recoverable(crypto.FromECDSAPub(key.Public()), digest, sig)
	fmt.Println(len(whole), whole[64] == 27 || whole[64] == 28, err)
	// Output: 65 true <nil>
}
