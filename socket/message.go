package socket

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/keyward/keyward/policy"
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
	params []policy.JSONValue
	bad    *badMessage // what is wrong with it; nil: nothing
}

// message is what a client sends in one document: a request or a batch of them.
type message struct {
	batch    bool
	requests []request
	size     int // bytes
}

// parseMessage reads one document strictly: a member that a request knows is there once. Members that it does not know,
// which some clients add to the envelope, are passed over.
func parseMessage(doc []byte, maxBatch int) (*message, *badMessage) {
	v, err := policy.ParseJSON(doc)
	if err != nil {
		return nil, &badMessage{code: api.CodeParse, msg: err.Error(), id: leadingID(doc)}
	}
	msg := &message{batch: v.Kind() == policy.KindArray, size: len(v)}
	if !msg.batch {
		msg.requests = []request{parseRequest(v)}
		return msg, nil
	}
	items := v.Inside()
	for item, ok := items.Next(); ok; item, ok = items.Next() {
		if len(msg.requests) == maxBatch {
			return nil, badBatch(fmt.Sprintf("more than %d", maxBatch), maxBatch)
		}
		msg.requests = append(msg.requests, parseRequest(item))
	}
	if len(msg.requests) == 0 {
		return nil, badBatch("0", maxBatch)
	}
	return msg, nil
}

func badBatch(found string, maxBatch int) *badMessage {
	return &badMessage{code: api.CodeInvalidRequest, msg: fmt.Sprintf("a batch of %s requests; want 1 to %d", found,
		maxBatch)}
}

var requestMembers = []string{"jsonrpc", "id", "method", "params"}

// parseRequest reads one request. What is wrong with it is in its bad.
func parseRequest(v policy.JSONValue) request {
	o := policy.OpenLooseObject("", v, requestMembers)
	var r request
	method := o.Get("method")
	if method != nil && method.Kind() == policy.KindString { // also of a bad request, for the audit trail
		text, _ := method.Text() // which is a string
		r.method = string(text)
	}
	if r.bad = r.readID(o.Get("id")); r.bad != nil {
		return r
	}
	if err := o.Err(); err != nil {
		id := r.id
		if twice := new(policy.JSONError); id == nil || errors.As(err, &twice) && twice.Path == "id" {
			id = null
		}
		r.bad = &badMessage{code: api.CodeInvalidRequest, msg: "invalid request: " + err.Error(), id: id}
		return r
	}
	switch {
	case !o.Get("jsonrpc").Is("2.0"):
		r.bad = r.invalid(`"jsonrpc" has to be "2.0"`)
	case r.method == "":
		r.bad = r.invalid(`"method" has to be a string`)
	default:
		r.bad = r.readParams(o.Get("params"))
	}
	return r
}

func (r *request) invalid(format string, args ...any) *badMessage {
	return &badMessage{code: api.CodeInvalidRequest, msg: "invalid request: " + fmt.Sprintf(format, args...), id: r.id}
}

// readID takes the id as it was written; nil: there is none.
func (r *request) readID(v policy.JSONValue) *badMessage {
	if v == nil {
		return nil
	}
	switch k := v.Kind(); {
	case len(v) > maxID:
		return &badMessage{code: api.CodeInvalidRequest, msg: fmt.Sprintf("id longer than %d bytes", maxID), id: null}
	case k != policy.KindNumber && k != policy.KindString && k != policy.KindNull:
		return &badMessage{code: api.CodeInvalidRequest, msg: "id has to be a number, a string or null", id: null}
	}
	r.id = json.RawMessage(v)
	return nil
}

// maxParams is more than any method takes.
const maxParams = 16

// readParams takes positional parameters only: no client sends them by name. None and null are the same.
func (r *request) readParams(v policy.JSONValue) *badMessage {
	if v == nil || v.Kind() == policy.KindNull {
		return nil
	}
	bad := func(msg string) *badMessage { return &badMessage{code: api.CodeInvalidParams, msg: msg, id: r.id} }
	if v.Kind() != policy.KindArray {
		return bad("params have to be an array")
	}
	r.params = []policy.JSONValue{}
	items := v.Inside()
	for item, ok := items.Next(); ok; item, ok = items.Next() {
		if len(r.params) == maxParams {
			return bad(fmt.Sprintf("params: more than %d of them", maxParams))
		}
		r.params = append(r.params, item)
	}
	return nil
}

// leadingID finds the id of a request of which only the beginning is there or is JSON, or nil.
func leadingID(beginning []byte) json.RawMessage {
	var r request
	if r.readID(policy.LeadingMember(beginning, "id")) != nil {
		return nil
	}
	return bytes.Clone(r.id)
}

// shorten bounds what is quoted of a client's words.
func shorten(s string) string { return policy.Cut(s, maxNameShown) }
