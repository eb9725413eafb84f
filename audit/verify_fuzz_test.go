package audit

import (
	"bytes"
	"testing"
	"time"
)

// Of all files, only the one that was written verifies against its head, and the parser ends on each.
func FuzzVerify(f *testing.F) {
	var whole []byte
	var head Head
	for i := range int64(3) {
		var err error
		if whole, head, err = head.Seal(whole, &Record{Time: time.Unix(i, 0).UTC(), Event: SignGranted}); err != nil {
			f.Fatal(err)
		}
	}
	f.Add(whole)
	f.Add(whole[:len(whole)-1])
	f.Add(append(bytes.Clone(whole), "{}\n"...))
	f.Add([]byte("{\"seq\":1,\"prev\":\"\"}\n\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		_, err := verify(bytes.NewReader(data), Head{}, head, false, func([]byte) {})
		if same := bytes.Equal(data, whole); (err == nil) != same {
			t.Errorf("verify(%q) = %v; it is what was written: %v", data, err, same)
		}
	})
}
