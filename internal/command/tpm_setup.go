package command

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/keyward/keyward/backends/tpm"
	"github.com/keyward/keyward/internal/config"
	"github.com/keyward/keyward/internal/durable"
	"github.com/keyward/keyward/internal/secret"
)

func (t *tool) tpmSetupCommand() *cli.Command {
	return &cli.Command{
		Name: "setup", Action: t.tpmSetup,
		Usage: "make a storage key in the TPM to seal session keys to, and add it to the configuration as a backend",
		Description: `The TPM generates the key, which never leaves it. The configuration is written last, and made if there is none. The TPM has no
secp256k1: a session's key is in locked memory while it signs.

With a PIN, the TPM opens nothing without it, and counts wrong ones. The PIN of a key can't be changed later.`,
		Flags: []cli.Flag{
			tpmDeviceFlag(),
			&cli.StringFlag{Name: "name", Value: "tpm", Usage: "`NAME` of the backend"},
			&cli.StringFlag{Name: "pcrs", Usage: "`NUMBERS` of the PCRs that session keys are bound to, such as 7 (Secure " +
				"Boot): they open only while these have the values of when the key was made"},
			&cli.StringFlag{Name: "pin-file", TakesFile: true,
				Usage: "`FILE` with the PIN that the key is to have; the agent will read it there"},
			&cli.StringFlag{Name: "pin-credential", Usage: "systemd credential `NAME` that the agent will have the PIN from; " +
				"--pin-file is then for the setup only"},
			&cli.BoolFlag{Name: "pin-prompt", Usage: "you are asked for the PIN that the key is to have, and so is who " +
				"unlocks the agent"},
			&cli.StringFlag{Name: "owner-auth-file", TakesFile: true,
				Usage: "`FILE` with the password of the TPM's owner hierarchy, if it has one"},
		},
	}
}

// tpmSetup is one run of "keyward tpm setup", or of "keyward init --tpm".
type tpmSetup struct {
	*tool
	dirs                              config.Dirs
	name, device, pcrs                string
	pinFile, pinCredential, ownerFile string
	pinPrompt                         bool
}

func (t *tool) tpmSetup(c *cli.Context) error {
	if err := required(c); err != nil {
		return err
	}
	s := &tpmSetup{
		tool: t, name: c.String("name"), device: c.String("tpm-device"), pcrs: c.String("pcrs"),
		pinFile: c.String("pin-file"), pinCredential: c.String("pin-credential"), pinPrompt: c.Bool("pin-prompt"),
		ownerFile: c.String("owner-auth-file"),
	}
	if err := s.checkFlags(); err != nil {
		return err
	}
	if err := harden(); err != nil { // it will hold PINs
		return err
	}
	p, err := placeToSetUp(c)
	if err != nil {
		return withHint(err, "repair that, or name a directory without a configuration, which is made then: --dir DIRECTORY")
	}
	s.dirs = p.dirs
	if p.backends()[s.name] != nil {
		return usageError("%s has a backend %q already; choose another name with --name", s.dirs.ConfigFile(), s.name)
	}
	for _, path := range []string{s.dirs.Config, s.dirs.State, s.dirs.ConfigFile()} {
		if err := mayReplace(path); err != nil {
			return err
		}
	}
	if err := makePlace(s.dirs); err != nil {
		return err
	}
	backend, undo, err := s.makeBackend(c.Context)
	if err != nil {
		return err
	}
	if err := s.addBackend(backend); err != nil {
		return errors.Join(err, undo())
	}
	return s.tellDone(c, backend.Settings.(*config.TPM))
}

func (s *tpmSetup) checkFlags() error {
	if err := config.CheckName(s.name); err != nil {
		return usageError("--name: %v", err)
	}
	if _, err := tpm.ParsePCRs(s.pcrs); err != nil {
		return usageError("--pcrs: %v", err)
	}
	if name := s.pinCredential; name != "" && name != filepath.Base(name) {
		return usageError("--pin-credential: %q is the name of no systemd credential", name)
	}
	if s.pinPrompt && (s.pinFile != "" || s.pinCredential != "") {
		return usageError("--pin-prompt has the PIN asked for: leave --pin-file and --pin-credential out")
	}
	return nil
}

