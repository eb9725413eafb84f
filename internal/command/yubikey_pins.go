package command

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/backends/piv"
	"github.com/keyward/keyward/internal/secret"
)

// needsPIN: the card is shown a PIN, or given one.
func (s *cardSetup) needsPIN() bool {
	return s.changesPIN() || s.changesManagement() || !s.adopt || s.adopted.PINPolicy != piv.PINNever
}

// checkTries refuses a card that would refuse a PIN or PUK whichever it is.
func (s *cardSetup) checkTries() error {
	if s.needsPIN() {
		if err := s.card.CheckTries(false); err != nil {
			return err
		}
	}
	if s.changesPUK() {
		return s.card.CheckTries(true)
	}
	return nil
}

// getPINs gets all that prepare and the agent need, and refuses what the card refuses.
func (s *cardSetup) getPINs(ctx context.Context) (err error) {
	if s.needsPIN() {
		if s.pin, err = s.getPIN(ctx, "PIN", s.pinFile, s.changesPIN()); err != nil {
			return err
		}
		if !s.changesPIN() {
			if err := s.pin.Use(s.card.CheckPIN); err != nil {
				return ofFile("PIN", s.pinFile, err, backends.ErrPINIncorrect)
			}
		}
	}
	if s.changesPUK() {
		if s.puk, err = s.getPIN(ctx, "PUK", s.pukFile, true); err != nil {
			return err
		}
	}
	if !s.changesManagement() && !s.adopt {
		s.management, err = s.managementKey(ctx)
	}
	return err
}

// getPIN gets a PIN or PUK. isNew: nobody has it yet.
func (s *cardSetup) getPIN(ctx context.Context, what, file string, isNew bool) (*secret.Buffer, error) {
	e := entry{what: what, file: file, prompt: "The YubiKey's " + what + ": ", twice: isNew}
	if isNew {
		e.prompt = "New " + what + " for the YubiKey, of 6 to 8 characters: "
	}
	e.check = func(b *secret.Buffer) error {
		if what == "PUK" && b.Equal(s.pin) {
			return errors.New("the PUK is the same as the PIN; it is for the day when somebody knows the PIN")
		}
		return b.Use(func(pin []byte) error { return piv.ValidPIN(what, pin) })
	}
	return s.get(ctx, &e)
}

// managementKey has the card give the management key for the PIN that it has now, or else gets it as it gets PINs.
func (s *cardSetup) managementKey(ctx context.Context) (*secret.Buffer, error) {
	key, err := s.storedManagementKey(s.changesPIN())
	if !errors.Is(err, piv.ErrNotStored) {
		return key, err
	}
	var raw []byte
	text, err := s.get(ctx, &entry{
		what: "management key", file: s.managementFile, prompt: "The YubiKey's management key, in hex: ",
		check: func(b *secret.Buffer) error {
			return b.Use(func(text []byte) (err error) { raw, err = s.parseManagementKey(text); return err })
		},
	})
	if err != nil {
		return nil, err
	}
	defer text.Close()
	if err := s.card.CheckManagementKey(raw); err != nil {
		clear(raw)
		return nil, ofFile("management key", s.managementFile, err, piv.ErrManagementKey)
	}
	return secret.Take(raw)
}

// parseManagementKey reads hex, and refuses the factory's.
func (s *cardSetup) parseManagementKey(text []byte) ([]byte, error) {
	raw := make([]byte, hex.DecodedLen(len(text)))
	if _, err := hex.Decode(raw, text); err != nil || len(raw) != 16 && len(raw) != 24 && len(raw) != 32 {
		clear(raw)
		return nil, errors.New("the management key is not 16, 24 or 32 bytes in hex")
	}
	switch isDefault := bytes.Equal(raw, piv.DefaultManagementKey()); {
	case isDefault && s.inv.Described: // and it has been said not to be the card's
		return nil, errors.New("that is the factory's management key, and this YubiKey has another one")
	case isDefault:
		return nil, errors.New("the management key is the factory's, which everybody knows; change it with: ykman piv " +
			"access change-management-key --protect --generate")
	}
	return raw, nil
}

// storedManagementKey reads the management key that the card keeps under the PIN: the factory's, of which the
// card says that it is, or the one that was given.
func (s *cardSetup) storedManagementKey(factoryPIN bool) (*secret.Buffer, error) {
	var key []byte
	read := func(pin []byte) (err error) { key, err = s.card.ManagementKey(pin); return err }
	var err error
	if factoryPIN {
		err = read([]byte(piv.DefaultPIN))
	} else {
		err = s.pin.Use(read)
	}
	if err != nil {
		return nil, err
	}
	return secret.Take(key)
}

func (s *cardSetup) wipe() {
	for _, b := range []*secret.Buffer{s.pin, s.puk, s.management} {
		_ = b.Close() // it can fail only on a bug in there
	}
}

// entry is a secret that comes from a file, or from a person.
type entry struct {
	what   string // "PUK"
	file   string // "": the person is asked
	prompt string
	twice  bool                       // a slip would be known to nobody
	check  func(*secret.Buffer) error // refuses what the device is not even to be shown
}

// entryTries is how often a person is asked for one secret.
const entryTries = 3

// get reads the file, or asks on the terminal, again after a slip.
func (t *tool) get(ctx context.Context, e *entry) (*secret.Buffer, error) {
	if e.file != "" {
		b, err := secret.FromFile(e.file)(ctx)
		if err != nil && e.what != "PIN" { // which it calls all of them
			err = fmt.Errorf("%s: %w", e.what, err)
		}
		if err != nil {
			return nil, err
		}
		if err := e.check(b); err != nil {
			return nil, errors.Join(ofFile(e.what, e.file, err, nil), b.Close())
		}
		return b, nil
	}
	for tries := 1; ; tries++ {
		b, err := e.ask(ctx)
		var slip *secret.Slip
		if err == nil || !errors.As(err, &slip) || tries == entryTries {
			return b, err
		}
		t.note("%v; try again", err)
	}
}

// ask asks once. A [secret.Slip] is a reason to ask again.
func (e *entry) ask(ctx context.Context) (*secret.Buffer, error) {
	source := secret.FromTerminal(e.prompt)
	if e.twice {
		source = secret.NewPINFromTerminal(e.prompt, e.check)
	}
	b, err := source(ctx)
	if err == nil && !e.twice {
		if err = e.check(b); err != nil {
			err = errors.Join(&secret.Slip{Err: err}, b.Close())
		}
	}
	switch {
	case err == nil:
		return b, nil
	case errors.Is(err, secret.ErrNoTerminal):
		return nil, withHint(fmt.Errorf("%s: %w", e.what, secret.ErrNoTerminal), "name the file that has it: --%s-file FILE",
			strings.ReplaceAll(strings.ToLower(e.what), " ", "-"))
	case errors.Is(err, context.Canceled), errors.Is(err, io.EOF): // Ctrl-C, Ctrl-D
		return nil, fmt.Errorf("the prompt for the %s was interrupted", e.what)
	}
	return nil, err
}

// ofFile names the file that what came from, if there is one, in an error of that kind; nil: of any.
func ofFile(what, file string, err, kind error) error {
	if file == "" || kind != nil && !errors.Is(err, kind) {
		return err
	}
	return fmt.Errorf("%s file %s: %w", what, file, err)
}
