package command

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/keyward/keyward/backends/piv"
	"github.com/keyward/keyward/internal/config"
	"github.com/keyward/keyward/internal/pcsc"
	"github.com/keyward/keyward/internal/secret"
)

func (t *tool) yubikeySetupCommand() *cli.Command {
	return &cli.Command{
		Name: "setup", Action: t.yubikeySetup,
		Usage: "make a YubiKey's PIV application ready to seal session keys, and add it to the configuration as a backend",
		Description: `It shows what is on the card and what it is going to do, and asks before it does that. It replaces the factory's PIN,
PUK and management key, generates a P-256 key, checks and keeps the card's attestation of it, and writes the
configuration last. If it is interrupted, run it again in the same way; if a key was generated already, it says how to use that.

PINs come from the terminal, or from the files that are named. The PIN and the PUK are those that the card is to have: if it has
the factory's, they are changed to these. The new management key is random, and the card keeps it under the PIN.`,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "serial", Usage: "`NUMBER` printed on the YubiKey (default: the only one that is plugged in)"},
			&cli.StringFlag{Name: "name", Value: "yubikey", Usage: "`NAME` of the backend"},
			&cli.StringFlag{Name: "slot", Value: "9d", Usage: "`SLOT` of the key: 9d, or 82 to 95"},
			&cli.StringFlag{Name: "pin-policy", Value: string(piv.PINOnce),
				Usage: "when the card wants the PIN: never, once (each time it is opened) or always; it can't be changed later"},
			&cli.StringFlag{Name: "touch-policy", Value: string(piv.TouchNever),
				Usage: "when the card wants a touch: never, always or cached (good for 15 seconds); it can't be changed later"},
			&cli.BoolFlag{Name: "adopt", Usage: "use the key that is in the slot, if it was generated on the card"},
			&cli.BoolFlag{Name: "replace", Usage: "overwrite the key that is in the slot; what is sealed to it is lost for ever"},
			&cli.StringFlag{Name: "pin-file", TakesFile: true,
				Usage: "`FILE` with the PIN; the agent will read it there (default: you are asked, and so is who unlocks the agent)"},
			&cli.StringFlag{Name: "pin-credential", Usage: "systemd credential `NAME` that the agent will have the PIN from; " +
				"--pin-file is then for the setup only"},
			&cli.StringFlag{Name: "puk-file", TakesFile: true,
				Usage: "`FILE` with the PUK, needed if the card has the factory's (default: you are asked)"},
			&cli.StringFlag{Name: "management-key-file", TakesFile: true,
				Usage: "`FILE` with the management key in hex, needed if it is neither the factory's nor kept on the card " +
					"(default: you are asked)"},
			&cli.StringFlag{Name: "attestation-roots", TakesFile: true,
				Usage: "`FILE` with certificates to believe an attestation by, PEM (default: Yubico's)"},
			&cli.BoolFlag{Name: "yes", Usage: "don't ask whether to go on"},
		},
	}
}

// cardSetup is one run of "keyward yubikey setup".
type cardSetup struct {
	*tool
	place *place
	name  string // of the backend
	card  piv.Setup
	inv   *piv.Inventory

	slot           piv.Slot
	pinPolicy      piv.PINPolicy
	touchPolicy    piv.TouchPolicy
	adopt, replace bool
	adopted        *piv.AttestedKey // the key in the slot; nil unless adopt
	policiesGiven  bool

	pinFile, pinCredential, pukFile, managementFile, rootsFile string

	pin, puk, management *secret.Buffer // nil: not needed
}

