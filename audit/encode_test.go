package audit

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

// list writes its own JSON, and by encoding/json the same.
type list []string

func (l list) AppendJSON(b []byte) ([]byte, error) {
	if len(l) > 2 {
		return nil, errors.New("too long")
	}
	encoded, err := json.Marshal([]string(l))
	return append(b, encoded...), err
}

// split is rec without its personal members, and the personal members.
func split(rec *Record) (rest, personal *Record) {
	a, b := *rec, Record{Peer: rec.Peer, Transaction: rec.Transaction}
	a.Peer, a.Transaction = nil, nil
	if rec.Event.namesPeople() {
		a.Detail, b.Detail = nil, rec.Detail
	}
	return &a, &b
}

// wantJSON checks that a line has rec as encoding/json renders it, behind what chains it and with its personal members
// last.
func wantJSON(t *testing.T, rec *Record) {
	t.Helper()
	const before = "the line before\n"
	rest, own := split(rec)
	want, wantErr := json.Marshal(rest)
	values, err := json.Marshal(own)
	wantErr = errors.Join(wantErr, err)
	head := Head{Seq: 7, Hash: [32]byte{31: 0xab}, Size: 100, Sealed: 3}
	got, next, err := head.Seal([]byte(before), rec)
	if wantErr != nil {
		if err == nil || string(got) != before {
			t.Errorf("Seal(%+v) = %s, %v, want %v", rec, got, err, wantErr)
		}
		return
	}
	want = fmt.Appendf(nil, `%s{"seq":8,"prev":"%064x",%s`, before, 0xab, want[1:])
	hashed := want[len(before):]
	line := got[len(before) : len(got)-1]
	if rec.hasPersonal() {
		i := bytes.Index(line, []byte(saltName))
		salt := line[i : i+len(saltName)+2*saltBytes+1]
		members := bytes.TrimPrefix(values, []byte(`{"time":"0001-01-01T00:00:00Z","event":""`))
		sum := sha256.Sum256(append(bytes.Clone(salt), members[:len(members)-1]...))
		open := want[:len(want)-1]
		hashed = fmt.Appendf(nil, `%s,"personal":"%x"}`, open[len(before):], sum)
		want = fmt.Appendf(nil, `%s,"personal":"%x"%s%s`, open, sum, salt, members)
	}
	if err != nil || string(got) != string(want)+"\n" {
		t.Errorf("Seal(%+v) = %s, %v, want %s", rec, got, err, want)
		return
	}
	if want := (Head{Seq: 8, Hash: sha256.Sum256(hashed), Size: 100 + int64(len(line)) + 1, Sealed: 3}); next != want {
		t.Errorf("head after %s = %+v, want %+v", line, next, want)
	}
	if next != head.after(line) {
		t.Errorf("head after %s = %+v, and read again %+v", line, next, head.after(line))
	}
}

func TestLineIsEncodingJSON(t *testing.T) {
	at := time.Date(2026, 11, 28, 9, 0, 0, 120_000_000, time.UTC)
	for _, rec := range []*Record{
		{},
		{Time: at, Event: SignGranted},
		{Time: at.In(time.FixedZone("", 19800)), Event: "<&>"},
		{Time: at.Truncate(time.Second), Event: SessionCreated, Detail: map[string]any{"b": 1, "a": "<x>"}},
		{Time: at, Event: SignGranted, Peer: &Peer{}},
		{Time: at, Event: SignGranted, Peer: &Peer{UID: 1<<32 - 1, GID: 7, Groups: []uint32{1}, PID: -1,
			Exe: "/bin/\xff\u2028\"é"}},
		{Time: at, Event: SignGranted, Method: "m", Session: "s", Signer: "0x1", Digest: "0x2", KeyURI: "pkcs11:a;b&c",
			Protection:  "resident",
			Transaction: json.RawMessage(` {"a": 1}`), Verdict: &Verdict{Allow: true, Charges: list{"x"}, Replaces: true,
				Repeat: true}},
		{Time: at, Event: SignDenied, Verdict: &Verdict{Reason: "r", Message: "line\nbreak\ttab\x00\x7f"}},
		{Time: at, Event: SignFailed, Detail: "text <b>", Transaction: []int(nil), Verdict: &Verdict{Charges: list(nil)}},
		{Time: at, Detail: list{}},
		{Time: time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC)},
		{Time: time.Date(2026, 1, 1, 0, 0, 0, 0, time.FixedZone("", 25*3600))},
		{Time: at, Detail: make(chan int)},
		{Time: at, Verdict: &Verdict{Charges: func() {}}, Detail: "behind an error"},
	} {
		wantJSON(t, rec)
	}
	if _, _, err := (Head{}).Seal(nil, &Record{Time: at, Detail: list{"1", "2", "3"}}); err == nil ||
		!strings.Contains(err.Error(), "too long") {
		t.Errorf("Seal with a value that can't be written = %v, want its error", err)
	}
}

func FuzzLine(f *testing.F) {
	f.Add(int64(1e18), "sign.granted", "pkcs11:object=é;id=%01", uint32(1000), int32(-5), true)
	f.Add(int64(-1), "\x00<&>\u2029", "\\\"\xff", uint32(0), int32(0), false)
	f.Fuzz(func(t *testing.T, nanos int64, a, b string, uid uint32, pid int32, flag bool) {
		rec := &Record{
			Time: time.Unix(0, nanos).UTC(), Event: Event(a), Peer: &Peer{UID: uid, GID: uid / 2, PID: pid, Exe: b}, Method: b,
			Session: a,
			Signer:  b, Digest: a, Transaction: list{a, b}, KeyURI: a, Protection: b, Detail: b,
			Verdict: &Verdict{Allow: flag, Reason: a, Message: b, Charges: list{b}, Replaces: flag, Repeat: !flag},
		}
		wantJSON(t, rec)
		wantJSON(t, &Record{Time: rec.Time, Event: rec.Event, Detail: []string{a, b}})
	})
}

func BenchmarkSeal(b *testing.B) {
	rec := &Record{Time: time.Now().UTC(), Event: SignGranted, Peer: &Peer{UID: 1, PID: 2, Exe: "/usr/bin/node"},
		Method:  "eth_signTypedData_v4",
		Session: "0123456789abcdef", Signer: "0x2222222222222222222222222222222222222222", Digest: strings.Repeat("0", 66),
		Verdict: &Verdict{Allow: true}}
	var line []byte
	b.ReportAllocs()
	for b.Loop() {
		var err error
		if line, _, err = (Head{}).Seal(line[:0], rec); err != nil {
			b.Fatal(err)
		}
	}
}
