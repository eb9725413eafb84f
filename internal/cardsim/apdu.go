package cardsim

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
)

// Status words: ISO 7816-4, section 5.6, and SP 800-73-4, part 2, 3.
const (
	SWOK                uint16 = 0x9000
	SWMore              uint16 = 0x6100 // low byte: how many bytes are left, 0 for 256 or more
	SWVerifyFailed      uint16 = 0x63c0 // low digit: tries left
	SWWrongLength       uint16 = 0x6700
	SWChainUnsupported  uint16 = 0x6884
	SWNotSatisfied      uint16 = 0x6982 // no PIN, no management key, no touch
	SWBlocked           uint16 = 0x6983
	SWConditions        uint16 = 0x6985
	SWWrongData         uint16 = 0x6a80
	SWNotSupported      uint16 = 0x6a81
	SWFileNotFound      uint16 = 0x6a82
	SWNoSpace           uint16 = 0x6a84
	SWWrongP1P2         uint16 = 0x6a86
	SWReferenceNotFound uint16 = 0x6a88
	SWUnknownINS        uint16 = 0x6d00
	SWUnknownCLA        uint16 = 0x6e00
	SWInternal          uint16 = 0x6f00
)

const (
	insSelect      = 0xa4
	insGetResponse = 0xc0
	insVerify      = 0x20

	claChained = 0x10 // more blocks of this command follow
)

// Command is a whole command: a chained one is joined. It is valid until Process returns.
type Command struct {
	CLA, INS, P1, P2 byte
	Data             []byte
	Le               int // most bytes that the caller takes at once: 0 if it did not say, else 1 to 65536

	ctx  context.Context // ends when the card loses its power
	card *Card
}

// P1P2 is both parameters as one number.
func (c *Command) P1P2() uint16 { return uint16(c.P1)<<8 | uint16(c.P2) }

var errMalformed = errors.New("malformed APDU")

// parseCommand reads a short or extended APDU: ISO 7816-4, section 5.1.
func parseCommand(b []byte) (*Command, error) {
	if len(b) < 4 {
		return nil, fmt.Errorf("%w: %d bytes", errMalformed, len(b))
	}
	cmd := &Command{CLA: b[0], INS: b[1], P1: b[2], P2: b[3]}
	body := b[4:]
	switch {
	case len(body) == 0:
		return cmd, nil
	case len(body) == 1:
		cmd.Le = orMax(int(body[0]), 256)
		return cmd, nil
	case body[0] != 0: // short, with data
		n := int(body[0])
		return cmd, cmd.split(body[1:], n, 1)
	case len(body) == 3: // extended, without data
		cmd.Le = orMax(int(binary.BigEndian.Uint16(body[1:])), 65536)
		return cmd, nil
	case len(body) == 2: // a case 4 with Lc 0, which some callers send
		cmd.Le = orMax(int(body[1]), 256)
		return cmd, nil
	}
	n := int(binary.BigEndian.Uint16(body[1:]))
	return cmd, cmd.split(body[3:], n, 2)
}

// split sets Data to the first n bytes of b, and Le to the rest, which has leSize bytes or none.
func (c *Command) split(b []byte, n, leSize int) error {
	if len(b) < n {
		return fmt.Errorf("%w: %d bytes of data where Lc says %d", errMalformed, len(b), n)
	}
	c.Data = b[:n]
	switch rest := b[n:]; {
	case len(rest) == 0:
		return nil
	case len(rest) != leSize:
		return fmt.Errorf("%w: %d bytes after the data", errMalformed, len(rest))
	case leSize == 1:
		c.Le = orMax(int(rest[0]), 256)
	default:
		c.Le = orMax(int(binary.BigEndian.Uint16(rest)), 65536)
	}
	return nil
}

// orMax reads a length in which 0 stands for the greatest.
func orMax(n, most int) int {
	if n == 0 {
		return most
	}
	return n
}
