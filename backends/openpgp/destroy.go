package openpgp

import (
	"bytes"
	"context"
	"fmt"
	"strings"

	"github.com/ethereum/go-ethereum/crypto"
	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/internal/pcsc"
)

// Destroy deletes a key for good; the slot is free then. The specification has no
// command for that. Changing a slot's algorithm deletes its key on a YubiKey and on most cards; on those
// where it does not, a new key, which nobody uses, is generated over it.
func (b *Backend) Destroy(ctx context.Context, uri string) error {
	u, err := b.parse(uri)
	if err != nil {
		return err
	}
	_, err = do(ctx, b, "destroying a key", func(s *session) (struct{}, error) {
		return struct{}{}, b.destroy(s, u)
	})
	return err
}

func (b *Backend) destroy(s *session, u uri) error {
	st, err := s.find(u)
	if err != nil {
		return err
	}
	if err := b.verify(s, pwAdmin); err != nil {
		return err
	}
	if err := s.wipe(u.slot, crypto.FromECDSAPub(st.pub)); err != nil {
		return fmt.Errorf("the key may still be on the card: %w", err)
	}
	b.log.Info("key destroyed on the card", "serial", s.data.serial, "slot", u.slot.name, "signer", st.signer)
	return s.setLabel(u.slot, label{})
}

// wipe makes sure that the key with that public key is not in the slot any more. A crash
// half-way leaves the key as ours, no key, or a free slot.
func (s *session) wipe(sl *slot, point []byte) error {
	changed := s.putData(sl.attributes, nistP256)
	if changed == nil {
		if err := s.refresh(); err != nil {
			return err
		}
		gone, err := s.isGone(sl)
		if err != nil {
			return err
		}
		if gone {
			return s.putData(sl.fingerprint, noFingerprint[:])
		}
	}
	if err := s.putData(sl.fingerprint, freeMark[:]); err != nil {
		return err
	}
	_, sw, err := s.do(pcsc.Command{INS: insGenerate, P1: 0x80, Data: []byte{sl.crt, 0}})
	if err == nil && sw != pcsc.OK {
		err = &refusal{"generating a key over it", sw}
	}
	if err != nil {
		return err
	}
	now, sw, err := s.readPoint(sl)
	if err == nil && (sw != pcsc.OK || bytes.Equal(now, point)) {
		err = fmt.Errorf("%w: the key is still there after another was generated over it (status %v)", pcsc.ErrGarbled, sw)
	}
	return err
}

// isGone reports whether the card says that the slot has no key.
func (s *session) isGone(sl *slot) (bool, error) {
	switch s.data.origin(sl) {
	case keyAbsent:
		return true, nil
	case keyUnknown:
		_, sw, err := s.readPoint(sl)
		return sw == swNotFound, err
	}
	return false, nil
}

// Keys lists the keys of ours on the card.
func (b *Backend) Keys(ctx context.Context, prefix string) ([]backends.ListedKey, error) {
	return do(ctx, b, "listing keys", func(s *session) ([]backends.ListedKey, error) {
		var list []backends.ListedKey
		labels, err := s.readRecord()
		if err != nil {
			return nil, err
		}
		for _, sl := range slots {
			st, err := s.inspect(sl)
			if err != nil {
				return nil, err
			}
			text := "" // of a key whose label was lost
			if l := labels[sl.number]; l.signer == st.signer {
				text = l.text
			}
			if st.usage == ours && strings.HasPrefix(text, prefix) {
				list = append(list, backends.ListedKey{Key: b.keyIn(sl, st), Label: text})
			}
		}
		return list, nil
	})
}
