// Command cardsim runs a private pcscd with a simulated YubiKey in it, in the foreground or for as long as a
// command runs:
//
//	go run ./internal/cardsim/cmd/cardsim
//	go run ./internal/cardsim/cmd/cardsim -touch ask
//	go run ./internal/cardsim/cmd/cardsim -firmware 5.7.1 -- ykman --device 12345678 piv info
//
// The command finds the card by PCSCLITE_CSOCK_NAME. Nothing is kept: each start is a new card.
// It is a tool for development. It has no secrets worth keeping, and vpcd listens on all interfaces.
//
//go:debug rsa1024min=0
package main

import (
	"context"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"github.com/keyward/keyward/internal/cardsim"
)

// options are the flags.
type options struct {
	firmware string
	serial   uint
	roots    string
	cards    int
	touch    string
}

func main() {
	var o options
	flag.StringVar(&o.firmware, "firmware", "5.4.3", "`version` of the YubiKey: 5.4.3 or 5.7.1")
	flag.UintVar(&o.serial, "serial", 12345678, "serial `number` of the YubiKey")
	flag.StringVar(&o.roots, "attestation-roots", "",
		"write the certificate that the cards' attestations lead to to `FILE`, PEM")
	flag.IntVar(&o.cards, "cards", 1, "`how many` cards, 1 or 2; the second one's serial number is one more")
	flag.StringVar(&o.touch, "touch", "auto", "`who` touches the cards: auto (each touch is given at once), never, or "+
		"ask (you, with Enter)")
	flag.Parse()
	code, err := run(&o, flag.Args())
	if err != nil {
		fmt.Fprintln(os.Stderr, "cardsim: error:", err)
	}
	os.Exit(code)
}

var firmwares = map[string]cardsim.Firmware{"5.4.3": cardsim.Firmware543, "5.7.1": cardsim.Firmware571}

// check finds what is wrong with the flags.
func (o *options) check(command []string) error {
	_, known := firmwares[o.firmware]
	switch {
	case !known:
		return errors.New("firmware is 5.4.3 or 5.7.1")
	case o.cards < 1 || o.cards > cardsim.Readers:
		return errors.New("cards is 1 or 2")
	case touches[o.touch] == "":
		return errors.New("touch is auto, never or ask")
	case o.touch == "ask" && len(command) > 0:
		return errors.New("touch is ask and there is a command: both would read this terminal; run the command in another")
	}
	return nil
}

// run returns the exit code: the command's, if there is one.
func run(o *options, command []string) (code int, err error) {
	if err := o.check(command); err != nil {
		return 2, err
	}
	if o.roots != "" {
		root := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cardsim.AttestationRoot().Raw})
		if err := os.WriteFile(o.roots, root, 0o644); err != nil {
			return 1, err
		}
	}
	dir, err := os.MkdirTemp("", "keyward-cardsim-")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(dir)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	pcscd, err := cardsim.Start(dir)
	if err != nil {
		return 1, err
	}
	defer pcscd.Stop()
	cards := o.newCards()
	for i, card := range cards {
		if err := pcscd.Put(i, card); err != nil {
			return 1, err
		}
	}
	if len(command) > 0 {
		return runCommand(ctx, command, pcscd.Socket)
	}
	fmt.Printf("export %s=%s\n", cardsim.SocketEnv, pcscd.Socket)
	fmt.Fprintf(os.Stderr, "cardsim: a YubiKey %s waits; %s; Ctrl-C takes it out\n", o.firmware, touches[o.touch])
	if o.touch == "ask" {
		giveTouches(ctx, os.Stdin, os.Stderr, cards)
	}
	<-ctx.Done()
	return 0, nil
}

func (o *options) newCards() (cards []*cardsim.Card) {
	firmware := firmwares[o.firmware]
	for i := range o.cards {
		serial := uint32(o.serial) + uint32(i)
		openPGP := cardsim.NewOpenPGP(cardsim.OpenPGPConfig{Serial: serial, Firmware: firmware})
		card := cardsim.NewYubiKey(firmware, serial, openPGP)
		card.AutoTouch(o.touch == "auto")
		cards = append(cards, card)
	}
	return cards
}

func runCommand(ctx context.Context, command []string, socket string) (code int, err error) {
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Env = append(os.Environ(), cardsim.SocketEnv+"="+socket)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	err = cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode(), nil
	}
	if err != nil {
		return 1, err
	}
	return 0, nil
}
