package socket

import (
	"encoding/json"
	"testing"
)

// A PIN is what the JSON string says, which decodePIN reads without encoding/json if it can.
func FuzzDecodePIN(f *testing.F) {
	for _, s := range []string{`"123456"`, `"é\u00e9\n"`, `""`, `null`, `7`, `["1"]`, `"" `, "\"1\"\n"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		value := json.RawMessage(s)
		if !json.Valid(value) || s[0] == ' ' {
			return // the message's own parser refuses it
		}
		var want string
		isString := json.Unmarshal(value, &want) == nil && value[0] == '"' && want != ""
		pin, err := decodePIN(value)
		if (err == nil) != isString {
			t.Errorf("decodePIN(%s) = %q, %v; a string: %v", s, pin, err, isString)
		}
	})
}
