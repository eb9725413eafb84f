package audit

import (
	"encoding/json"
	"fmt"
	"strconv"
	"time"
)

// appender is a value that appends to b what encoding/json makes of it.
type appender interface {
	AppendJSON(b []byte) ([]byte, error)
}

// appendFields appends rec's members to b, without the personal ones, as encoding/json does, byte for byte, and without
// its reflection: a grant's record is on the path of every signature.
func appendFields(b []byte, rec *Record) ([]byte, error) {
	e := encoder{b: b}
	e.time(rec.Time)
	e.text("event", string(rec.Event))
	e.optional("method", rec.Method)
	e.optional("session", rec.Session)
	e.optional("signer", rec.Signer)
	e.optional("digest", rec.Digest)
	if rec.Verdict != nil {
		e.verdict(rec.Verdict)
	}
	e.optional("keyUri", rec.KeyURI)
	e.optional("protection", rec.Protection)
	if !rec.Event.namesPeople() {
		e.value("detail", rec.Detail)
	}
	return e.done()
}

// appendPersonal appends rec's personal members to b.
func appendPersonal(b []byte, rec *Record) ([]byte, error) {
	e := encoder{b: b}
	if rec.Peer != nil {
		e.peer(rec.Peer)
	}
	e.value("transaction", rec.Transaction)
	if rec.Event.namesPeople() {
		e.value("detail", rec.Detail)
	}
	return e.done()
}

// appendWhole appends all of rec's members to b, for a line that is hashed as it is.
func appendWhole(b []byte, rec *Record) ([]byte, error) {
	e := encoder{b: b}
	e.beforeVerdict(rec)
	if rec.Verdict != nil {
		e.verdict(rec.Verdict)
	}
	e.afterVerdict(rec)
	return e.done()
}

func (e *encoder) beforeVerdict(rec *Record) {
	e.time(rec.Time)
	e.text("event", string(rec.Event))
	if rec.Peer != nil {
		e.peer(rec.Peer)
	}
	e.optional("method", rec.Method)
	e.optional("session", rec.Session)
	e.optional("signer", rec.Signer)
	e.optional("digest", rec.Digest)
	e.value("transaction", rec.Transaction)
}

func (e *encoder) afterVerdict(rec *Record) {
	e.optional("keyUri", rec.KeyURI)
	e.optional("protection", rec.Protection)
	e.value("detail", rec.Detail)
}

func (e *encoder) done() ([]byte, error) {
	if e.err != nil {
		return nil, fmt.Errorf("encoding audit record: %w", e.err)
	}
	return e.b, nil
}

// encoder writes JSON members, and keeps the first error.
type encoder struct {
	b   []byte
	err error
}

// time writes the member that all records have, and that is the first.
func (e *encoder) time(t time.Time) {
	e.b = append(e.b, `"time":"`...)
	text, err := t.AppendText(e.b)
	if err != nil {
		e.err = err
		return
	}
	e.b = append(text, '"')
}

// name begins a member that is not the first.
func (e *encoder) name(name string) {
	e.b = append(e.b, ',', '"')
	e.b = append(e.b, name...)
	e.b = append(e.b, '"', ':')
}

func (e *encoder) text(name, text string) {
	e.name(name)
	e.b = appendString(e.b, text)
}

// optional is text, unless that is empty.
func (e *encoder) optional(name, text string) {
	if text != "" {
		e.text(name, text)
	}
}

// truth writes a member that is there only if it is true.
func (e *encoder) truth(name string, is bool) {
	if is {
		e.name(name)
		e.b = append(e.b, "true"...)
	}
}

// value writes a member of any type, unless it is nil.
func (e *encoder) value(name string, v any) {
	if v == nil || e.err != nil {
		return
	}
	e.name(name)
	var encoded []byte
	switch v := v.(type) {
	case appender:
		e.b, e.err = v.AppendJSON(e.b)
	case string:
		e.b = appendString(e.b, v)
	default:
		encoded, e.err = json.Marshal(v)
		e.b = append(e.b, encoded...)
	}
}

func (e *encoder) peer(p *Peer) {
	e.b = append(e.b, `,"peer":{"uid":`...)
	e.b = strconv.AppendUint(e.b, uint64(p.UID), 10)
	e.b = append(e.b, `,"gid":`...)
	e.b = strconv.AppendUint(e.b, uint64(p.GID), 10)
	e.b = append(e.b, `,"pid":`...)
	e.b = strconv.AppendInt(e.b, int64(p.PID), 10)
	e.optional("exe", p.Exe)
	e.b = append(e.b, '}')
}

func (e *encoder) verdict(v *Verdict) {
	e.b = append(e.b, `,"verdict":{"allow":`...)
	e.b = strconv.AppendBool(e.b, v.Allow)
	e.optional("reason", v.Reason)
	e.optional("message", v.Message)
	e.value("charges", v.Charges)
	e.truth("replaces", v.Replaces)
	e.truth("repeat", v.Repeat)
	e.optional("rules", v.Rules)
	e.b = append(e.b, '}')
}

// appendString appends s as encoding/json does, which escapes also what HTML gives a meaning to.
func appendString(b []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' || c == '<' || c == '>' || c == '&' {
			encoded, _ := json.Marshal(s) // of a string it never fails
			return append(b, encoded...)
		}
	}
	b = append(b, '"')
	b = append(b, s...)
	return append(b, '"')
}
