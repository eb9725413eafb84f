package piv

import (
	"encoding/binary"
	"fmt"

	"github.com/keyward/keyward/internal/pcsc"
)

// BER-TLVs with tags of one byte: ISO 7816-4, 5.2.2; SP 800-73-4, part 2, A.1.

// nextTLV splits off the first one.
func nextTLV(b []byte) (tag byte, value, rest []byte, err error) {
	if len(b) < 2 {
		return 0, nil, nil, fmt.Errorf("%w: a tag without a length", pcsc.ErrGarbled)
	}
	n, head := int(b[1]), 2
	switch {
	case b[0]&0x1f == 0x1f:
		return 0, nil, nil, fmt.Errorf("%w: a tag of several bytes", pcsc.ErrGarbled)
	case n == 0x81 && len(b) > 2:
		n, head = int(b[2]), 3
	case n == 0x82 && len(b) > 3:
		n, head = int(b[2])<<8|int(b[3]), 4
	case n >= 0x80:
		return 0, nil, nil, fmt.Errorf("%w: a length that is none", pcsc.ErrGarbled)
	}
	if len(b) < head+n {
		return 0, nil, nil, fmt.Errorf("%w: tag %02x is cut short", pcsc.ErrGarbled, b[0])
	}
	return b[0], b[head : head+n], b[head+n:], nil
}

// parseTLV parses all of b. Each tag may occur once.
func parseTLV(b []byte) (map[byte][]byte, error) {
	values := map[byte][]byte{}
	for len(b) > 0 {
		tag, value, rest, err := nextTLV(b)
		if err != nil {
			return nil, err
		}
		if _, twice := values[tag]; twice {
			return nil, fmt.Errorf("%w: tag %02x is there twice", pcsc.ErrGarbled, tag)
		}
		values[tag], b = value, rest
	}
	return values, nil
}

// withoutTLV is b less the tag, the others in their order.
func withoutTLV(b []byte, without byte) (kept []byte, err error) {
	for len(b) > 0 {
		tag, value, rest, err := nextTLV(b)
		if err != nil {
			return nil, err
		}
		if tag != without {
			kept = appendTLV(kept, tag, value)
		}
		b = rest
	}
	return kept, nil
}

// appendTLV encodes a value of less than 64 KiB.
func appendTLV(b []byte, tag byte, value []byte) []byte {
	switch n := len(value); {
	case n < 0x80:
		b = append(b, tag, byte(n))
	case n < 0x100:
		b = append(b, tag, 0x81, byte(n))
	default:
		b = binary.BigEndian.AppendUint16(append(b, tag, 0x82), uint16(n))
	}
	return append(b, value...)
}
