package openpgp

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/ethereum/go-ethereum/crypto"
	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/internal/pcsc"
)

// Generate makes a key in the first of the configured slots that is free. With none free, the error is
// [ErrNoSlot] and says what is in them.
func (b *Backend) Generate(ctx context.Context, attrs backends.KeyAttributes) (backends.Key, error) {
	if len(attrs.Label) > maxLabel {
		return nil, b.wrap("generating a key", fmt.Errorf("the label has %d bytes, the card has room for %d",
			len(attrs.Label), maxLabel))
	}
	k, err := doOrUndo(ctx, b, "generating a key",
		func(s *session) (*key, error) { return b.generate(s, attrs.Label) },
		func(s *session, k *key) error { return b.destroy(s, k.uri) })
	if err != nil {
		return nil, err
	}
	return k, nil
}

// generate makes a key. The slot's mark decides whose the key is, so it is set to free
// before there is a key, and to the key's own last of all. A card that can't do the curve is left as it was.
func (b *Backend) generate(s *session, text string) (*key, error) {
	sl, err := b.freeSlot(s)
	if err != nil {
		return nil, err
	}
	if _, err := s.readRecord(); err != nil { // before anything is changed, as what follows
		return nil, err
	}
	if err := s.checkCurves(sl); err != nil {
		return nil, err
	}
	if err := b.verify(s, pwAdmin); err != nil {
		return nil, err
	}
	if err := b.prepare(s, sl); err != nil {
		return nil, err
	}
	if err := s.putData(sl.fingerprint, freeMark[:]); err != nil {
		return nil, err
	}
	st, err := s.makeKey(sl)
	if err != nil {
		return nil, fmt.Errorf("making the %s: %w", sl.what, err)
	}
	if err := b.accept(s, sl, st, text); err != nil {
		return nil, errors.Join(err, b.disown(s, sl))
	}
	b.log.Info("key generated on the card", "serial", s.data.serial, "slot", sl.name, "signer", st.signer)
	return b.keyIn(sl, st), nil
}

// freeSlot is the first slot that may be used: one without a key, else one whose
// key the operator named to be overwritten.
func (b *Backend) freeSlot(s *session) (*slot, error) {
	var given *slot
	var taken []string
	for _, sl := range b.slots {
		st, err := s.inspect(sl)
		if err != nil {
			return nil, err
		}
		switch fp := fmt.Sprintf("%X", st.fingerprint); {
		case st.usage == empty || st.usage == free:
			return sl, nil
		case st.usage == ours:
			taken = append(taken, fmt.Sprintf("%s: key of signer 0x%x", sl.name, st.signer[:]))
		case given == nil && st.fingerprint != noFingerprint && b.mayOverwrite(fp):
			given = sl
		default:
			taken = append(taken, fmt.Sprintf("%s: a key that is not Keyward's, fingerprint %s", sl.name, fp))
		}
	}
	if given == nil {
		return nil, fmt.Errorf("%w on card %s (%s); a card holds two keys: end a session whose key is not needed, whose "+
			"slot is freed "+
			"key_grace later with the admin PIN, or use another card", ErrNoSlot, s.data.serial, strings.Join(taken, "; "))
	}
	return given, nil
}

func (b *Backend) mayOverwrite(fingerprint string) bool {
	return slices.ContainsFunc(b.cfg.Overwrite, func(named string) bool { return strings.EqualFold(named, fingerprint) })
}

// prepare sets the slot's curve and touch policy.
func (b *Backend) prepare(s *session, sl *slot) error {
	if !bytes.Equal(s.data.attributes[sl.number], secp256k1) {
		if err := s.putData(sl.attributes, secp256k1); err != nil {
			return fmt.Errorf("%w: %w", s.noCurve(sl), err)
		}
	}
	if b.cfg.Touch == "" {
		return nil
	}
	want := touchPolicies[b.cfg.Touch]
	is, known, err := s.touchPolicy(sl)
	switch {
	case err != nil:
		return err
	case !known:
		return fmt.Errorf("the card has no touch policy, but %q is configured", b.cfg.Touch)
	case is == want:
		return nil
	case fixed(is):
		return fmt.Errorf("the touch policy of the %s is fixed and can't be made %q; only resetting the application "+
			"changes it", sl.what, b.cfg.Touch)
	}
	const button = 0x20
	return s.putData(sl.uif, []byte{want, button})
}

