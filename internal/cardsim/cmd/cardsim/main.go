// Command cardsim runs a private pcscd with a simulated YubiKey in it, in the foreground or for as long as a
// command runs:
//
//	go run ./internal/cardsim/cmd/cardsim
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

func main() {
	firmware := flag.String("firmware", "5.4.3", "`version` of the YubiKey: 5.4.3 or 5.7.1")
	serial := flag.Uint("serial", 12345678, "serial `number` of the YubiKey")
	roots := flag.String("attestation-roots", "", "write the certificate that the cards' attestations lead to to `FILE`, PEM")
	cards := flag.Int("cards", 1, "`how many` cards, 1 or 2; the second one's serial number is one more")
	flag.Parse()
	if *roots != "" {
		root := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cardsim.AttestationRoot().Raw})
		if err := os.WriteFile(*roots, root, 0o644); err != nil {
			fmt.Fprintln(os.Stderr, "cardsim: error:", err)
			os.Exit(1)
		}
	}
	code, err := run(*firmware, uint32(*serial), *cards, flag.Args())
	if err != nil {
		fmt.Fprintln(os.Stderr, "cardsim: error:", err)
	}
	os.Exit(code)
}

// run returns the exit code: the command's, if there is one.
func run(version string, serial uint32, cards int, command []string) (code int, err error) {
	firmware, ok := map[string]cardsim.Firmware{"5.4.3": cardsim.Firmware543, "5.7.1": cardsim.Firmware571}[version]
	if !ok || cards < 1 || cards > cardsim.Readers {
		return 2, errors.New("firmware is 5.4.3 or 5.7.1, cards is 1 or 2")
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
	for i := range cards {
		openPGP := cardsim.NewOpenPGP(cardsim.OpenPGPConfig{Serial: serial + uint32(i), Firmware: firmware})
		card := cardsim.NewYubiKey(firmware, serial+uint32(i), openPGP)
		card.AutoTouch(true)
		if err := pcscd.Put(i, card); err != nil {
			return 1, err
		}
	}
	if len(command) == 0 {
		fmt.Printf("export %s=%s\n", cardsim.SocketEnv, pcscd.Socket)
		fmt.Fprintf(os.Stderr, "cardsim: a YubiKey %s waits; each touch is given at once; Ctrl-C takes it out\n", version)
		<-ctx.Done()
		return 0, nil
	}
	return runCommand(ctx, command, pcscd.Socket)
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
