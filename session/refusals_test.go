package session

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/holiman/uint256"

	"github.com/keyward/keyward/audit"
	"github.com/keyward/keyward/internal/zktx"
	"github.com/keyward/keyward/policy"
)

// refusalRecords closes the agent and returns the lines of its trail that record one refusal each, and the sum of the
// counts in the summaries.
func refusalRecords(t *testing.T, a *agent) (single [][]byte, counted map[string]uint64) {
	t.Helper()
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	trail, err := os.ReadFile(a.auditPath())
	if err != nil {
		t.Fatal(err)
	}
	counted = map[string]uint64{}
	for line := range bytes.Lines(trail) {
		var rec struct {
			Event  audit.Event
			Detail json.RawMessage
		}
		if err := json.Unmarshal(line, &rec); err != nil {
			t.Fatalf("record %.100s: %v", line, err)
		}
		switch rec.Event {
		case audit.SignDenied, audit.AccessRefused, audit.MessageRefused:
			single = append(single, bytes.Clone(line))
		case audit.RefusalsSummary:
			var counts map[string]uint64
			if err := json.Unmarshal(rec.Detail, &counts); err != nil {
				t.Fatalf("record %.100s: %v", line, err)
			}
			for reason, n := range counts {
				counted[reason] += n
			}
		}
	}
	return single, counted
}

// tooMuch is a transfer of more than the policy allows.
func tooMuch(sess *Session, nonce uint64) *SignRequest {
	req := transfer(sess, nonce)
	req.Tx.Value = *uint256.NewInt(51)
	return req
}

func sum(counts map[string]uint64) (n uint64) {
	for _, c := range counts {
		n += c
	}
	return n
}

// A stranger's transactions of 1 MiB, and a client's, fill no disk: their records hold no calldata.
func TestRefusalRecordsAreSmall(t *testing.T) {
	a := newAgent(t)
	sess := a.active(t)
	odd := app
	odd.Exe = "/" + strings.Repeat("\x01<\"é\xff", 800)
	far := stranger
	far.Exe = odd.Exe
	tx := transfer(sess, 1).Tx
	tx.Data = append([]byte{0xde, 0xad, 0xbe, 0xef}, make([]byte, 1<<20)...)
	for name, req := range map[string]*SignRequest{
		"denied": {Signer: sess.Signer(), Tx: tx, Method: "session_signTransaction"},
		"unknown account": {Tx: &zktx.Transaction{Type: zktx.TypeZKsync, ChainID: 1, Data: tx.Data},
			Method: "eth_signTypedData_v4"},
		"unknown id": {Session: ID(strings.Repeat("\x01&é\xff", 1<<18)), Tx: tx, Method: "session_signTransaction"},
	} {
		for _, peer := range []audit.Peer{odd, far} {
			if _, err := a.Sign(t.Context(), peer, req); err == nil {
				t.Errorf("%s: signed", name)
			}
		}
	}
	if err := a.Refuse(t.Context(), odd, sess.Signer(), "personal_sign", ReasonMessage,
		strings.Repeat("\x01é", 1<<18)); err == nil {
		t.Error("a message was not refused")
	}
	single, counted := refusalRecords(t, a)
	if len(single) != 7 || len(counted) != 0 {
		t.Fatalf("%d records and counts %v, want 7 and none", len(single), counted)
	}
	for _, line := range single {
		if len(line) > maxRefusalRecord {
			t.Errorf("a record of %d bytes, want at most %d: %.300s", len(line), maxRefusalRecord, line)
		}
		if bytes.Contains(line, []byte("00000000000000000000000000000000000000000000000000000000000000000")) {
			t.Errorf("a record holds calldata: %s", line)
		}
	}
	var rec struct {
		Digest      string
		Transaction map[string]any
	}
	for _, line := range single {
		if bytes.Contains(line, []byte(audit.SignDenied)) {
			if err := json.Unmarshal(line, &rec); err != nil {
				t.Fatal(err)
			}
		}
	}
	want := map[string]any{
		"type": 113.0, "chainId": 11124.0, "nonce": "1", "from": account.String(), "to": target.String(),
		"selector": "0xdeadbeef", "value": "1", "size": float64(len(tx.Data)),
	}
	if fmt.Sprint(rec.Transaction) != fmt.Sprint(want) || rec.Digest != tx.Digest().String() {
		t.Errorf("a denial's record has %v of digest %s, want %v of %s", rec.Transaction, rec.Digest, want, tx.Digest())
	}
}

