package openpgp

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/internal/pcsc"
)

// session is the card, opened for one operation, with the OpenPGP application selected.
type session struct {
	ctx    context.Context // of the operation: when it is done, no further command is sent
	held   *pcsc.Held      // the card's lock
	client *pcsc.Client
	card   *pcsc.Card
	reader string
	data   *appData // as it was when the card was opened, or by the last refresh
	shown  byte     // P2 of the last VERIFY; 0: no PIN was shown
}

// Instructions and status words (OpenPGP card 3.4, 7.2 and "Status Bytes").
const (
	insVerify       = 0x20
	insGenerate     = 0x47
	insAuthenticate = 0x88 // INTERNAL AUTHENTICATE
	insPSO          = 0x2A // PERFORM SECURITY OPERATION
	insSelect       = 0xA4
	insGetData      = 0xCA
	insPutData      = 0xDA

	swTerminated    pcsc.Status = 0x6285
	swSecurity      pcsc.Status = 0x6600 // "security-related issues": some cards when a touch is not given
	swNotSatisfied  pcsc.Status = 0x6982
	swBlocked       pcsc.Status = 0x6983
	swConditions    pcsc.Status = 0x6985
	swNotFound      pcsc.Status = 0x6A88
	swNoApplication pcsc.Status = 0x6A82
)

// applicationID is the registered part of the application identifier.
var applicationID = [6]byte{0xD2, 0x76, 0x00, 0x01, 0x24, 0x01}

// refusal is a command that the card refused.
type refusal struct {
	what string
	sw   pcsc.Status
}

func (r *refusal) Error() string {
	return fmt.Sprintf("%s: the card refuses (status %v)", r.what, r.sw)
}

// open finds the card by its serial number and opens it. Cards that are looked at on the way
// are reset and closed again.
func (b *Backend) open(ctx context.Context) (_ *session, err error) {
	client, err := pcsc.Dial()
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, client.Close())
		}
	}()
	readers, err := client.Readers()
	if err != nil {
		return nil, err
	}
	b.lastFirst(readers)
	var found pcsc.Several // what there is instead
	for _, r := range readers {
		if !r.Present || r.Mute {
			continue
		}
		s, err := openReader(ctx, client, r.Name)
		if ctx.Err() != nil {
			return nil, errors.Join(fmt.Errorf("%w: %w", backends.ErrUnavailable, context.Cause(ctx)), s.closeCard())
		}
		switch {
		case err != nil:
			found = append(found, fmt.Errorf("%q: %w", r.Name, err))
		case s.data.serial == b.cfg.Serial:
			b.setReader(r.Name)
			return s, nil
		default:
			found = append(found, fmt.Errorf("%q: card %s", r.Name, s.data.serial))
		}
		if err := s.closeCard(); err != nil {
			b.log.Warn("closing another card", "reader", r.Name, "error", err)
		}
	}
	return nil, b.notFound(found)
}

// notFound says that the card is not there, and what is.
func (b *Backend) notFound(found pcsc.Several) error {
	if len(found) == 0 {
		return fmt.Errorf("%w: card %s is not plugged in, nor is any other", backends.ErrUnavailable, b.cfg.Serial)
	}
	return fmt.Errorf("%w: card %s was not found; there is %w", backends.ErrUnavailable, b.cfg.Serial, found)
}

// lastFirst puts the reader that had the card last in front, so that others are left alone.
func (b *Backend) lastFirst(readers []pcsc.Reader) {
	b.mu.Lock()
	last := b.reader
	b.mu.Unlock()
	slices.SortStableFunc(readers, func(x, y pcsc.Reader) int {
		switch {
		case x.Name == y.Name:
			return 0
		case x.Name == last:
			return -1
		case y.Name == last:
			return 1
		}
		return 0
	})
}

func (b *Backend) setReader(name string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.reader = name
}

// openReader opens the card in a reader and reads what it is. The session, which may be nil, has to be
// closed also after an error.
func openReader(ctx context.Context, client *pcsc.Client, reader string) (*session, error) {
	card, err := client.Open(reader)
	if err != nil {
		return nil, err
	}
	s := &session{ctx: ctx, client: client, card: card, reader: reader}
	_, sw, err := s.do(pcsc.Command{INS: insSelect, P1: 0x04, Data: applicationID[:]})
	switch {
	case err != nil:
		return s, err
	case sw == swNoApplication:
		return s, errors.New("no OpenPGP application")
	case sw == swTerminated || sw == swConditions:
		return s, errors.New("the OpenPGP application was terminated; reset it with: ykman openpgp reset")
	case sw != pcsc.OK:
		return s, &refusal{"selecting the OpenPGP application", sw}
	}
	return s, s.refresh()
}

// refresh reads the application related data. If that fails, they are as they were.
func (s *session) refresh() error {
	raw, err := s.getData(0x6E)
	if err != nil {
		return err
	}
	data, err := parseAppData(raw)
	if err == nil {
		s.data = data
	}
	return err
}

// do sends a command, unless nobody waits for its result any more.
func (s *session) do(cmd pcsc.Command) ([]byte, pcsc.Status, error) {
	if err := s.ctx.Err(); err != nil {
		return nil, 0, fmt.Errorf("%w: %w", backends.ErrUnavailable, context.Cause(s.ctx))
	}
	return s.card.Do(cmd)
}

func (s *session) getData(tag uint16) ([]byte, error) {
	data, sw, err := s.do(pcsc.Command{INS: insGetData, P1: byte(tag >> 8), P2: byte(tag)})
	if err == nil && sw != pcsc.OK {
		err = &refusal{fmt.Sprintf("reading data object %04X", tag), sw}
	}
	return data, err
}

func (s *session) putData(tag uint16, value []byte) error {
	_, sw, err := s.do(pcsc.Command{INS: insPutData, P1: byte(tag >> 8), P2: byte(tag), Data: value, NoLe: true})
	if err == nil && sw != pcsc.OK {
		err = &refusal{fmt.Sprintf("writing data object %04X", tag), sw}
	}
	return err
}

// closeCard resets the card and gives it back. A nil session is closed.
func (s *session) closeCard() error {
	if s == nil {
		return nil
	}
	return s.card.Close()
}

// close ends the session. Whatever fails, nothing stays open. The reset clears the
// security status; asking the card to do so before (VERIFY with P1 FF, which newer cards
// know) is a second line, and finds out if the card is still there.
func (s *session) close() error {
	var gone error
	if s.shown != 0 {
		_, _, gone = s.card.Do(pcsc.Command{INS: insVerify, P1: 0xFF, P2: s.shown, NoLe: true})
	}
	return errors.Join(gone, s.card.Close(), s.client.Close())
}
