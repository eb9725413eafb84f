package isolated

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/internal/secret"
)

// A frame is, big-endian: the length of what follows (4 bytes), kind (1), op (1), id (8),
// time left in nanoseconds (8), body. Numbers that a frame of its kind does not use are 0.
//
// Both sides make calls; each numbers its own, from 1.
type frame struct {
	kind kind
	op   op
	id   uint64
	left time.Duration // a call's; 0: no limit
	body []byte        // JSON, or as it is: a PIN, a signature and what it is asked by
}

type kind uint8

const (
	kindCall    kind = 1 + iota // answered by one result or failure with its id
	kindCancel                  // the caller of id does not wait any more; it is answered all the same
	kindResult                  // body is the op's
	kindFailure                 // body is a wireError
	kindNotice                  // not answered
	kindEnd
)

type op uint8

// What the parent calls.
const (
	opOpen op = 1 + iota
	opGenerate
	opKey
	opSign // the body is the digest ‖ the URI, the result R ‖ S
	opDestroy
	opKeys
	opUnlock // the body is a PIN, or empty for none
	opLock
	opStatus
	opAttest
	opCount  // the body is a URI, the result a count
	opRewrap // the body is a URI, the result whether it was done
	opClose
	// What the child calls.
	opTry    // the result is a PIN
	opSettle // what became of it
	opReady  // the body says of which PIN
	// What the child notes.
	opWaiting // for a person: the body says for what; empty: not any more
	opLog
	opRetire // it is of no use any more; the body says why
	opHung   // likewise, because a call does not return
	opEnd
)

const (
	frameHeader = 1 + 1 + 8 + 8
	maxFrame    = 32 << 20 // bytes after the length: a list of 100,000 keys is three quarters of it
)

// errMalformed: the other side does not speak this protocol, or is broken. The child is ended.
var errMalformed = errors.New("malformed frame")

// appendFrame encodes f.
func appendFrame(b []byte, f *frame) ([]byte, error) {
	n := frameHeader + len(f.body)
	if n > maxFrame {
		return nil, fmt.Errorf("a message of %d bytes is too long, want %d at most", n, maxFrame)
	}
	b = binary.BigEndian.AppendUint32(b, uint32(n))
	b = append(b, byte(f.kind), byte(f.op))
	b = binary.BigEndian.AppendUint64(b, f.id)
	b = binary.BigEndian.AppendUint64(b, uint64(f.left))
	return append(b, f.body...), nil
}

// check refuses what appendFrame is never given.
func (f *frame) check() error {
	if f.kind < kindCall || f.kind >= kindEnd {
		return fmt.Errorf("%w: kind %d", errMalformed, f.kind)
	}
	hasOp := f.kind == kindCall || f.kind == kindNotice
	switch {
	case hasOp != (f.op != 0) || f.op >= opEnd:
		return fmt.Errorf("%w: kind %d with op %d", errMalformed, f.kind, f.op)
	case (f.id == 0) != (f.kind == kindNotice):
		return fmt.Errorf("%w: kind %d with id %d", errMalformed, f.kind, f.id)
	case f.left < 0 || f.left != 0 && f.kind != kindCall:
		return fmt.Errorf("%w: kind %d with %v left", errMalformed, f.kind, f.left)
	}
	return nil
}

// unmarshal decodes one JSON value strictly.
func unmarshal(body []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return fmt.Errorf("%w: %w", errMalformed, err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: more than one value", errMalformed)
	}
	return nil
}

// wireError is an error on its way to the other side: its text, and the names of the sentinels
// that it is.
type wireError struct {
	Text string   `json:"text"`
	Is   []string `json:"is,omitempty"`
}

// sentinels are the errors that callers test for, by the name that crosses the wire.
var sentinels = []struct {
	name string
	err  error
}{
	{"ErrKeyNotFound", backends.ErrKeyNotFound},
	{"ErrKeyAmbiguous", backends.ErrKeyAmbiguous},
	{"ErrUnavailable", backends.ErrUnavailable},
	{"ErrNotTouched", backends.ErrNotTouched},
	{"ErrBusy", backends.ErrBusy},
	{"ErrNotSigned", backends.ErrNotSigned},
	{"ErrNotMade", backends.ErrNotMade},
	{"ErrRefused", backends.ErrRefused},
	{"ErrFull", backends.ErrFull},
	{"ErrKeyDamaged", backends.ErrKeyDamaged},
	{"ErrBadSignature", backends.ErrBadSignature},
	{"ErrLocked", backends.ErrLocked},
	{"ErrAdminPINNeeded", backends.ErrAdminPINNeeded},
	{"ErrPINIncorrect", backends.ErrPINIncorrect},
	{"ErrPINFinalTry", backends.ErrPINFinalTry},
	{"ErrNotSpent", secret.ErrNotSpent},
	{"Canceled", context.Canceled},
	{"DeadlineExceeded", context.DeadlineExceeded},
}

// newWireError describes err, which is not nil.
func newWireError(err error) *wireError {
	e := &wireError{Text: err.Error()}
	for _, s := range sentinels {
		if errors.Is(err, s.err) {
			e.Is = append(e.Is, s.name)
		}
	}
	return e
}

// err is never nil. A sentinel of an unknown name is dropped: the error stays one.
func (e *wireError) err() error {
	r := &remoteError{text: e.Text}
	for _, name := range e.Is {
		for _, s := range sentinels {
			if s.name == name {
				r.is = append(r.is, s.err)
			}
		}
	}
	return r
}

// remoteError is an error of the other side.
type remoteError struct {
	text string
	is   []error
}

func (e *remoteError) Error() string   { return e.text }
func (e *remoteError) Unwrap() []error { return e.is }

// decodeError returns the error of a failure; it is never nil.
func decodeError(body []byte) error {
	w := new(wireError)
	if err := unmarshal(body, w); err != nil {
		return err
	}
	return w.err()
}

// marshal encodes what this package sends, which always can be.
func marshal(v any) []byte {
	body, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return body
}
