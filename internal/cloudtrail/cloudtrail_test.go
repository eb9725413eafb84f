package cloudtrail

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

const (
	arn   = "arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
	other = "arn:aws:kms:eu-central-1:111122223333:key/99999999-12ab-34cd-56ef-1234567890ab"
	ours  = "arn:aws:iam::111122223333:user/agent"
	them  = "arn:aws:iam::111122223333:user/mallory"
)

var began = time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)

func at(seconds float64) time.Time { return began.Add(time.Duration(seconds * float64(time.Second))) }

// trailOf has a record of the event for each time, between two that are a day apart.
func trailOf(t *testing.T, event, keyURI, signer string, seconds ...float64) *Trail {
	t.Helper()
	trail := new(Trail)
	add := func(event string, s float64) {
		line := fmt.Sprintf(`{"seq":1,"time":%q,"event":%q,"session":"00112233aabbccdd","signer":%q,"keyUri":%q}`,
			at(s).Format(time.RFC3339Nano), event, signer, keyURI)
		if err := trail.Add([]byte(line)); err != nil {
			t.Fatal(err)
		}
	}
	add("session.created", -43200)
	for _, s := range seconds {
		add(event, s)
	}
	if err := trail.Add(fmt.Appendf(nil, `{"time":%q,"event":"agent.stopped"}`,
		at(43200).Format(time.RFC3339))); err != nil {
		t.Fatal(err)
	}
	return trail
}

// call is a record of CloudTrail.
func call(name, key, who string, seconds float64, more string) string {
	return fmt.Sprintf(`{"eventVersion": "1.08", "eventTime": %q, "eventSource": "kms.amazonaws.com", "eventName": %q, "eventID": "%s-%v-%s",
		"userIdentity": {"type": "IAMUser", "arn": %q}, "sourceIPAddress": "192.0.2.1", "readOnly": true,
		"resources": [{"accountId": "111122223333", "type": "AWS::KMS::Key", "ARN": %q}]%s}`,
		at(seconds).Truncate(time.Second).Format(time.RFC3339), name, name, seconds, who, who, key, more)
}

func read(t *testing.T, records ...string) []Event {
	t.Helper()
	events, err := Read(strings.NewReader(`{"Records": [` + strings.Join(records, ",") + `]}`))
	if err != nil {
		t.Fatal(err)
	}
	return events
}

