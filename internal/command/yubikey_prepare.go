package command

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"syscall"

	"github.com/urfave/cli/v2"

	"github.com/keyward/keyward/backends/piv"
	"github.com/keyward/keyward/internal/config"
	"github.com/keyward/keyward/internal/durable"
	"github.com/keyward/keyward/internal/pcsc"
)

// What is the factory's and has to be changed. A card before firmware 5.3 does not tell.
func (s *cardSetup) changesPIN() bool        { return s.inv.Described && s.inv.PIN.Default }
func (s *cardSetup) changesPUK() bool        { return s.inv.Described && s.inv.PUK.Default }
func (s *cardSetup) changesManagement() bool { return s.inv.Described && s.inv.ManagementKey.Default }

// plan says what is on the card and what will be done.
func (s *cardSetup) plan() []string {
	lines := []string{fmt.Sprintf("YubiKey %d, firmware %s", s.inv.Serial, s.inv.Firmware)}
	if !s.inv.Described {
		lines = append(lines, "  This firmware does not tell whether its PIN, PUK and management key are the factory's, "+
			"nor of imported keys.",
			"  Look with ykman piv info, and change them first if they are: the factory's are not tried here.")
	} else {
		for _, fact := range pivFacts(s.inv, nil, nil) {
			lines = append(lines, fact[0]+": "+fact[1])
		}
	}
	lines = append(lines, "Keyward is going to")
	if s.changesPIN() {
		lines = append(lines, "  - change the factory's PIN")
	}
	if s.changesPUK() {
		lines = append(lines, "  - change the factory's PUK")
	}
	if s.changesManagement() {
		lines = append(lines, "  - replace the factory's management key by a random one, which the card keeps under the PIN")
	}
	pin, touch := s.pinPolicy, s.touchPolicy
	if s.adopt {
		pin, touch = s.adopted.PINPolicy, s.adopted.TouchPolicy
		lines = append(lines, fmt.Sprintf("  - use the P-256 key that is in slot %v, which has", s.slot))
	} else {
		lines = append(lines, fmt.Sprintf("  - generate a P-256 key in slot %v, with", s.slot))
	}
	lines = append(lines,
		fmt.Sprintf("      PIN policy %s: %s", pin, pinPolicyMeans[pin]),
		fmt.Sprintf("      touch policy %s: %s", touch, touchPolicyMeans[touch]))
	if !s.adopt {
		lines = append(lines, "    THESE POLICIES CAN'T BE CHANGED LATER: for others, another key is needed, and another "+
			"backend")
		if s.replace {
			lines = append(lines, fmt.Sprintf("    THE KEY THAT IS IN SLOT %v NOW IS LOST, with all that is sealed to it",
				s.slot))
		}
	}
	return append(lines, fmt.Sprintf("  - keep the card's attestation, and add backend %q to %s", s.name,
		s.place.dirs.ConfigFile()))
}

var (
	pinPolicyMeans = map[piv.PINPolicy]string{
		piv.PINNever:  "no PIN; who has the card and the sealed files has the session keys",
		piv.PINOnce:   "the PIN each time the agent opens the card, which is for each operation",
		piv.PINAlways: "the PIN for each use of the key",
	}
	touchPolicyMeans = map[piv.TouchPolicy]string{
		piv.TouchNever:  "none, as a server needs it",
		piv.TouchAlways: "a finger on the card, within 15 seconds, each time a session key is opened",
		piv.TouchCached: "a finger on the card each time a session key is opened; one is good for 15 seconds",
	}
)

// prepare changes the card. Each step leaves it such that a second run does the rest.
func (s *cardSetup) prepare() (key *piv.AttestedKey, err error) {
	key = s.adopted
	for _, step := range []struct {
		needed bool
		what   string
		do     func() error
	}{
		{s.changesPIN(), "changing the PIN", func() error {
			return s.pin.Use(func(pin []byte) error { return s.card.ChangePIN([]byte(piv.DefaultPIN), pin) })
		}},
		{s.changesPUK(), "changing the PUK", func() error {
			return s.puk.Use(func(puk []byte) error { return s.card.ChangePUK([]byte(piv.DefaultPUK), puk) })
		}},
		{s.changesManagement(), "replacing the management key", func() error {
			return s.pin.Use(func(pin []byte) error { return s.card.ProtectManagementKey(piv.DefaultManagementKey(), pin) })
		}},
		{!s.adopt, "generating a key", func() error { key, err = s.generate(); return err }},
	} {
		if !step.needed {
			continue
		}
		s.note("%s", step.what)
		if err := step.do(); err != nil {
			return nil, again(err)
		}
	}
	return key, nil
}

// again says how to go on after a step that failed, which is the one that was told of last.
func again(err error) error {
	first, then := "when that is repaired, ", "run it again in the same way: it does what is left"
	if errors.Is(err, pcsc.ErrGone) {
		first = "plug it in and "
	}
	if errors.Is(err, piv.ErrNotAttested) {
		then = "use the key: the same command with --adopt"
	}
	return withHint(err, "%s%s", first, then)
}

