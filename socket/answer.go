package socket

import (
	"bytes"
	"encoding/hex"
	"encoding/json"

	"github.com/keyward/keyward/session"
	"github.com/keyward/keyward/socket/api"
)

// answer is one reply (JSON-RPC 2.0, section 5).
type answer struct {
	id     json.RawMessage // as the client wrote it
	result json.RawMessage // exactly one of result and err is there
	err    *api.Error

	pass *session.Pass // of the signature in result; nil: there is none
}

// answerTo makes the reply to the request with that id, nil if it is not known.
func answerTo(id, result json.RawMessage, err *api.Error) answer {
	if id == nil {
		id = null
	}
	return answer{id: id, result: result, err: err}
}

// encodeAnswers writes the reply to a message: one line that ends in a newline, as ethers
// needs it, or nil if there is nothing to answer.
func encodeAnswers(batch bool, answers ...answer) []byte {
	if len(answers) == 0 {
		return nil
	}
	if !batch {
		return append(answers[0].append(make([]byte, 0, 256)), '\n')
	}
	line := []byte{'['}
	for i := range answers {
		if i > 0 {
			line = append(line, ',')
		}
		line = answers[i].append(line)
	}
	return append(line, ']', '\n')
}

// append appends the reply to b. Its parts are JSON on one line already: the id because it is a scalar, the
// result because encoding/json made it.
func (a *answer) append(b []byte) []byte {
	b = append(b, `{"jsonrpc":"2.0","id":`...)
	b = append(b, a.id...)
	if a.err != nil {
		b = append(b, `,"error":`...)
		b = append(b, bytes.TrimSuffix(encodeLine(a.err), []byte{'\n'})...)
	} else {
		b = append(b, `,"result":`...)
		b = append(b, a.result...)
	}
	return append(b, '}')
}

// encodeResult encodes what a method returns. Signatures and raw transactions take the short way.
func encodeResult(value any) (json.RawMessage, error) {
	data, ok := value.(hexBytes)
	if !ok {
		return json.Marshal(value)
	}
	b := append(make([]byte, 0, len(`"0x"`)+2*len(data)), `"0x`...)
	return append(hex.AppendEncode(b, data), '"'), nil
}

// encodeLine writes v, which has nothing that JSON can't have, and a newline.
func encodeLine(v any) []byte {
	var line bytes.Buffer
	enc := json.NewEncoder(&line)
	enc.SetEscapeHTML(false) // which would change texts with < in them
	if err := enc.Encode(v); err != nil {
		panic("socket: encoding an answer: " + err.Error())
	}
	return line.Bytes()
}