// yubikeySetup finds out all that can be known before it asks for PINs, and has all PINs before it changes
// anything. What it changes is such that a second run goes on where the first one ended.
func (t *tool) yubikeySetup(c *cli.Context) error {
	s, err := t.newCardSetup(c)
	if err != nil {
		return err
	}
	if err := s.findCard(); err != nil {
		return err
	}
	if err := s.checkSlot(); err != nil {
		return err
	}
	if err := s.checkTries(); err != nil {
		return err
	}
	if err := s.confirm(c.Bool("yes")); err != nil {
		return err
	}
	defer s.wipe()
	if err := s.getPINs(c.Context); err != nil {
		return fmt.Errorf("%w; nothing was changed", err)
	}
	if err := makePlace(s.place.dirs); err != nil {
		return fmt.Errorf("%w; nothing was changed on the card", err)
	}
	key, err := s.prepare()
	if err != nil {
		return err
	}
	attestation, err := s.writeConfig(key)
	if err != nil {
		return withHint(fmt.Errorf("the card is ready, but: %w", err),
			"when that is repaired, use its key: the same command with --adopt")
	}
	return s.tellDone(c, key, attestation)
}

// newCardSetup checks the flags and the configuration.
func (t *tool) newCardSetup(c *cli.Context) (*cardSetup, error) {
	if err := required(c); err != nil {
		return nil, err
	}
	if err := harden(); err != nil { // it will hold PINs
		return nil, err
	}
	p, err := placeToSetUp(c)
	if err != nil {
		return nil, withHint(err, "repair that (a section that isn't wanted may be removed), or set the card up in a "+
			"directory without a configuration, which is made then: --dir DIRECTORY")
	}
	s := &cardSetup{
		tool: t, place: p, name: c.String("name"),
		pinPolicy: piv.PINPolicy(c.String("pin-policy")), touchPolicy: piv.TouchPolicy(c.String("touch-policy")),
		adopt: c.Bool("adopt"), replace: c.Bool("replace"),
		pinFile: c.String("pin-file"), pinCredential: c.String("pin-credential"), pukFile: c.String("puk-file"),
		managementFile: c.String("management-key-file"), rootsFile: c.String("attestation-roots"),
	}
	if err := s.checkFlags(c); err != nil {
		return nil, err
	}
	if s.rootsFile != "" {
		if s.card.Roots, err = os.ReadFile(s.rootsFile); err != nil {
			return nil, fmt.Errorf("attestation roots: %w", err)
		}
		if err := piv.ValidRoots(s.card.Roots); err != nil {
			return nil, withHint(fmt.Errorf("%s: %w", s.rootsFile, err),
				"--attestation-roots takes a file of certificates in PEM; without it, Yubico's are believed")
		}
	}
	return s, s.checkPlace()
}

// placeToSetUp is findPlace, which refuses a configuration without a backend: one is to be added, so that is no fault
// here.
func placeToSetUp(c *cli.Context) (*place, error) {
	p, fault := findPlace(c)
	if fault == nil {
		return p, nil
	}
	dirs, err := config.FindDirs(c.String("dir"), true)
	if err != nil {
		return nil, fault
	}
	s := &cardSetup{place: &place{dirs: dirs}, name: c.String("name")}
	if _, _, err := s.newConfig(anyPIV()); err != nil {
		return nil, fault
	}
	return s.place, nil
}

// anyPIV stands for the backend that will be added, where only the rest of the configuration matters.
func anyPIV() *config.PIV { return &config.PIV{Attestation: "x", PIN: config.PIN{Prompt: true}} }

// checkFlags reads and checks what is no path.
func (s *cardSetup) checkFlags(c *cli.Context) (err error) {
	if err := config.CheckName(s.name); err != nil {
		return usageError("--name: %v", err)
	}
	if s.slot, err = piv.ParseSlot(strings.ToLower(c.String("slot"))); err != nil {
		return usageError("--slot: %v (hexadecimal)", err)
	}
	if err := piv.CheckPolicies(s.pinPolicy, s.touchPolicy); err != nil {
		return usageError("%v", err)
	}
	if s.adopt && s.replace {
		return usageError("--adopt takes the key as it is, and --replace overwrites it: give one of them")
	}
	s.policiesGiven = c.IsSet("pin-policy") || c.IsSet("touch-policy")
	if name := s.pinCredential; name != "" && name != filepath.Base(name) {
		return usageError("--pin-credential: %q is the name of no systemd credential", name)
	}
	if serial := c.String("serial"); serial != "" {
		n, err := strconv.ParseUint(serial, 10, 32)
		if err != nil {
			return usageError("--serial: %q is no serial number; it is printed on the YubiKey, in digits", serial)
		}
		s.card.Serial = uint32(n)
	}
	return nil
}

