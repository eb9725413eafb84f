package pcsc

import (
	"fmt"
)

// Command is a command APDU of up to 255 bytes of data, which asks for up to 256 bytes
// (ISO 7816-4, 5.1).
type Command struct {
	CLA, INS, P1, P2 byte
	Data             []byte
	NoLe             bool // no answer but a status word is expected
}

// Status is a status word (ISO 7816-4, 5.1.3).
type Status uint16

// OK is the status word of success.
const OK Status = 0x9000

func (s Status) String() string { return fmt.Sprintf("%04X", uint16(s)) }

const (
	maxData     = 255
	maxResponse = 4096 // bytes; far more than any object that we read
	maxParts    = 64   // of one response
)

// bytes encodes the command.
func (cmd *Command) bytes() ([]byte, error) {
	if len(cmd.Data) > maxData {
		return nil, fmt.Errorf("%w: command %02X with %d bytes of data", ErrGarbled, cmd.INS, len(cmd.Data))
	}
	apdu := append(make([]byte, 0, 6+len(cmd.Data)), cmd.CLA, cmd.INS, cmd.P1, cmd.P2)
	if len(cmd.Data) != 0 {
		apdu = append(append(apdu, byte(len(cmd.Data))), cmd.Data...)
	}
	if !cmd.NoLe {
		apdu = append(apdu, 0) // 256 bytes
	}
	return apdu, nil
}

// Do sends a command and collects the answer, which may come in several parts. A status
// word other than success is no error of Do's. A card that never comes to an end is [ErrGarbled].
func (c *Card) Do(cmd Command) (data []byte, sw Status, err error) {
	data, _, sw, err = c.DoFirst(cmd)
	return data, sw, err
}

// DoFirst is Do, and returns also the status word of the first part: that is the card's answer to the command itself.
func (c *Card) DoFirst(cmd Command) (data []byte, first, sw Status, err error) {
	apdu, err := cmd.bytes()
	if err != nil {
		return nil, 0, 0, err
	}
	defer clear(apdu) // its data may be a key
	data, sw, err = collect(func(apdu []byte) ([]byte, error) {
		part, err := c.Transmit(apdu)
		if n := len(part); n >= 2 && first == 0 {
			first = Status(part[n-2])<<8 | Status(part[n-1])
		}
		return part, err
	}, apdu)
	return data, first, sw, err
}

// collect sends apdu, and GET RESPONSE as long as the card says that there is more (ISO 7816-4, 11.7.1).
func collect(transmit func([]byte) ([]byte, error), apdu []byte) (data []byte, sw Status, err error) {
	for range maxParts {
		part, err := transmit(apdu)
		if err != nil {
			return nil, 0, err
		}
		if len(part) < 2 {
			return nil, 0, fmt.Errorf("%w: %d bytes, so no status word", ErrGarbled, len(part))
		}
		n := len(part) - 2
		data = append(data, part[:n]...)
		if len(data) > maxResponse {
			return nil, 0, fmt.Errorf("%w: more than %d bytes", ErrGarbled, maxResponse)
		}
		sw = Status(part[n])<<8 | Status(part[n+1])
		if sw>>8 != 0x61 {
			return data, sw, nil
		}
		apdu = []byte{apdu[0] &^ 0x10, 0xC0, 0, 0, byte(sw)} // Le 0 is 256
	}
	return nil, 0, fmt.Errorf("%w: it says that there is more (61xx) after %d parts", ErrGarbled, maxParts)
}
