// Package pcsc talks to smart cards through the PC/SC daemon, pcscd.
//
// # Lifetimes
//
// A Client is one connection to the daemon, and is meant for one operation: open it, open
// a card, do the work, close both. Nothing is kept, so a daemon that was restarted or a card that
// was plugged in again is simply found by the next operation. Releasing the connection makes
// the daemon drop all that it held, so Client.Close frees the card whatever failed before.
//
// Cards are opened exclusively: while a PIN is verified, a program that shares the card could
// use it. The price is that a card that any other program has open can't be opened; that is
// [ErrInUse]. Closing resets the card, which clears its security status. Processes that are to take turns
// have [Lock].
//
// # Time
//
// A call into the daemon can't be interrupted: SCardTransmit returns when the card has
// answered or is gone, which may be never. Nothing but Lock takes a context for that reason. Who
// needs a deadline makes the calls in a goroutine and leaves it behind, or in a child process and
// ends that.
package pcsc

/*
// Of libpcsclite there are only the headers: load_linux.c loads the library when it is needed. piv-go names it to
// the linker, which leaves it out as needed by nothing.
#cgo linux CFLAGS: -I/usr/include/PCSC
#cgo linux LDFLAGS: -Wl,--as-needed -ldl
#cgo darwin LDFLAGS: -framework PCSC
#include <stdlib.h>
#include <PCSC/winscard.h>

static LONG transmitT1(SCARDHANDLE h, const void *in, DWORD n, void *out, DWORD *m) {
	return SCardTransmit(h, SCARD_PCI_T1, in, n, NULL, out, m);
}
*/
import "C"

import (
	"bytes"
	"errors"
	"fmt"
	"unsafe"
)

// Client is a connection to the daemon. It is for one goroutine.
type Client struct {
	ctx  C.SCARDCONTEXT
	open bool
}

// Dial connects to the daemon. [ErrNoService]: it does not run, or can't be reached.
//
// The daemon's socket is the system's, or the one that the environment
// variable PCSCLITE_CSOCK_NAME names.
func Dial() (*Client, error) {
	c := &Client{}
	if err := check(callDial, C.SCardEstablishContext(C.SCARD_SCOPE_SYSTEM, nil, nil, &c.ctx)); err != nil {
		return nil, err
	}
	c.open = true
	return c, nil
}

// Close disconnects from the daemon, which then releases all that the Client had open. Closing
// a closed Client does nothing.
func (c *Client) Close() error {
	if !c.open {
		return nil
	}
	c.open = false
	return check("SCardReleaseContext", C.SCardReleaseContext(c.ctx))
}

// Reader is a card reader; a YubiKey is one, with a card in it.
type Reader struct {
	Name    string
	Present bool // there is a card in it
	Mute    bool // and it does not answer a reset
}

// Readers lists the readers that there are, none being no error.
func (c *Client) Readers() ([]Reader, error) {
	names, err := c.names()
	if err != nil {
		return nil, err
	}
	var list []Reader
	for _, name := range names {
		r, err := c.state(name)
		if errors.Is(err, ErrGone) || errors.Is(err, ErrNoReader) {
			continue // unplugged since it was listed
		}
		if err != nil {
			return nil, err
		}
		list = append(list, r)
	}
	return list, nil
}

// names lists the readers. Their number may change between the two calls.
func (c *Client) names() ([]string, error) {
	for range 3 {
		var n C.DWORD
		err := check("SCardListReaders", C.SCardListReaders(c.ctx, nil, nil, &n))
		if errors.Is(err, ErrNoReader) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		buf := make([]byte, n+1)
		err = check("SCardListReaders", C.SCardListReaders(c.ctx, nil, (*C.char)(unsafe.Pointer(&buf[0])), &n))
		switch {
		case errors.Is(err, ErrNoReader):
			return nil, nil
		case isCode(err, codeInsufficientBuffer):
			continue
		case err != nil:
			return nil, err
		}
		var names []string
		for name := range bytes.SplitSeq(buf[:n], []byte{0}) {
			if len(name) != 0 {
				names = append(names, string(name))
			}
		}
		return names, nil
	}
	return nil, fmt.Errorf("listing readers: their number keeps changing: %w", ErrGone)
}