// checkPlace refuses what would make it fail only when the card is changed already.
func (s *cardSetup) checkPlace() error {
	if s.place.backends()[s.name] != nil {
		return s.taken("name", s.name, s.replace, usageError("%s has a backend %q already", s.place.dirs.ConfigFile(),
			s.name))
	}
	if _, _, err := s.newConfig(anyPIV()); err != nil {
		return err
	}
	for name, b := range s.place.backends() {
		if other, ok := b.Settings.(*config.PIV); ok && s.place.dirs.Path(other.Attestation) == s.place.dirs.Path(s.attestationFile()) {
			return usageError("%s is the attestation of backend %q: choose another name with --name", s.attestationFile(), name)
		}
	}
	for _, path := range []string{s.place.dirs.Config, s.place.dirs.State, s.place.dirs.ConfigFile()} {
		if err := mayReplace(path); err != nil {
			return err
		}
	}
	return nil
}

// taken says what to do about a name or slot that is a configured backend's: choose another, or if giveUp how to give
// that backend up, which the setup does for nobody.
func (s *cardSetup) taken(flag, backend string, giveUp bool, err error) error {
	hint := fmt.Sprintf("choose another %s with --%[1]s", flag)
	if settings, ok := s.place.backends()[backend].Settings.(*config.PIV); ok && giveUp {
		hint += fmt.Sprintf("; or to give up the key of backend %q, with all that is sealed to it: stop the agent, remove "+
			"[backends.%[1]s] from %s and the file %s, and run this again",
			backend, s.place.dirs.ConfigFile(), s.place.dirs.Path(settings.Attestation))
	}
	return withHint(err, "%s", hint)
}

// findCard finds the card and reads what is on it.
func (s *cardSetup) findCard() error {
	cards, err := listCards()
	if err != nil {
		return err
	}
	wanted := s.card.Serial
	var found, inUse []string
	for _, card := range cards {
		switch {
		case errors.Is(card.Err, pcsc.ErrInUse):
			inUse = append(inUse, fmt.Sprintf("card in %q: %s", card.Reader, s.place.blame(card, card.Err, cards)))
		case card.Err != nil:
			s.note("%v", card.Err)
		case wanted == 0 || wanted == card.Serial:
			s.card.Serial = card.Serial
			found = append(found, fmt.Sprint(card.Serial))
		}
	}
	switch {
	case len(found) == 0 && len(inUse) > 0:
		return withHint(errors.New(strings.Join(inUse, "; ")),
			"close that program, or wait for the agent (keyward status says for what it waits), and run this again")
	case len(found) == 0 && wanted != 0:
		return withHint(fmt.Errorf("YubiKey %d is not plugged in, or can't be used", wanted), "keyward yubikey status")
	case len(found) == 0:
		return withHint(errors.New("no YubiKey is plugged in that can be used"), "keyward yubikey status")
	case len(found) > 1:
		return usageError("%d YubiKeys are plugged in, %s: say which one with --serial", len(found),
			strings.Join(found, " and "))
	}
	for _, other := range inUse {
		s.note("%s", other)
	}
	s.inv, err = piv.Inspect(s.card.Serial)
	return err
}

// checkSlot refuses a slot that is used, unless it is to be, and a card that checkRoots refuses.
func (s *cardSetup) checkSlot() (err error) {
	lost := s.place.lostOn(s.inv)
	for name, use := range s.place.usersOf(s.card.Serial) {
		switch {
		case use == s.slot.String() && slices.Contains(lost, name):
			return s.taken("slot", name, true, fmt.Errorf("slot %v of YubiKey %d is that of backend %q, whose key is lost: "+
				"the slot is empty, or holds another one", s.slot, s.card.Serial, name))
		case use == s.slot.String():
			return s.taken("slot", name, s.replace, fmt.Errorf("backend %q has its key in slot %v of YubiKey %d", name, s.slot,
				s.card.Serial))
		case use == "?" && s.replace:
			return fmt.Errorf("backend %q may have its key in that slot, and its attestation can't be read: repair that "+
				"before you replace a key", name)
		}
	}
	if err := s.checkRoots(); err != nil {
		return err
	}
	if s.adopt {
		return s.checkAdopted()
	}
	if s.replace {
		return nil
	}
	err = s.card.CheckEmpty(s.slot)
	if errors.Is(err, piv.ErrOtherKey) {
		return withHint(err, "choose another slot with --slot, or overwrite the key (--replace): session keys are sealed "+
			"to P-256 keys only")
	}
	if errors.Is(err, piv.ErrSlotInUse) {
		return withHint(err, "choose another one with --slot, or use that key (--adopt), or overwrite it (--replace)")
	}
	return err
}