// generate generates the key, with the management key that there was or that there is now.
func (s *cardSetup) generate() (key *piv.AttestedKey, err error) {
	if s.changesManagement() {
		if s.management, err = s.storedManagementKey(false); err != nil {
			return nil, err
		}
	}
	err = s.management.Use(func(management []byte) error {
		key, err = s.card.Generate(management, s.slot, s.pinPolicy, s.touchPolicy, s.replace)
		return err
	})
	return key, err
}

// makePlace makes the agent's directories, if they are not there, and finds out whether they can be written to.
func makePlace(dirs config.Dirs) error {
	for _, dir := range []string{dirs.Config, dirs.State} {
		if _, err := makeDir(dir); err != nil {
			return err
		}
		probe, err := os.CreateTemp(dir, ".setup-*")
		if err != nil {
			return err
		}
		if err := errors.Join(probe.Close(), os.Remove(probe.Name())); err != nil {
			return err
		}
	}
	return nil
}

// writeConfig keeps the attestation and then adds the backend to the configuration, which is made if there is
// none. It returns the attestation's path.
func (s *cardSetup) writeConfig(key *piv.AttestedKey) (attestation string, err error) {
	dirs := s.place.dirs
	settings := &config.PIV{
		Attestation: s.attestationFile(),
		Slot:        key.Slot.String(), PINPolicy: string(key.PINPolicy), TouchPolicy: string(key.TouchPolicy),
		PIN: config.PIN{Credential: s.pinCredential, Prompt: s.pinCredential == "" && s.pinFile == ""},
	}
	if key.Serial <= math.MaxInt32 {
		settings.Serial = int(key.Serial)
	}
	if s.pinCredential == "" {
		if settings.PIN.File, err = inConfigDir(dirs, s.pinFile); err != nil {
			return "", err
		}
	}
	if key.PINPolicy == piv.PINNever {
		settings.PIN = config.PIN{}
	}
	if settings.Roots, err = inConfigDir(dirs, s.rootsFile); err != nil {
		return "", err
	}
	attestation = dirs.Path(settings.Attestation)
	if err := durable.WriteFile(attestation, key.MarshalPEM(), 0o644); err != nil {
		return "", err
	}
	text, isNew, err := s.newConfig(settings)
	switch {
	case err != nil:
		return "", err
	case isNew:
		return attestation, durable.WriteFile(dirs.ConfigFile(), text, 0o600)
	}
	return attestation, durable.Rewrite(dirs.ConfigFile(), text)
}

// newConfig is the configuration with the backend in it; isNew: there was none.
func (s *cardSetup) newConfig(settings *config.PIV) (text []byte, isNew bool, err error) {
	backend := config.NewBackend("piv")
	backend.Settings = settings
	return withBackend(s.place.dirs, s.name, backend)
}

// withBackend is the agent's configuration with that backend added; isNew: there was none.
func withBackend(dirs config.Dirs, name string, b *config.Backend) (text []byte, isNew bool, err error) {
	file := dirs.ConfigFile()
	text, err = os.ReadFile(file)
	switch isNew = errors.Is(err, fs.ErrNotExist); {
	case isNew:
		text = config.Template(name, b)
	case err != nil:
		return nil, false, err
	default:
		if len(text) > 0 && text[len(text)-1] != '\n' {
			text = append(text, '\n')
		}
		text = append(text, config.Section(name, b)...)
	}
	if _, err := config.Parse(text, file); err != nil {
		return nil, false, fmt.Errorf("with backend %q added: %w", name, err)
	}
	return text, isNew, nil
}

// ownerOf is the user that a file belongs to.
func ownerOf(file string) (uid int, err error) {
	info, err := os.Stat(file)
	if err != nil {
		return 0, err
	}
	return int(info.Sys().(*syscall.Stat_t).Uid), nil
}

func (s *cardSetup) tellDone(c *cli.Context, key *piv.AttestedKey, attestation string) error {
	if c.Bool("json") {
		return s.printJSON(map[string]any{
			"backend": s.name, "config": s.place.dirs.ConfigFile(), "attestation": attestation, "serial": key.Serial,
			"slot":     key.Slot,
			"firmware": key.Firmware, "pinPolicy": key.PINPolicy, "touchPolicy": key.TouchPolicy,
		})
	}
	s.print("%s", s.place.dirs.ConfigFile())
	s.note("backend %q: %v", s.name, key)
	s.note("attestation, checked: %s", attestation)
	if s.changesPUK() || s.changesPIN() {
		s.note("keep the PUK in a safe place: it is the way back when the PIN is blocked")
	}
	dir := filepath.Clean(s.place.dirs.Config)
	if s.place.dirs.System() {
		s.hint("systemctl restart keyward")
	} else {
		s.hint("start the agent, again if it runs: keyward serve --dir %s", dir)
	}
	if s.pinCredential == "" && s.pinFile == "" && key.PINPolicy != piv.PINNever {
		s.hint("give it the PIN: keyward unlock --dir %s --backend %s", dir, s.name)
	}
	s.hint("try the card: keyward backend check --dir %s %s", dir, s.name)
	return nil
}