// makeBackend makes the storage key. undo deletes it.
func (s *tpmSetup) makeBackend(ctx context.Context) (_ *config.Backend, undo func() error, err error) {
	device, err := filepath.Abs(s.device)
	if err != nil {
		return nil, nil, err
	}
	b := config.NewBackend("tpm")
	c := b.Settings.(*config.TPM)
	c.Device, c.PCRs, c.KeyHold = device, s.pcrs, tpmKeyHold
	c.PIN = config.PIN{Credential: s.pinCredential, Prompt: s.pinPrompt}
	if s.pinCredential == "" {
		if c.PIN.File, err = inConfigDir(s.dirs, s.pinFile); err != nil {
			return nil, nil, err
		}
	}
	setup := tpm.Setup{Device: device}
	if c.PIN != (config.PIN{}) {
		if setup.PIN, err = s.getPIN(ctx); err != nil {
			return nil, nil, err
		}
		defer setup.PIN.Close()
	}
	if s.ownerFile != "" {
		if setup.Owner, err = secret.FromFile(s.ownerFile)(ctx); err != nil {
			return nil, nil, fmt.Errorf("the owner's password: %w", err)
		}
		defer setup.Owner.Close()
	}
	limited, cancel := context.WithTimeout(ctx, tpmTimeout)
	defer cancel()
	key, err := setup.Create(limited)
	if err != nil {
		return nil, nil, err
	}
	c.Handle, c.Key = key.HandleHex(), key.NameHex()
	undo = func() error {
		setup.PIN = nil
		limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), tpmTimeout)
		defer cancel()
		return setup.Delete(limited, key)
	}
	return b, undo, nil
}

// tpmKeyHold is what a setup writes: a real TPM opens few keys a second.
const tpmKeyHold = time.Minute

func (s *tpmSetup) getPIN(ctx context.Context) (*secret.Buffer, error) {
	return s.get(ctx, &entry{
		what: "PIN", file: s.pinFile, prompt: fmt.Sprintf("New PIN for the TPM's key, of at least %d characters: ",
			tpm.MinPIN), twice: true,
		check: func(b *secret.Buffer) error {
			if b.Len() < tpm.MinPIN {
				return fmt.Errorf("the PIN has %d bytes, want at least %d", b.Len(), tpm.MinPIN)
			}
			return nil
		},
	})
}

// addBackend writes the configuration with the backend in it.
func (s *tpmSetup) addBackend(b *config.Backend) error {
	text, isNew, err := withBackend(s.dirs, s.name, b)
	switch {
	case err != nil:
		return err
	case isNew:
		return durable.WriteFile(s.dirs.ConfigFile(), text, 0o600)
	}
	return durable.Rewrite(s.dirs.ConfigFile(), text)
}

func (s *tpmSetup) tellDone(c *cli.Context, made *config.TPM) error {
	dir := filepath.Clean(s.dirs.Config)
	if c.Bool("json") {
		return s.printJSON(map[string]string{"backend": s.name, "config": s.dirs.ConfigFile(), "device": made.Device,
			"handle": made.Handle, "key": made.Key})
	}
	s.print("%s", s.dirs.ConfigFile())
	s.note("backend %q: storage key %s in the TPM at %s", s.name, made.Handle, made.Device)
	s.hint("start the agent, again if it runs: keyward serve --dir %s", dir)
	if s.pinPrompt {
		s.hint("give it the PIN: keyward unlock --dir %s --backend %s", dir, s.name)
	}
	s.hint("try the TPM: keyward backend check --dir %s %s", dir, s.name)
	return nil
}
