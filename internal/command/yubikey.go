package command

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/keyward/keyward/backends/openpgp"
	"github.com/keyward/keyward/backends/piv"
	"github.com/keyward/keyward/internal/config"
	"github.com/keyward/keyward/internal/pcsc"
)

func (t *tool) yubikeyCommand() *cli.Command {
	return &cli.Command{
		Name:  "yubikey",
		Usage: "see and set up YubiKeys",
		Subcommands: []*cli.Command{
			{
				Name: "status", Action: t.yubikeyStatus,
				Usage: "say which YubiKeys are plugged in, what is on them and which backends use it; no PIN is tried",
				Description: "A YubiKey tells from firmware 5.3 on whether its PINs are the factory's, and what is in its PIV " +
					"slots.",
			},
			t.yubikeySetupCommand(),
		},
	}
}

// cardInfo is a card that is plugged in.
type cardInfo struct {
	piv.Card
	Error    string            `json:"error,omitempty"`    // why its PIV application can't be used
	PIV      *piv.Inventory    `json:"piv,omitempty"`      // absent: the card does not tell
	OpenPGP  string            `json:"openpgp"`            // what is in its OpenPGP application, or why that can't be told
	Backends map[string]string `json:"backends,omitempty"` // those that use it, and what of it: "9d", "openpgp"
	Lost     []string          `json:"lost,omitempty"`     // those of Backends whose key is in the slot no more
}

func (t *tool) yubikeyStatus(c *cli.Context) error {
	if err := required(c); err != nil {
		return err
	}
	p, err := findPlace(c)
	if err != nil { // the cards are there all the same
		t.note("%v", err)
		p = &place{}
	}
	cards, err := listCards()
	if err != nil {
		return err
	}
	infos := make([]cardInfo, 0, len(cards))
	for _, card := range cards {
		infos = append(infos, p.cardInfo(c.Context, card, cards))
	}
	if c.Bool("json") {
		return t.printJSON(infos)
	}
	if len(infos) == 0 {
		t.note("no card is plugged in")
	}
	for _, info := range infos {
		if err := t.printCard(&info); err != nil {
			return err
		}
	}
	if slices.ContainsFunc(cards, func(card piv.Card) bool {
		return errors.Is(card.Err, pcsc.ErrInUse) &&
			len(p.mayHold(card, cards)) > 0
	}) {
		t.hint("what the agent waits for: keyward status --dir %s", p.dirs.Config)
	}
	return nil
}

// listCards lists the cards that are plugged in. One that stays in use says so in its Err.
func listCards() ([]piv.Card, error) {
	var cards []piv.Card
	_, err := pcsc.WhenFree(func() (_ struct{}, err error) {
		cards, err = piv.Cards()
		for _, card := range cards {
			if errors.Is(card.Err, pcsc.ErrInUse) {
				return struct{}{}, card.Err
			}
		}
		return struct{}{}, err
	})
	if cards != nil {
		return cards, nil
	}
	return nil, err
}

// cardInfo is about one of the cards.
func (p *place) cardInfo(ctx context.Context, card piv.Card, cards []piv.Card) cardInfo {
	info := cardInfo{Card: card}
	err := card.Err
	if err == nil {
		info.Backends = p.usersOf(card.Serial)
		var inv *piv.Inventory
		if inv, err = piv.Inspect(card.Serial); err == nil && inv.Described {
			info.PIV, info.Lost = inv, p.lostOn(inv)
		}
	}
	if err != nil {
		info.Error = p.blame(card, err, cards)
	}
	if errors.Is(err, pcsc.ErrInUse) {
		info.OpenPGP = "in use"
		return info
	}
	if info.OpenPGP, err = openpgp.Describe(ctx, card.Reader); err != nil {
		info.OpenPGP = p.blame(card, err, cards)
	}
	return info
}

// blame explains why one of the cards can't be used. If it is in use, that is by this configuration's own agent as
// likely as by another program.
func (p *place) blame(card piv.Card, err error, cards []piv.Card) string {
	if !errors.Is(err, pcsc.ErrInUse) {
		return err.Error()
	}
	switch names := p.mayHold(card, cards); len(names) {
	case 0:
		return pcsc.ErrInUse.Error()
	case 1:
		return fmt.Sprintf("in use: by the agent, for its backend %s, or by another program (gpg's scdaemon, a browser)",
			names[0])
	default:
		return fmt.Sprintf("in use: by the agent, for one of its backends %s, or by another program (gpg's scdaemon, a "+
			"browser)", strings.Join(names, ", "))
	}
}

// mayHold are the backends that may have the card open: those on it, or while it does not say which one it is, those
// that are on none of the others.
func (p *place) mayHold(card piv.Card, cards []piv.Card) (names []string) {
	if card.Serial != 0 {
		return slices.Sorted(maps.Keys(p.usersOf(card.Serial)))
	}
	elsewhere := map[string]bool{}
	for _, other := range cards {
		if other.Serial == 0 {
			continue
		}
		for name, use := range p.usersOf(other.Serial) {
			elsewhere[name] = use != "?"
		}
	}
	for name, b := range p.backends() {
		switch b.Settings.(type) {
		case *config.PIV, *config.OpenPGP:
			if !elsewhere[name] {
				names = append(names, name)
			}
		}
	}
	slices.Sort(names)
	return names
}

