package softhsmtest

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keyward/keyward/internal/cardsim"
	"github.com/keyward/keyward/socket/api"
)

// sharedCard is an agent with three backends on one YubiKey: two of its PIV slots, "yubikey", for which setup is given,
// and "second", and its OpenPGP application, "openpgp". Each has a process of its own.
func sharedCard(t *testing.T, setup ...string) (*Agent, *cardsim.PCSCD, *cardsim.Card) {
	t.Helper()
	const serial, userPIN, adminPIN = 4711, "472911", "83920175"
	pcscd := cardsim.StartPCSCD(t)
	app := cardsim.NewOpenPGP(cardsim.OpenPGPConfig{Serial: serial})
	app.SetPINs(userPIN, adminPIN)
	card := cardsim.NewYubiKey(cardsim.Firmware571, serial, app)
	pcscd.Insert(t, 0, card)
	a := NewAgent(t)
	a.Stop()
	a.setUpYubiKey(append(setup, "--name", "yubikey")...)
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
	return a, pcscd, card
}

// TestBackendsShareACard signs with three backends on one YubiKey at once, while somebody looks at the card. None gets
// in another's way.
func TestBackendsShareACard(t *testing.T) {
	a, pcscd, card := sharedCard(t)
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

// TestBackendsShareACardThatBlinks has one of them wait for a touch, which the others wait for as if the card was slow,
// and say so.
func TestBackendsShareACardThatBlinks(t *testing.T) {
	a, pcscd, card := sharedCard(t, "--touch-policy", "always")
	card.AutoTouch(true)
	blinking := a.activeSessionOn("yubikey", transferSpec(1000))
	others := []*api.Session{a.activeSessionOn("second", transferSpec(1000)),
		a.activeSessionOn("openpgp", transferSpec(1000))}
	card.AutoTouch(false)
	card.SetTouchTimeout(time.Minute)
	c := a.Client()
	sign := func(sess *api.Session) <-chan error {
		signed := make(chan error, 1)
		go func() {
			_, err := c.SignTransaction(t.Context(), transferTx(sess.ID, 0))
			signed <- err
		}()
		return signed
	}
	touched := sign(blinking)
	a.must(card.AwaitBlink(t.Context()))
	await(t, "the log asks for a touch", func() bool { return strings.Contains(a.log.String(), "waiting for a touch") })
	// What the others do meanwhile: nothing at first, then wait, too, with a request of their own.
	const touch = "waiting for a touch of YubiKey 4711"
	var waiting []<-chan error
	for range 2 {
		begun := time.Now()
		status := a.Keyward("status")
		if took := time.Since(begun); took > 4*time.Second {
			t.Errorf("the status took %v while the card blinks", took)
		}
		if n := strings.Count(status, touch); n != 3 {
			t.Errorf("the status while the card blinks has %q %d times, want it of each backend:\n%s", touch, n, status)
		}
		if waiting == nil {
			for _, sess := range others {
				if shown, err := c.Session(t.Context(), sess.ID); err != nil || shown.Waiting != "" {
					t.Errorf("a session without a request waits for %q, %v", shown.Waiting, err)
				}
				waiting = append(waiting, sign(sess))
			}
			time.Sleep(3 * time.Second) // longer than a backend waits for a foreign program
		}
	}
	for _, sess := range others {
		if shown, err := c.Session(t.Context(), sess.ID); err != nil || !strings.Contains(shown.Waiting, touch) {
			t.Errorf("a session whose request waits for another backend's touch waits for %q, %v", shown.Waiting, err)
		}
	}
	card.Touch()
	for i, signed := range append(waiting, touched) {
		if err := <-signed; err != nil {
			t.Errorf("signature %d: %v", i, err)
		}
	}
	pcscd.AwaitFree(t, 0)
	locks, err := os.Stat(filepath.Join(a.Dir, "state", "cards"))
	if err != nil || locks.Mode().Perm() != 0o700 {
		t.Errorf("the directory of the locks: %v, %v, want 0700", locks.Mode(), err)
	}
}
