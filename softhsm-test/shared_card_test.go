package softhsmtest

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/keyward/keyward/internal/cardsim"
)

// TestBackendsShareACard signs with three backends on one YubiKey at once, two of its PIV slots and its OpenPGP
// application, each in a process of its own, while somebody looks at the card. None gets in another's way.
func TestBackendsShareACard(t *testing.T) {
	const serial, userPIN, adminPIN = 4711, "472911", "83920175"
	pcscd := cardsim.StartPCSCD(t)
	app := cardsim.NewOpenPGP(cardsim.OpenPGPConfig{Serial: serial})
	app.SetPINs(userPIN, adminPIN)
	card := cardsim.NewYubiKey(cardsim.Firmware571, serial, app)
	pcscd.Insert(t, 0, card)
	a := NewAgent(t)
	a.Stop()
	a.setUpYubiKey("--name", "yubikey")
	a.setUpYubiKey("--name", "second", "--slot", "82")
	for name, pin := range map[string]string{"yubi-pin": userPIN, "yubi-admin-pin": adminPIN} {
		a.must(os.WriteFile(filepath.Join(a.Dir, name), []byte(pin), 0o600))
	}
	a.configure(fmt.Sprintf(`
[backends.openpgp]
type = "openpgp"
serial = "%d"
pin_file = "yubi-pin"
admin_pin_file = "yubi-admin-pin"
`, serial))
	a.Start()
	c := a.Client()
	var signing sync.WaitGroup
	for _, backend := range []string{"yubikey", "second", "openpgp"} {
		sess := a.activeSessionOn(backend, transferSpec(1000))
		for worker := range 4 {
			signing.Go(func() {
				for i := range 30 {
					if _, err := c.SignTransaction(t.Context(), transferTx(sess.ID, uint64(30*worker+i))); err != nil {
						t.Errorf("%s: %v", backend, err)
					}
				}
			})
		}
	}
	for range 3 {
		a.Keyward("yubikey", "status")
	}
	signing.Wait()
	for _, try := range card.PINTries() {
		if try.SW != cardsim.SWOK {
			t.Errorf("a PIN was refused: %+v", try)
		}
	}
	pcscd.AwaitFree(t, 0)
}