// lostOn are the backends on that card whose slot is empty or has another key than the attested one. Before firmware
// 5.3 the card does not tell of any.
func (p *place) lostOn(inv *piv.Inventory) (names []string) {
	if !inv.Described {
		return nil
	}
	for name, b := range p.backends() {
		settings, ok := b.Settings.(*config.PIV)
		if !ok {
			continue
		}
		key := p.attested(settings)
		if key == nil || key.Serial != inv.Serial {
			continue
		}
		if !slices.ContainsFunc(inv.Slots, func(k piv.SlotKey) bool { return k.Slot == key.Slot && k.Is(key.Public) }) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// usersOf are the configured backends on that YubiKey, with what they use of it. A backend whose attestation can't
// be read or believed goes by what its section says; where that says nothing, it uses "?".
func (p *place) usersOf(serial uint32) map[string]string {
	users := map[string]string{}
	for name, b := range p.backends() {
		switch s := b.Settings.(type) {
		case *config.PIV:
			on, slot := uint32(s.Serial), s.Slot
			if key := p.attested(s); key != nil {
				on, slot = key.Serial, key.Slot.String()
			}
			if slot == "" || on == 0 {
				slot = "?"
			}
			if on == serial || on == 0 {
				users[name] = slot
			}
		case *config.OpenPGP: // in whose application identifier it is written in decimal
			if strings.TrimLeft(s.Serial, "0") == fmt.Sprint(serial) {
				users[name] = "openpgp"
			}
		}
	}
	return users
}

// attested is the key of a configured backend; nil if its attestation can't be read or believed.
func (p *place) attested(s *config.PIV) *piv.AttestedKey {
	attestation, err := os.ReadFile(p.dirs.Path(s.Attestation))
	if err != nil {
		return nil
	}
	var roots []byte
	if s.Roots != "" {
		if roots, err = os.ReadFile(p.dirs.Path(s.Roots)); err != nil {
			return nil
		}
	}
	key, err := piv.ParseAttestation(attestation, roots)
	if err != nil {
		return nil
	}
	return key
}

func (t *tool) printCard(info *cardInfo) error {
	if info.Serial == 0 {
		t.print("card in %q", info.Reader)
	} else {
		t.print("YubiKey %d, firmware %s, in %q", info.Serial, info.Firmware, info.Reader)
	}
	facts := [][2]string{{"  PIV", info.Error}}
	if info.Error == "" {
		facts = pivFacts(info.PIV, info.Backends, info.Lost)
	}
	of := ""
	for name, use := range info.Backends {
		if use == "openpgp" {
			of = fmt.Sprintf("; backend %q", name)
		}
	}
	return t.facts(append(facts, [2]string{"  OpenPGP", info.OpenPGP + of})...)
}

// pivFacts says what is in the PIV application, which is nil if the card does not tell. users and lost are as in
// cardInfo.
func pivFacts(inv *piv.Inventory, users map[string]string, lost []string) [][2]string {
	if inv == nil {
		facts := [][2]string{{"  PIV", "firmware before 5.3 does not tell what is on it; see: ykman piv info"}}
		for name, use := range users {
			if use != "openpgp" {
				facts = append(facts, [2]string{"  PIV slot " + use, fmt.Sprintf("backend %q", name)})
			}
		}
		return facts
	}
	management := reference(inv.ManagementKey)
	if inv.Stored {
		management += "; the card keeps it under the PIN"
	}
	facts := [][2]string{
		{"  PIV PIN", reference(inv.PIN)},
		{"  PIV PUK", reference(inv.PUK)},
		{"  PIV management key", management},
	}
	facts = append(facts, slotFacts(inv, users, lost)...)
	for _, what := range inv.Unreadable {
		facts = append(facts, [2]string{"  PIV", "not described: " + what})
	}
	return facts
}

// slotFacts says what is in the slots, and which of the backends should have their key there.
func slotFacts(inv *piv.Inventory, users map[string]string, lost []string) (facts [][2]string) {
	for _, key := range inv.Slots {
		text := key.String()
		for name, use := range users {
			switch {
			case use != key.Slot.String():
			case slices.Contains(lost, name):
				text += fmt.Sprintf("; ANOTHER KEY THAN THAT OF backend %q, which is lost with all that is sealed to it", name)
			default:
				text += fmt.Sprintf("; backend %q", name)
			}
		}
		facts = append(facts, [2]string{"  PIV slot " + key.Slot.String(), text})
	}
	for _, name := range lost {
		if !slices.ContainsFunc(inv.Slots, func(k piv.SlotKey) bool { return k.Slot.String() == users[name] }) {
			facts = append(facts, [2]string{"  PIV slot " + users[name],
				fmt.Sprintf("EMPTY; the key of backend %q is lost with all that is sealed to it", name)})
		}
	}
	return facts
}

func reference(r piv.Reference) string {
	if r.Absent {
		return "none on this card"
	}
	text := "set"
	if r.Default {
		text = "THE FACTORY'S, which everybody knows"
	}
	switch {
	case r.Full == 0: // it has no tries
		return text
	case r.Left == 0:
		return text + fmt.Sprintf("; BLOCKED: 0 of %d tries left", r.Full)
	case r.Left == 1:
		return text + fmt.Sprintf("; 1 of %d tries left, and a wrong one more blocks it", r.Full)
	}
	return text + fmt.Sprintf("; %d of %d tries left", r.Left, r.Full)
}