// Whatever the rate, records and counts together are the attempts. A client's refusals find room beside a stranger's.
func TestEveryRefusalIsRecordedOrCounted(t *testing.T) {
	a := newAgent(t)
	sess := a.active(t)
	const flood, own = 5000, 50
	refuse := func(peer audit.Peer, n int) {
		for i := range n {
			var err error
			switch i % 3 {
			case 0:
				_, err = a.Sign(t.Context(), peer, tooMuch(sess, uint64(i)))
			case 1:
				err = a.Refuse(t.Context(), peer, sess.Signer(), "personal_sign", ReasonMessage, "x")
			case 2:
				err = a.NotGranted(t.Context(), peer, "eth_signTransaction", "unknownSigner",
					fmt.Errorf("%w: and no transaction", ErrUnknownSigner))
				if err == nil {
					continue
				}
			}
			if denial := new(policy.Denial); !errors.Is(err, ErrUnknownSigner) && !errors.As(err, &denial) {
				t.Fatalf("refusal %d of uid %d: %v", i, peer.UID, err)
			}
			if err := a.NotGranted(t.Context(), peer, "eth_signTransaction", "x", err); err != nil { // it is recorded already
				t.Fatal(err)
			}
		}
	}
	refuse(stranger, flood)
	refuse(app, own)
	if err := a.NotGranted(t.Context(), app, "eth_signTransaction", "invalidParams", errors.New("malformed")); err != nil {
		t.Fatal(err)
	}
	single, counted := refusalRecords(t, a)
	if got := uint64(len(single)) + sum(counted); got != flood+own+1 || counted["invalidParams"] != 1 {
		t.Errorf("%d records and counts %v, %d in all, want %d", len(single), counted, got, flood+own+1)
	}
	ofApp, ofStranger := 0, 0
	for _, line := range single {
		if bytes.Contains(line, []byte(`"uid":1000,`)) {
			ofApp++
		} else {
			ofStranger++
		}
	}
	if ofApp != own || ofStranger < defaultRefusalBurst/2 || ofStranger > defaultRefusalBurst/2+1000 {
		t.Errorf("%d records of the client and %d of the stranger, want %d and about %d", ofApp, ofStranger, own,
			defaultRefusalBurst/2)
	}
}

// On a disk that is nearly full refusals are only counted, and grants go on.
func TestRefusalsLeaveRoomForGrants(t *testing.T) {
	for _, tt := range []struct {
		name       string
		free, size uint64
		err        error
		want       int
	}{
		{"room", keepFree, 1 << 40, nil, 3},
		{"short", keepFree - 1, 1 << 40, nil, 0},
		{"small disk, room", 25 << 20, 100 << 20, nil, 3},
		{"small disk, short", 25<<20 - 1, 100 << 20, nil, 0},
		{"not known", 0, 0, errors.New("no answer"), 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := newAgent(t)
			a.Sessions.refusals.space = func() (free, size uint64, err error) { return tt.free, tt.size, tt.err }
			sess := a.active(t)
			for range 3 {
				_, err := a.Sign(t.Context(), app, tooMuch(sess, 1))
				wantDenial(t, err, policy.ReasonValueTooHigh)
			}
			if _, err := a.Sign(t.Context(), app, transfer(sess, 1)); err != nil {
				t.Errorf("a grant: %v", err)
			}
			single, counted := refusalRecords(t, a)
			if len(single) != tt.want || sum(counted) != uint64(3-tt.want) {
				t.Errorf("%d records and counts %v, want %d records of 3", len(single), counted, tt.want)
			}
		})
	}
}

// Counts reach the trail while the agent runs.
func TestSummaryComesByItself(t *testing.T) {
	a := newAgent(t)
	if err := a.NotGranted(t.Context(), app, "eth_signTransaction", "lockedByOperator", ErrLocked); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if events := a.events(t); len(events) == 1 && events[0] == string(audit.RefusalsSummary) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("the trail has %v, want a summary", a.events(t))
		}
	}
}

func TestClip(t *testing.T) {
	for _, s := range []string{"", "plain", strings.Repeat("a", 100), strings.Repeat("é", 100),
		strings.Repeat("\x00", 100), strings.Repeat(`"\<>&`, 50), strings.Repeat("\xff\u2028", 50)} {
		got := clip(s, 60)
		encoded, err := json.Marshal(got)
		if err != nil || len(encoded) > 60+len(`"…"`) {
			t.Errorf("clip(%.20q) = %q, %d bytes of JSON, %v", s, got, len(encoded), err)
		}
		if plain, _ := json.Marshal(s); len(plain) <= 62 && got != s {
			t.Errorf("clip(%q) = %q, want it whole", s, got)
		}
	}
}

// logrotate's copytruncate under a running agent stops it before the next signature, and leaves no zeros.
func TestCopytruncateIsNoticed(t *testing.T) {
	a := newAgent(t)
	sess := a.active(t)
	time.Sleep(20 * time.Millisecond)
	if err := os.Truncate(a.auditPath(), 0); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Sign(t.Context(), app, transfer(sess, 1)); !errors.Is(err, ErrHalted) ||
		!errors.Is(err, audit.ErrDamaged) {
		t.Errorf("Sign = %v, want ErrHalted and audit.ErrDamaged", err)
	}
	if trail, err := os.ReadFile(a.auditPath()); err != nil || len(trail) != 0 {
		t.Errorf("the trail has %d bytes, %v, want none", len(trail), err)
	}
}
