package socket

import (
	"bytes"
	"errors"
	"fmt"
	"time"

	"github.com/keyward/keyward/socket/api"
)

// Sizes of a connection's read buffer, in bytes. Ten thousand idle connections hold
// firstBuffer each; beyond freeBuffer what is held counts against [Limits.MaxInFlightBytes].
const (
	firstBuffer = 512
	keepBuffer  = 4 << 10 // an empty buffer that has grown beyond is given up
	freeBuffer  = 16 << 10
)

// errMemory: the agent holds as many bytes of unfinished messages as it may.
var errMemory = errors.New("too many large messages at once: send it again in a moment")

// scanState is where in the input a [scanner] is.
type scanState uint8

const (
	between   scanState = iota // between two documents
	structure                  // in an object or array
	scalar                     // in a number or a bare word, which a space ends
	text                       // in a string at the top level
	skipLine                   // in garbage: up to the next newline
)

// scanner cuts a stream into JSON documents. It looks only for where each ends; whether it
// is JSON is found out by who decodes it. It never holds more than max bytes of
// a document: of a longer or deeper one it answers an error at once, then passes over the
// rest, so that what follows on the connection is read as ever.
type scanner struct {
	max, maxDepth int
	// reserve and release account for memory beyond freeBuffer.
	reserve func(n int) bool
	release func(n int)

	buf      []byte // input that has arrived and is not done with
	next     int    // first byte of buf that was not looked at
	start    int    // first byte of the document, if state is not between or skipLine
	state    scanState
	depth    int  // of brackets
	inString bool // within structure or text
	escaped  bool // after a backslash
	skipping bool // of the current document nothing is kept
	begun    int  // how many documents have begun
	reserved int  // bytes taken with reserve
}

// Next returns the next document of the input so far, or an error to answer in its place;
// with neither, [scanner.Room] has to be filled first. The document is valid until
// Next is called again, which may wipe it.
func (s *scanner) Next() (doc []byte, bad *badMessage) {
	for s.next < len(s.buf) {
		c := s.buf[s.next]
		if s.state == between {
			if bad := s.begin(c); bad != nil {
				return nil, bad
			}
			continue
		}
		if s.state == skipLine {
			s.next++
			if c == '\n' {
				s.state = between
			}
			continue
		}
		if n := s.plain(); n > 0 {
			if s.next += n; s.skipping {
				s.drop()
			}
			continue
		}
		if ends, takesByte := s.step(c); ends {
			if takesByte {
				s.next++
			}
			if doc := s.finish(); doc != nil {
				return doc, nil
			}
			continue
		}
		s.next++
		if bad := s.bound(c); bad != nil {
			return nil, bad
		}
	}
	return nil, s.makeRoom()
}

// begin looks at the first byte of a document, or at the space before it.
func (s *scanner) begin(c byte) *badMessage {
	switch {
	case isSpace(c):
		s.next++
		return nil
	case c == '{' || c == '[':
		s.state = structure // whose first step counts the bracket
	case c == '"':
		s.state = text
	case c == '-' || '0' <= c && c <= '9' || 'a' <= c && c <= 'z':
		s.state = scalar
	default:
		s.state = skipLine
		return &badMessage{code: api.CodeParse, msg: fmt.Sprintf("not JSON: a message can't begin with %q", c)}
	}
	s.start, s.depth, s.inString, s.escaped, s.skipping = s.next, 0, false, false, false
	s.begun++
	return nil
}

// plain moves over strings, and over what is between them, up to the first byte that needs a closer look: a bracket, a
// backslash, a line's end in a string, the end of a text. It says how many bytes that were. They are within the bound.
func (s *scanner) plain() int {
	if s.state == scalar || s.escaped {
		return 0
	}
	rest := s.buf[s.next:]
	if !s.skipping {
		rest = rest[:min(len(rest), max(0, s.max-1-(s.next-s.start)))]
	}
	inString := s.inString
	defer func() { s.inString = inString }()
	for i, c := range rest {
		switch c {
		case '"':
			if inString && s.state == text {
				return i
			}
			inString = !inString
		case '\\', '\n':
			if inString {
				return i
			}
		case '{', '[', '}', ']':
			if !inString {
				return i
			}
		}
	}
	return len(rest)
}

// step moves over one byte within a document. It says whether the document ends
// there, and whether the byte belongs to it.
func (s *scanner) step(c byte) (ends, takesByte bool) {
	switch {
	case s.state == scalar:
		return isSpace(c) || c == '{' || c == '[', false
	case s.inString:
		if c == '\n' { // not JSON, and most likely the end of a broken line: lose no more than that
			return true, false
		}
		if !s.escaped && c == '"' {
			s.inString = false
			return s.state == text, true
		}
		s.escaped = !s.escaped && c == '\\'
	case c == '"':
		s.inString = true
	case c == '{' || c == '[':
		s.depth++
	case c == '}' || c == ']':
		s.depth--
		return s.depth == 0, true
	}
	return false, false
}

