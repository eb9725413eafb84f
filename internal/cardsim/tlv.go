package cardsim

import (
	"errors"
)

var errTLV = errors.New("malformed TLV")

// tlv is a BER-TLV data object: ISO 7816-4, section 5.2.2. Multi-byte tags and lengths are read as
// they stand: 7f49 is 0x7f49.
type tlv struct {
	Tag   int
	Value []byte
}

// parseTLVs reads data objects to the end of b.
func parseTLVs(b []byte) ([]tlv, error) {
	var all []tlv
	for len(b) > 0 {
		var t tlv
		var err error
		if t, b, err = parseTLV(b); err != nil {
			return nil, err
		}
		all = append(all, t)
	}
	return all, nil
}

// parseTLV reads the first data object of b, and returns what follows it.
func parseTLV(b []byte) (t tlv, rest []byte, err error) {
	next := func() int {
		if len(b) == 0 {
			err = errTLV
			return 0
		}
		v := b[0]
		b = b[1:]
		return int(v)
	}
	t.Tag = next()
	if t.Tag&0x1f == 0x1f {
		for more := true; more && err == nil; {
			v := next()
			t.Tag = t.Tag<<8 | v
			more = v&0x80 != 0
			if t.Tag > 0xffffff {
				err = errTLV // no card has tags of more than three bytes
			}
		}
	}
	n := next()
	if n > 0x80 && n <= 0x83 {
		size := n & 0x7f
		n = 0
		for range size {
			n = n<<8 | next()
		}
	} else if n >= 0x80 {
		err = errTLV
	}
	if err != nil || n > len(b) {
		return tlv{}, nil, errTLV
	}
	t.Value = b[:n]
	return t, b[n:], nil
}

// parseTemplate reads the data object with this tag, which is all of b, and the objects in it.
func parseTemplate(b []byte, tag int) ([]tlv, error) {
	t, rest, err := parseTLV(b)
	if err != nil || t.Tag != tag || len(rest) > 0 {
		return nil, errTLV
	}
	return parseTLVs(t.Value)
}

// value finds a data object. It is nil if there is none, and not nil if it is empty.
func value(all []tlv, tag int) []byte {
	for _, t := range all {
		if t.Tag == tag {
			return t.Value
		}
	}
	return nil
}

// appendTLV encodes a data object, with the shortest length.
func appendTLV(b []byte, tag int, value []byte) []byte {
	for shift := 16; shift >= 0; shift -= 8 {
		if shift == 0 || tag>>shift != 0 {
			b = append(b, byte(tag>>shift))
		}
	}
	switch n := len(value); {
	case n < 0x80:
		b = append(b, byte(n))
	case n < 0x100:
		b = append(b, 0x81, byte(n))
	default:
		b = append(b, 0x82, byte(n>>8), byte(n))
	}
	return append(b, value...)
}