// state asks for the present state of a reader, and does not wait.
func (c *Client) state(name string) (Reader, error) {
	cname := C.CString(name)
	defer C.free(unsafe.Pointer(cname))
	st := (*C.SCARD_READERSTATE)(C.calloc(1, C.sizeof_SCARD_READERSTATE))
	defer C.free(unsafe.Pointer(st))
	st.szReader = cname
	err := check("SCardGetStatusChange", C.SCardGetStatusChange(c.ctx, 0, st, 1))
	if err != nil && !isCode(err, codeTimeout) {
		return Reader{}, err
	}
	return Reader{
		Name:    name,
		Present: st.dwEventState&C.SCARD_STATE_PRESENT != 0,
		Mute:    st.dwEventState&C.SCARD_STATE_MUTE != 0,
	}, nil
}

// Card is a card that nobody else can use until Close. It is for one goroutine.
type Card struct {
	h    C.SCARDHANDLE
	open bool
	gone bool // the last command said so
}

// Open opens the card in the reader of that name, exclusively. [ErrInUse]: another program has
// it open; [ErrGone]: there is no card any more.
func (c *Client) Open(reader string) (*Card, error) {
	name := C.CString(reader)
	defer C.free(unsafe.Pointer(name))
	card := &Card{}
	var protocol C.DWORD
	err := check("SCardConnect", C.SCardConnect(c.ctx, name, C.SCARD_SHARE_EXCLUSIVE, C.SCARD_PROTOCOL_T1, &card.h,
		&protocol))
	if err != nil {
		return nil, err
	}
	card.open = true
	if err := check("SCardBeginTransaction", C.SCardBeginTransaction(card.h)); err != nil {
		return nil, errors.Join(err, card.Close())
	}
	return card, nil
}

// Close resets the card, which clears what was verified, and lets others use it. Closing
// a closed Card does nothing. After an error the card is released with its Client.
//
// A card that is gone is not reset: pcscd takes note of a failed reset as of a removal, and if the
// card is back by the time that it looks, it does not notice that, and the card stays dead to it.
func (c *Card) Close() error {
	if c.gone {
		return c.Leave()
	}
	return c.release(C.SCARD_RESET_CARD)
}

// Leave is Close without the reset, for a card on which nothing is verified any more.
func (c *Card) Leave() error { return c.release(C.SCARD_LEAVE_CARD) }

func (c *Card) release(disposition C.DWORD) error {
	if !c.open {
		return nil
	}
	c.open = false
	end := check("SCardEndTransaction", C.SCardEndTransaction(c.h, C.SCARD_LEAVE_CARD))
	if errors.Is(end, ErrGone) {
		end = nil // of no interest; Disconnect says so too
	}
	return errors.Join(end, check("SCardDisconnect", C.SCardDisconnect(c.h, disposition)))
}

// maxAPDU is the size of an answer: 256 bytes and the status word, as long as extended
// lengths are not asked for.
const maxAPDU = 256 + 2

// Transmit sends one command and returns the card's answer, status word included.
// [Card.Do] is what to use, except for what must not be copied.
func (c *Card) Transmit(apdu []byte) ([]byte, error) {
	if !c.open || len(apdu) < 4 {
		return nil, fmt.Errorf("%w: SCardTransmit on a closed card or without a command", ErrGarbled)
	}
	out := make([]byte, maxAPDU)
	n := C.DWORD(len(out))
	err := check("SCardTransmit", C.transmitT1(c.h, unsafe.Pointer(&apdu[0]), C.DWORD(len(apdu)), unsafe.Pointer(&out[0]),
		&n))
	if isCode(err, codeInsufficientBuffer) {
		return nil, fmt.Errorf("%w: more than %d bytes", ErrGarbled, maxAPDU)
	}
	if err != nil {
		c.gone = isCode(err, codeRemovedCard) || isCode(err, codeNotTransacted) || isCode(err, codeNoSmartcard) ||
			isCode(err, codeReaderUnavailable)
		return nil, err
	}
	if n == 0 { // what some drivers make of a card that was pulled
		c.gone = true
		return nil, fmt.Errorf("%w: no answer", ErrGone)
	}
	return out[:n], nil
}

// check makes an error of what a call returned.
func check(call string, rv C.LONG) error {
	if code := uint32(rv); code != codeSuccess {
		return &Error{Call: call, Code: code}
	}
	return nil
}
