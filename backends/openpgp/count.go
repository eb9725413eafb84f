package openpgp

import (
	"context"
	"fmt"

	"github.com/keyward/keyward/internal/pcsc"
)

// mostSignatures is where the counter stops: it has three bytes.
const mostSignatures = 1<<24 - 1

// Counts implements [backends.Counter].
func (b *Backend) Counts() bool { return true }

// Signatures implements [backends.Counter] by the card's digital signature counter (OpenPGP card 3.4, 4.4.3.13: DO 93
// in DO 7A). It counts PSO: COMPUTE DIGITAL SIGNATURE, so only those of the signature key, and begins at 0 with each
// key that is made there.
func (b *Backend) Signatures(ctx context.Context, uri string) (n uint64, counts bool, err error) {
	u, err := b.parse(uri)
	if err != nil || u.slot.password != pwSign {
		return 0, false, err
	}
	n, err = do(ctx, b, "reading the card's counter of signatures", func(s *session) (uint64, error) {
		if _, err := s.find(u); err != nil {
			return 0, err
		}
		raw, sw, err := s.do(pcsc.Command{INS: insGetData, P2: 0x7A})
		switch {
		case err != nil:
			return 0, err
		case sw == swNotFound:
			return mostSignatures, nil
		case sw != pcsc.OK:
			return 0, &refusal{"reading data object 007A", sw}
		}
		return parseCounter(raw)
	})
	return n, err == nil && n < mostSignatures, err
}

// parseCounter reads DO 7A, with or without its own tag.
func parseCounter(raw []byte) (n uint64, err error) {
	list, err := parseTLV(raw)
	if inner := child(list, 0x7A); err == nil && inner != nil {
		list, err = parseTLV(inner)
	}
	value := child(list, 0x93)
	if err == nil && len(value) != 3 {
		err = fmt.Errorf("the counter of signatures has %d bytes, want 3", len(value))
	}
	if err != nil {
		return 0, fmt.Errorf("%w: security support template: %w", pcsc.ErrGarbled, err)
	}
	return uint64(value[0])<<16 | uint64(value[1])<<8 | uint64(value[2]), nil
}
