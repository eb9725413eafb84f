package piv_test

import (
	"bytes"
	"testing"

	"github.com/ethereum/go-ethereum/common"

	"github.com/keyward/keyward/backends/sealed"
	"github.com/keyward/keyward/internal/secret"
)

// TestBoundToSession has the card open what is sealed for one session under the binding of
// another one, or of one that differs in a single field.
func TestBoundToSession(t *testing.T) {
	b := newBench(t, plain)
	w := b.open(t, secret.NewKeeper(source(testPIN), 0)).Wrapper()
	own := sealed.Binding{Label: "keyward-a", Signer: common.Address{1}, Account: "0xa", ChainID: 324}
	other := sealed.Binding{Label: "keyward-b", Signer: common.Address{2}, Account: "0xb", ChainID: 325}
	label, signer, account, chain := own, own, own, own
	label.Label, signer.Signer, account.Account, chain.ChainID = other.Label, other.Signer, other.Account, other.ChainID

	plain := bytes.Repeat([]byte{7}, 32)
	key, err := secret.Take(bytes.Clone(plain))
	must(t, err)
	defer key.Close()
	blob, err := w.Wrap(t.Context(), key, own)
	must(t, err)

	// A try that fails leaves the original as it is, so it is opened last too.
	for _, tt := range []struct {
		name  string
		bind  sealed.Binding
		opens bool
	}{
		{"own", own, true}, {"another session", other, false},
		{"label", label, false}, {"signer", signer, false}, {"account", account, false}, {"chain", chain, false},
		{"own, afterwards", own, true},
	} {
		asked := b.card.Count(insAuthenticate)
		got, err := w.Unwrap(t.Context(), blob, tt.bind)
		if b.card.Count(insAuthenticate) == asked {
			t.Errorf("%s: the card was not asked", tt.name)
		}
		if !tt.opens {
			wantErr(t, tt.name, err, sealed.ErrDamaged, "YubiKey 12345678")
			continue
		}
		must(t, err)
		must(t, got.Use(func(opened []byte) error {
			if !bytes.Equal(opened, plain) {
				t.Errorf("%s: another secret comes out", tt.name)
			}
			return nil
		}))
		must(t, got.Close())
	}
}
