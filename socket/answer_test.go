package socket

import (
	"encoding/json"
	"testing"

	"github.com/keyward/keyward/socket/api"
)

// shownAnswer is an answer for encoding/json.
type shownAnswer struct {
	Version string          `json:"jsonrpc"`
	ID      json.RawMessage `json:"id"`
	Result  json.RawMessage `json:"result,omitempty"`
	Error   *api.Error      `json:"error,omitempty"`
}

// wantLine checks that answers are written as encoding/json writes them.
func wantLine(t *testing.T, batch bool, answers ...answer) {
	t.Helper()
	var shown []shownAnswer
	for _, a := range answers {
		shown = append(shown, shownAnswer{"2.0", a.id, a.result, a.err})
	}
	want := encodeLine(shown[0])
	if batch {
		want = encodeLine(shown)
	}
	if got := encodeAnswers(batch, answers...); string(got) != string(want) {
		t.Errorf("encodeAnswers = %s, want %s", got, want)
	}
}

func TestAnswersAreEncodingJSON(t *testing.T) {
	result, err := encodeResult(map[string]any{"b": []int{1}, "a": "<é\u2028"})
	if err != nil {
		t.Fatal(err)
	}
	answers := []answer{
		answerTo(json.RawMessage(`1`), result, nil),
		answerTo(json.RawMessage(`"<&>"`), json.RawMessage(`null`), nil),
		answerTo(json.RawMessage(`"a\u003cb"`), nil, &api.Error{Code: -32000, Message: "<x> & \"y\"",
			Data: json.RawMessage(`{"a":1}`)}),
		answerTo(nil, nil, &api.Error{Code: 4001}),
	}
	for _, a := range answers {
		wantLine(t, false, a)
	}
	wantLine(t, true, answers[0])
	wantLine(t, true, answers...)
	if line := encodeAnswers(true); line != nil {
		t.Errorf("no answers = %s", line)
	}
}

func FuzzEncodeResult(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{0, 0xff})
	f.Fuzz(func(t *testing.T, data []byte) {
		want, err := json.Marshal(hexBytes(data))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := encodeResult(hexBytes(data)); err != nil || string(got) != string(want) {
			t.Errorf("encodeResult(%x) = %s, %v, want %s", data, got, err, want)
		}
	})
}

// BenchmarkParse is what one request costs here before its method is called.
func BenchmarkParse(b *testing.B) {
	params, err := json.Marshal([]any{testAccount, typedData(nil)})
	if err != nil {
		b.Fatal(err)
	}
	doc := []byte(`{"jsonrpc":"2.0","id":1,"method":"eth_signTypedData_v4","params":` + string(params) + `}`)
	b.SetBytes(int64(len(doc)))
	b.ReportAllocs()
	for b.Loop() {
		if msg, bad := parseMessage(doc, 1); bad != nil || msg.requests[0].bad != nil {
			b.Fatal(bad)
		}
	}
}
