package cardsim

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"time"
)

// ReaderState is what pcscd knows of a reader.
type ReaderState struct {
	Name    string
	Present bool  // a card is in, and powered
	Empty   bool  // no card is in; neither is so of a card that did not come up from a reset
	Sharing int32 // how many programs hold the card; -1 if one holds it exclusively
}

// Messages of pcscd's own protocol, version 4.4: pcsc-lite, src/winscard_msg.h and src/eventhandler.h.
// It is spoken here so that to look at the readers needs no libpcsclite and no card handle.
const (
	cmdVersion         = 0x11
	cmdGetReadersState = 0x12

	protocolMajor, protocolMinor = 4, 4

	maxReaders   = 16
	stateAbsent  = 0x0002 // SCARD_ABSENT
	statePresent = 0x0004 // SCARD_PRESENT
)

// wireState is READER_STATE.
type wireState struct {
	Name    [128]byte
	Events  uint32
	State   uint32
	Sharing int32
	_       [44]byte // the ATR, its length, and padding
}

// States asks pcscd for its readers.
func (p *PCSCD) States() ([]ReaderState, error) {
	conn, err := net.DialTimeout("unix", p.Socket, patience)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience / 10)) // a pcscd that was just killed never answers
	version := []uint32{12, cmdVersion, protocolMajor, protocolMinor, 0}
	if err := binary.Write(conn, binary.NativeEndian, version); err != nil {
		return nil, err
	}
	if err := binary.Read(conn, binary.NativeEndian, version[2:]); err != nil {
		return nil, err
	}
	if version[4] != 0 {
		return nil, fmt.Errorf("pcscd speaks protocol %d.%d", version[2], version[3])
	}
	if err := binary.Write(conn, binary.NativeEndian, []uint32{0, cmdGetReadersState}); err != nil {
		return nil, err
	}
	var wire [maxReaders]wireState
	if err := binary.Read(conn, binary.NativeEndian, &wire); err != nil {
		return nil, err
	}
	var states []ReaderState
	for _, w := range wire {
		if w.Name[0] == 0 {
			continue
		}
		name, _, _ := bytes.Cut(w.Name[:], []byte{0})
		states = append(states, ReaderState{
			Name: string(name), Present: w.State&statePresent != 0, Empty: w.State&stateAbsent != 0, Sharing: w.Sharing,
		})
	}
	return states, nil
}
