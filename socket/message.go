package socket

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/keyward/keyward/socket/api"
)

// maxID bounds what a client may ask to have echoed, in bytes.
const maxID = 256

// maxNameShown bounds what is quoted of a client's own words in an error, in bytes.
const maxNameShown = 80

// null is the id of an answer to a request whose id is not known (JSON-RPC 2.0, section 5).
var null = json.RawMessage("null")

// badMessage is a mistake in a message or request itself, before any method is looked at.
type badMessage struct {
	code int             // api.CodeParse, api.CodeInvalidRequest, api.CodeInvalidParams or api.CodeLimited
	msg  string          // what and where
	id   json.RawMessage // nil: not known
}

// request is one call (JSON-RPC 2.0, section 4).
type request struct {
	id     json.RawMessage // as the client wrote it; nil: a notification
	method string
	params []json.RawMessage
	bad    *badMessage // what is wrong with it; nil: nothing
}

// message is what a client sends in one document: a request or a batch of them.
type message struct {
	batch    bool
	requests []request
	size     int // bytes
}

// parseMessage reads one document strictly: unknown and duplicate members are errors.
func parseMessage(doc []byte, maxBatch int) (*message, *badMessage) {
	if err := validJSON(doc); err != nil {
		return nil, &badMessage{code: api.CodeParse, msg: "not JSON: " + err.Error(), id: leadingID(doc)}
	}
	doc = bytes.TrimSpace(doc)
	msg := &message{batch: doc[0] == '[', size: len(doc)}
	if !msg.batch {
		msg.requests = []request{parseRequest(doc)}
		return msg, nil
	}
	var items []json.RawMessage
	if err := json.Unmarshal(doc, &items); err != nil {
		return nil, &badMessage{code: api.CodeParse, msg: "not JSON: " + err.Error()}
	}
	if len(items) == 0 || len(items) > maxBatch {
		return nil, &badMessage{code: api.CodeInvalidRequest,
			msg: fmt.Sprintf("a batch of %d requests; want 1 to %d", len(items), maxBatch)}
	}
	for _, item := range items {
		msg.requests = append(msg.requests, parseRequest(item))
	}
	return msg, nil
}

// validJSON reports why doc is not one JSON value, with the place.
func validJSON(doc []byte) error {
	if json.Valid(doc) {
		return nil
	}
	var v json.RawMessage
	err := json.Unmarshal(doc, &v)
	if syntax := new(json.SyntaxError); errors.As(err, &syntax) {
		return fmt.Errorf("%w at byte %d", err, syntax.Offset)
	}
	return err
}

// parseRequest reads one request object. The id is found whatever else is wrong, so
// that the client can tell which of its calls the error answers.
func parseRequest(doc []byte) request {
	fields, err := members(doc)
	if err != nil {
		return request{bad: &badMessage{code: api.CodeInvalidRequest, msg: "a request is " + err.Error(), id: null}}
	}
	var r request
	if r.bad = r.readID(fields); r.bad != nil {
		return r
	}
	var seen struct{ version, method bool }
	for _, f := range fields {
		switch f.key {
		case "id":
		case "jsonrpc":
			seen.version = string(f.value) == `"2.0"`
		case "method":
			seen.method = json.Unmarshal(f.value, &r.method) == nil && f.value[0] == '"' && r.method != ""
		case "params":
			r.bad = r.readParams(f.value)
		default:
			r.bad = r.invalid("unknown member %q", shorten(f.key))
		}
		if r.bad != nil {
			return r
		}
	}
	switch {
	case !seen.version:
		r.bad = r.invalid(`"jsonrpc" has to be "2.0"`)
	case !seen.method:
		r.bad = r.invalid(`"method" has to be a string`)
	}
	return r
}

// invalid is an Invalid Request error that answers r.
func (r *request) invalid(format string, args ...any) *badMessage {
	return &badMessage{code: api.CodeInvalidRequest, msg: "invalid request: " + fmt.Sprintf(format, args...), id: r.id}
}

// readID takes the id as it is written: numbers beyond 2^53 and "1.0" come back unchanged.
func (r *request) readID(fields []member) *badMessage {
	for _, f := range fields {
		if f.key != "id" {
			continue
		}
		switch c := f.value[0]; {
		case len(f.value) > maxID:
			return &badMessage{code: api.CodeInvalidRequest, msg: fmt.Sprintf("id longer than %d bytes", maxID), id: null}
		case c == '{' || c == '[' || c == 't' || c == 'f':
			return &badMessage{code: api.CodeInvalidRequest, msg: "id has to be a number, a string or null", id: null}
		}
		r.id = f.value
	}
	return nil
}

// readParams takes parameters by position, the only way that Ethereum methods have.
func (r *request) readParams(value json.RawMessage) *badMessage {
	if value[0] != '[' || json.Unmarshal(value, &r.params) != nil {
		return &badMessage{code: api.CodeInvalidParams, msg: "params have to be an array", id: r.id}
	}
	return nil
}

// member is one member of a JSON object, in the order and spelling of the text.
type member struct {
	key   string
	value json.RawMessage
}

// members reads a JSON object and refuses one with a key twice. encoding/json alone would
// take the last of two, and keys in any case. With an error come the members before it.
func members(doc []byte) ([]member, error) {
	dec := json.NewDecoder(bytes.NewReader(doc))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return nil, errors.New("an object")
	}
	var fields []member
	seen := make(map[string]bool)
	for dec.More() {
		t, err := dec.Token()
		if err != nil {
			return fields, notObject(err)
		}
		key, ok := t.(string)
		if !ok || seen[key] {
			return fields, fmt.Errorf("an object with every member once: not so %q", shorten(fmt.Sprint(t)))
		}
		seen[key] = true
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return fields, notObject(err)
		}
		fields = append(fields, member{key, value})
	}
	if _, err := dec.Token(); err != nil {
		return fields, notObject(err)
	}
	if dec.More() {
		return fields, errors.New("one object, with nothing after it")
	}
	return fields, nil
}

// notObject describes a syntax error in the words of [members].
func notObject(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errors.New("an object that is complete")
	}
	return fmt.Errorf("an object: %w", err)
}

// leadingID finds the id of a request of which only the beginning is there or is JSON, or nil.
func leadingID(beginning []byte) json.RawMessage {
	fields, _ := members(beginning)
	var r request
	if r.readID(fields) != nil {
		return nil
	}
	return r.id
}

// shorten bounds what is quoted of a client's words.
func shorten(s string) string {
	if len(s) > maxNameShown {
		return s[:maxNameShown] + "…"
	}
	return s
}
