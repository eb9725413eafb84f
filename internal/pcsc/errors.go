package pcsc

import (
	"cmp"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/keyward/keyward/backends"
)

// Errors to test for with errors.Is. All but ErrGarbled may be over the next time.
var (
	// ErrNoService: the daemon does not run, or was stopped meanwhile. The library says the same of a socket that
	// it may not open.
	ErrNoService = errors.New("the smart card service (pcscd) does not run, or this user may not reach its socket")
	// ErrNoLibrary: there is no PC/SC library on this machine.
	ErrNoLibrary = errors.New("the PC/SC library (libpcsclite.so.1) is not installed; on Debian: apt-get install pcscd " +
		"libpcsclite1")
	// ErrVersion: the daemon speaks another version of its protocol than the library.
	ErrVersion = errors.New("pcscd is of another version than the PC/SC library (libpcsclite.so.1) that this program " +
		"finds; install both from one source, and in a container the version of its host")
	// ErrForbidden: the daemon asks polkit about each client and each card, and the answer was no.
	ErrForbidden = errors.New("pcscd's polkit rules refuse this user; they have to allow it the actions " +
		"org.debian.pcsc-lite.access_pcsc and org.debian.pcsc-lite.access_card")
	// ErrNoReader: no reader, so no card either, is plugged in.
	ErrNoReader = errors.New("no card reader")
	// ErrGone: the card is not there any more, was reset by another program or does not answer.
	ErrGone = errors.New("the card was removed")
	// ErrInUse: another program has the card open. It is a [backends.ErrBusy].
	ErrInUse = backends.Busy(errors.New("the card is in use by another program (usually gpg's scdaemon, ykman, Yubico " +
		"Authenticator, a browser or an OpenSC module); close it, or run: gpgconf --kill scdaemon"))
	// ErrGarbled: what the card answered is no answer to the command.
	ErrGarbled = errors.New("the card's answer makes no sense")
)

// Several are errors of several cards, in one line.
type Several []error

func (s Several) Error() string {
	texts := make([]string, len(s))
	for i, err := range s {
		texts[i] = err.Error()
	}
	return strings.Join(texts, "; ")
}

func (s Several) Unwrap() []error { return s }

// Programs hold a card for some milliseconds, if they do as we do, or for as long as they run.
const (
	inUseWait = time.Second
	inUseStep = 5 * time.Millisecond
)

// How long a backend's status waits. Backends that share a card get the question simultaneously. While one of them only
// waits for a program to release the card, the others must not report that it has the card.
const (
	StatusInUse = 200 * time.Millisecond // for another program
	// for other operations: one that waits for a program, and a status or two
	StatusPatience = inUseWait + 500*time.Millisecond
)

// WhenFree calls f, and again for a second as long as it returns [ErrInUse].
func WhenFree[T any](f func() (T, error)) (T, error) { return FreeWithin(0, f) }

// FreeWithin is WhenFree for another time; 0: a second.
func FreeWithin[T any](wait time.Duration, f func() (T, error)) (result T, err error) {
	for end := time.Now().Add(cmp.Or(wait, inUseWait)); ; time.Sleep(inUseStep) {
		if result, err = f(); !errors.Is(err, ErrInUse) || time.Now().After(end) {
			return result, err
		}
	}
}

// Error is a call that the PC/SC service refused.
type Error struct {
	Call string
	Code uint32 // winscard.h: 0x801000xx
}

func (e *Error) Error() string {
	if is := e.Unwrap(); is != nil {
		return fmt.Sprintf("%v (%s: 0x%08X)", is, e.Call, e.Code)
	}
	return fmt.Sprintf("%s: PC/SC error 0x%08X", e.Call, e.Code)
}

// The codes of winscard.h that mean something here.
const (
	codeSuccess            = 0
	codeInvalidHandle      = 0x80100003
	codeInsufficientBuffer = 0x80100008
	codeUnknownReader      = 0x80100009
	codeTimeout            = 0x8010000A
	codeSharingViolation   = 0x8010000B
	codeNoSmartcard        = 0x8010000C
	codeProtoMismatch      = 0x8010000F
	codeCommError          = 0x80100013
	codeNotTransacted      = 0x80100016
	codeReaderUnavailable  = 0x80100017
	codeShutdown           = 0x80100018
	codeNoService          = 0x8010001D
	codeServiceStopped     = 0x8010001E
	codeNoReadersAvailable = 0x8010002E
	codeUnresponsiveCard   = 0x80100066
	codeUnpoweredCard      = 0x80100067
	codeResetCard          = 0x80100068
	codeRemovedCard        = 0x80100069
	codeSecurityViolation  = 0x8010006A

	codeNoLibrary = 0x80104B57 // KEYWARD_NO_LIBRARY of load_linux.h
)

// Unwrap returns which of the package's errors it is; nil: none.
func (e *Error) Unwrap() error {
	if e.Call == callDial && e.Code == codeCommError {
		return ErrForbidden // the daemon hangs up on a client that polkit refuses, and no card is asked for yet
	}
	if e.Call == callDial && e.Code == codeServiceStopped {
		return ErrVersion
	}
	switch e.Code {
	case codeNoLibrary:
		return ErrNoLibrary
	case codeNoService, codeServiceStopped, codeShutdown,
		codeInvalidHandle: // of a daemon that was restarted
		return ErrNoService
	case codeNoReadersAvailable:
		return ErrNoReader
	case codeSharingViolation:
		return ErrInUse
	case codeSecurityViolation:
		return ErrForbidden
	case codeUnknownReader, codeNoSmartcard, codeReaderUnavailable, codeUnresponsiveCard,
		codeUnpoweredCard, codeResetCard, codeRemovedCard,
		codeNotTransacted, // the transaction ended with the card
		codeProtoMismatch, // the card was being plugged in
		codeCommError:
		return ErrGone
	}
	return nil
}

// callDial connects to the daemon.
const callDial = "SCardEstablishContext"

// isCode reports whether err is the service's refusal with that code.
func isCode(err error, code uint32) bool {
	var e *Error
	return errors.As(err, &e) && e.Code == code
}