// checkCurves refuses a card whose list of algorithms, DO FA (4.4.3.11), has no secp256k1 for the slot. The list is
// optional, and new in version 3.4; a card without it shows when the slot is prepared.
func (s *session) checkCurves(sl *slot) error {
	raw, sw, err := s.do(pcsc.Command{INS: insGetData, P2: 0xFA})
	if err != nil {
		return err
	}
	if sw != pcsc.OK || len(raw) == 0 {
		return nil
	}
	list, err := parseTLV(raw)
	if err == nil && child(list, 0xFA) != nil {
		list, err = parseTLV(child(list, 0xFA))
	}
	if err != nil {
		return fmt.Errorf("%w: the list of algorithms: %w", pcsc.ErrGarbled, err)
	}
	listed := false
	for _, o := range list {
		if o.tag != sl.attributes {
			continue
		}
		listed = true
		if bytes.HasPrefix(o.value, secp256k1) { // a byte more says how keys are imported
			return nil
		}
	}
	if !listed {
		return nil
	}
	return s.noCurve(sl)
}

// noCurve is the error of a card that can't do secp256k1.
func (s *session) noCurve(sl *slot) error {
	why := "no model of that maker is known to us to have it"
	switch s.data.manufacturer {
	case yubico:
		why = "a YubiKey 5 has it from firmware 5.2.3 on; a YubiKey FIPS, a YubiKey 4 and a Bio have not"
	case nitrokey:
		why = "a Nitrokey Start with new firmware has it; a Nitrokey 3 has not"
	}
	return fmt.Errorf("%w: the %s of %s %s has no secp256k1: %s; nothing was changed on the card", backends.ErrRefused,
		sl.what, s.data.model(), s.data.serial, why)
}

// makeKey generates a key, and reads it back.
func (s *session) makeKey(sl *slot) (*slotState, error) {
	data, sw, err := s.do(pcsc.Command{INS: insGenerate, P1: 0x80, Data: []byte{sl.crt, 0}})
	if err == nil && sw != pcsc.OK {
		err = &refusal{"generating", sw}
	}
	if err != nil {
		return nil, err
	}
	point, err := parsePublic(data)
	if err != nil {
		return nil, err
	}
	pub, err := backends.ParsePublicKey(point)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", pcsc.ErrGarbled, err)
	}
	again, sw, err := s.readPoint(sl)
	if err != nil {
		return nil, err
	}
	if sw != pcsc.OK || !bytes.Equal(again, point) {
		return nil, fmt.Errorf("%w: the key is not the one that was generated (status %v)", pcsc.ErrGarbled, sw)
	}
	return &slotState{usage: ours, pub: pub, signer: crypto.PubkeyToAddress(*pub)}, nil
}

// accept writes what belongs to a key, the mark that makes it ours last, and checks that it is.
func (b *Backend) accept(s *session, sl *slot, st *slotState, text string) error {
	if err := s.setLabel(sl, label{st.signer, text}); err != nil {
		return err
	}
	now := binary.BigEndian.AppendUint32(nil, uint32(time.Now().Unix()))
	if err := s.putData(sl.generated, now); err != nil {
		return err
	}
	if err := s.putData(sl.fingerprint, st.signer[:]); err != nil {
		return err
	}
	if err := s.refresh(); err != nil {
		return err
	}
	_, err := s.find(b.keyIn(sl, st).uri)
	return err
}

// disown takes back what accept may have written, also when nobody waits any more.
func (b *Backend) disown(s *session, sl *slot) error {
	s.ctx = context.WithoutCancel(s.ctx)
	if err := s.putData(sl.fingerprint, freeMark[:]); err != nil {
		b.log.Error("a key may be left on the card, unused", "serial", s.data.serial, "slot", sl.name, "error", err)
		return fmt.Errorf("a key may be left as the %s of card %s, unused: %w", sl.what, s.data.serial, err)
	}
	return nil
}