// bound refuses a document that has become too long or, with c, too deep.
func (s *scanner) bound(c byte) *badMessage {
	switch {
	case s.skipping:
		s.drop()
		return nil
	case s.next-s.start >= s.max: // and it goes on
		return s.refuse(tooLarge(s.max, nil))
	case s.depth > s.maxDepth && (c == '{' || c == '['):
		return s.refuse(&badMessage{code: api.CodeInvalidRequest,
			msg: fmt.Sprintf("message nested deeper than %d levels", s.maxDepth)})
	}
	return nil
}

// refuse gives the document up: the rest of it is passed over.
func (s *scanner) refuse(bad *badMessage) *badMessage {
	bad.id = leadingID(s.buf[s.start:s.next])
	s.skipping = true
	s.drop()
	return bad
}

// drop forgets the bytes of the document that were looked at.
func (s *scanner) drop() {
	if s.next == len(s.buf) {
		s.buf, s.next = s.buf[:0], 0
	}
	s.start = s.next
}

// finish ends the document before next. It returns nil for one that was refused.
func (s *scanner) finish() []byte {
	s.state = between
	if s.skipping {
		return nil
	}
	return s.buf[s.start:s.next]
}

// End says that the input is over. It returns what Next does, once: an unfinished
// document is an error, a scalar is finished by it.
func (s *scanner) End() (doc []byte, bad *badMessage) {
	state := s.state
	s.state = between
	switch {
	case state == between || state == skipLine || s.skipping:
		return nil, nil
	case state == scalar:
		return s.buf[s.start:], nil
	}
	return nil, &badMessage{code: api.CodeParse, msg: "not JSON: the message ends early", id: leadingID(s.buf[s.start:])}
}

// Unfinished returns how many bytes of a document have come whose end has not, and which document it is; 0 if there
// is none, or only one of which nothing is kept.
func (s *scanner) Unfinished() (size, document int) {
	if s.state == between || s.state == skipLine || s.skipping {
		return 0, s.begun
	}
	return len(s.buf) - s.start, s.begun
}

// passesOver reports whether what comes is forgotten as it comes.
func (s *scanner) passesOver() bool { return s.state == skipLine || s.state != between && s.skipping }

// Expire gives the unfinished document up, and passes over what is to come of it. It returns the error to answer with.
func (s *scanner) Expire(after time.Duration) *badMessage { return s.refuse(unfinished(after)) }

// unfinished refuses a message that does not come to its end.
func unfinished(after time.Duration) *badMessage {
	return &badMessage{code: api.CodeInvalidRequest, msg: fmt.Sprintf(
		"message unfinished after %v: send it whole within 10s, and 1s more for each 64 KiB", after.Round(time.Second))}
}

// Room returns where to read the next input to, never empty. [scanner.Filled] says how much came.
func (s *scanner) Room() []byte { return s.buf[len(s.buf):cap(s.buf)] }

// Filled adds the first n bytes of [scanner.Room] to the input.
func (s *scanner) Filled(n int) { s.buf = s.buf[:len(s.buf)+n] }

// makeRoom forgets what is done with and sees to it that there is room to read to. The
// documents that were returned are wiped: on admin.sock one may hold a PIN.
func (s *scanner) makeRoom() *badMessage {
	if s.state == between || s.state == skipLine {
		s.start = s.next
	}
	held := copy(s.buf, s.buf[s.start:])
	clear(s.buf[held:])
	s.buf, s.next, s.start = s.buf[:held], s.next-s.start, 0
	if held == 0 && cap(s.buf) > keepBuffer {
		s.Release()
	}
	if held < cap(s.buf) {
		return nil
	}
	size := max(firstBuffer, 2*cap(s.buf))
	if extra := size - freeBuffer - s.reserved; extra > 0 {
		if !s.reserve(extra) {
			return s.refuse(&badMessage{code: api.CodeLimited, msg: errMemory.Error()})
		}
		s.reserved += extra
	}
	s.buf = append(make([]byte, 0, size), s.buf...)
	return nil
}

// Release gives the buffer and what was reserved for it back.
func (s *scanner) Release() {
	s.buf, s.next, s.start = nil, 0, 0
	s.release(s.reserved)
	s.reserved = 0
}

// tooLarge refuses a message of which only the beginning was looked at.
func tooLarge(max int, beginning []byte) *badMessage {
	return &badMessage{code: api.CodeInvalidRequest, msg: fmt.Sprintf("message larger than %d bytes", max),
		id: leadingID(beginning)}
}

// onlyDocument returns the one document that body holds. It may overwrite body.
func onlyDocument(body []byte, max, maxDepth int) ([]byte, *badMessage) {
	s := scanner{max: max, maxDepth: maxDepth, buf: body, reserve: func(int) bool { return true }, release: func(int) {}}
	doc, bad := s.Next()
	if doc == nil && bad == nil {
		doc, bad = s.End()
		s.next = len(s.buf)
	}
	switch {
	case bad != nil:
		return nil, bad
	case doc == nil:
		return nil, &badMessage{code: api.CodeInvalidRequest, msg: "empty body"}
	case len(bytes.TrimSpace(s.buf[s.next:])) > 0:
		return nil, &badMessage{code: api.CodeInvalidRequest, msg: "more than one message in a body", id: leadingID(doc)}
	}
	return doc, nil
}

// isSpace reports whether c is white space in JSON (RFC 8259, section 2).
func isSpace(c byte) bool { return c == ' ' || c == '\n' || c == '\r' || c == '\t' }