func TestCompare(t *testing.T) {
	const window = time.Minute
	uri, signer := "awskms:"+arn, "0x52908400098527886E0F7030069857D2E4169EE7"
	resident := trailOf(t, "sign.granted", uri, signer, 0, 100, 1000)
	sealed := trailOf(t, "sign.granted", "sealed:signer="+signer, signer, 0, 100)
	context := fmt.Sprintf(`, "requestParameters": {"keyId": %q, "encryptionContext": {"keyward:signer": %q}}`, arn,
		signer)
	for _, tt := range []struct {
		name             string
		trail            *Trail
		events           []Event
		foreign, repeats int
		compared         int
	}{
		{"its own", resident, read(t, call("Sign", arn, ours, 0.4, ""), call("Sign", arn, ours, 103, ""),
			call("Sign", arn, ours, 955, "")), 0, 0, 3},
		{"fewer than granted", resident, read(t, call("Sign", arn, ours, 100, "")), 0, 0, 1},
		{"at another time", resident, read(t, call("Sign", arn, them, 500, "")), 1, 0, 1},
		{"one more than granted", resident, read(t, call("Sign", arn, ours, 0, ""), call("Sign", arn, them, 1, "")), 1, 0, 2},
		{"one more before its own", resident, read(t, call("Sign", arn, them, 0, ""), call("Sign", arn, ours, 1, "")), 1, 0,
			2},
		{"a repeat", resident, read(t, call("Sign", arn, ours, 0, ""), call("Sign", arn, ours, 2, "")), 0, 1, 2},
		{"much later than a repeat", resident, read(t, call("Sign", arn, ours, 0, ""), call("Sign", arn, ours, 39, "")), 1, 0,
			2},
		{"failed", resident, read(t, call("Sign", arn, them, 500, `, "errorCode": "AccessDenied"`)), 0, 0, 0},
		{"another key", resident, read(t, call("Sign", other, them, 500, "")), 0, 0, 0},
		{"other calls", resident, read(t, call("DescribeKey", arn, them, 500, "")), 0, 0, 0},
		{"a file twice", resident, read(t, call("Sign", arn, ours, 0, ""), call("Sign", arn, ours, 0, "")), 0, 0, 1},
		{"before the trail", resident, read(t, call("Sign", arn, ours, -50000, "")), 0, 0, 0},
		{"opened", sealed, read(t, call("Decrypt", arn, ours, 99, context), call("Decrypt", arn, ours, 101, context)), 0, 0,
			2},
		{"opened elsewhere", sealed, read(t, call("Decrypt", arn, them, 500, context)), 1, 0, 1},
		{"not a session's", sealed, read(t, call("Decrypt", arn, them, 500, "")), 0, 0, 0},
		{"checked", trailOf(t, "backend.checked", uri, "", 10), read(t, call("Sign", arn, ours, 9, "")), 0, 0, 1},
		{"denied", trailOf(t, "sign.denied", uri, signer, 10), read(t, call("Sign", arn, them, 10, "")), 1, 0, 1},
	} {
		r := tt.trail.Compare(tt.events, window)
		if len(r.Foreign) != tt.foreign || len(r.Repeats) != tt.repeats || r.Compared != tt.compared {
			t.Errorf("%s: %+v, want %d foreign, %d repeats, %d compared", tt.name, r, tt.foreign, tt.repeats, tt.compared)
		}
		for _, e := range r.Foreign {
			if e.Session != "00112233aabbccdd" || e.Source != "192.0.2.1" || e.Identity == "" || e.ID == "" {
				t.Errorf("%s: %+v lacks its session or its place", tt.name, e)
			}
		}
	}
}

// However the clocks differ within the window, the agent's own calls are explained, and of what another identity adds
// all is foreign.
func TestCompareProperty(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 4))
		var granted []float64
		var calls []string
		skew := r.Float64()*40 - 20
		for s := 0.0; len(granted) < 50; s += r.ExpFloat64() * 20 {
			granted = append(granted, s)
			if r.IntN(5) > 0 { // else it failed before it was sent
				calls = append(calls, call("Sign", arn, ours, s+skew+r.Float64()*5, ""))
			}
		}
		trail := trailOf(t, "sign.granted", "awskms:"+arn, "", granted...)
		if got := trail.Compare(read(t, calls...), 30*time.Second); len(got.Foreign)+len(got.Repeats) != 0 {
			t.Fatalf("seed %d: %+v without a foreign call", seed, got)
		}
		foreign := 1 + r.IntN(3)
		for i := range foreign {
			calls = append(calls, call("Sign", arn, them, 20000+1000*float64(i), ""))
		}
		if got := trail.Compare(read(t, calls...), 30*time.Second); len(got.Foreign) != foreign {
			t.Fatalf("seed %d: %d foreign calls, want %d", seed, len(got.Foreign), foreign)
		}
	}
}

func TestReadRefuses(t *testing.T) {
	for _, text := range []string{"", "{}", "[]", `{"Records": 1}`,
		`{"Records": [{"eventSource": "kms.amazonaws.com", "eventName": "Sign"}]}`, `{"Records": [`} {
		if events, err := Read(strings.NewReader(text)); err == nil {
			t.Errorf("Read(%q) = %v, want an error", text, events)
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Add(`{"Records": [` + call("Sign", arn, ours, 0, "") + `]}`)
	f.Fuzz(func(t *testing.T, text string) {
		events, err := Read(strings.NewReader(text))
		if err == nil {
			new(Trail).Compare(events, time.Minute)
		}
	})
}