// checkRoots refuses a card whose attestation would not be believed.
func (s *cardSetup) checkRoots() error {
	err := s.card.CheckRoots()
	switch {
	case !errors.Is(err, piv.ErrNotTrusted):
		return err
	case s.rootsFile != "":
		return withHint(err, "it leads to none of the certificates in %s; name the file that has its own: "+
			"--attestation-roots FILE", s.rootsFile)
	}
	return withHint(err, "if it is not to lead to Yubico's certificates, name its own: --attestation-roots FILE")
}

// checkAdopted has the card attest the key that is to be used.
func (s *cardSetup) checkAdopted() (err error) {
	if s.inv.Described {
		i := slices.IndexFunc(s.inv.Slots, func(k piv.SlotKey) bool { return k.Slot == s.slot })
		switch {
		case i < 0:
			return withHint(fmt.Errorf("slot %v is empty: there is no key to adopt", s.slot), "run it without --adopt")
		case !s.inv.Slots[i].Generated:
			return fmt.Errorf("the key in slot %v was imported, so the card can't attest it, and a copy may be elsewhere",
				s.slot)
		case s.inv.Slots[i].Algorithm != "P-256":
			return fmt.Errorf("the key in slot %v is %s, want P-256", s.slot, s.inv.Slots[i].Algorithm)
		}
	}
	if s.adopted, err = s.card.Attest(s.slot); err != nil {
		return err
	}
	if s.policiesGiven && (s.adopted.PINPolicy != s.pinPolicy || s.adopted.TouchPolicy != s.touchPolicy) {
		return fmt.Errorf("there is %v, and policies can't be changed: leave them out, or choose another slot", s.adopted)
	}
	return nil
}

// confirm shows the card and the plan, and asks.
func (s *cardSetup) confirm(yes bool) error {
	for _, line := range s.plan() {
		fmt.Fprintln(s.stderr, line)
	}
	if yes {
		return nil
	}
	fmt.Fprint(s.stderr, `Go on? Type "yes": `)
	answer, err := bufio.NewReader(s.stdin).ReadString('\n')
	if strings.TrimSpace(answer) == "yes" {
		return nil
	}
	refusal := errors.New("not confirmed; nothing was changed")
	if err != nil { // there is nobody
		fmt.Fprintln(s.stderr)
		return withHint(refusal, "where nobody can be asked, add --yes, --pin-file and --puk-file")
	}
	return refusal
}

// mayReplace refuses a file or directory that is somebody else's: what is written there would be ours, and
// the agent could not read it.
func mayReplace(path string) error {
	owner, err := ownerOf(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if owner != os.Geteuid() {
		return withHint(fmt.Errorf("%s belongs to uid %d, and what is written there would belong to you", path, owner),
			"run this as the user that the agent runs as")
	}
	return nil
}

// attestationFile is where the attestation is kept, beside the configuration.
func (s *cardSetup) attestationFile() string { return s.name + "-attestation.pem" }

// inConfigDir writes a path as the configuration is to have it: relative, if the file is beside it.
func inConfigDir(dirs config.Dirs, file string) (string, error) {
	if file == "" {
		return "", nil
	}
	abs, err := filepath.Abs(file)
	if err != nil {
		return "", err
	}
	if rel, err := filepath.Rel(dirs.Config, abs); err == nil && filepath.IsLocal(rel) {
		return rel, nil
	}
	return abs, nil
}
