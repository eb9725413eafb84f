package report

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keyward/keyward/audit"
)

const evil = `</title></svg><script>alert(1)</script>"'&=`

var from = time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)

// build makes a report of records of the first day, one an hour.
func build(t *testing.T, records ...string) *Report {
	t.Helper()
	b := NewBuilder(from, from.AddDate(0, 0, 1))
	for i, rec := range records {
		at := from.Add(time.Duration(i)*time.Hour - 30*time.Minute) // the first is too early
		if err := b.Add([]byte(fmt.Sprintf(`{"seq":%d,"time":%q,%s}`, i+1, at.Format(time.RFC3339), rec))); err != nil {
			t.Fatal(err)
		}
	}
	return b.Report()
}

func sample(t *testing.T) *Report {
	name, err := json.Marshal(evil)
	if err != nil {
		t.Fatal(err)
	}
	return build(t,
		`"event":"sign.granted","session":"early","verdict":{"charges":[{"tracker":"fee","amount":"99"}]}`,
		`"event":"session.created","session":"aa","peer":{"uid":7}`,
		`"event":"sign.granted","session":"aa","verdict":{"charges":[{"tracker":"fee","amount":"340282366920938463463374607431768211456"},{"tracker":"transferValue:0x01@77","amount":"5"}]}`,
		`"event":"sign.granted","session":"aa","verdict":{"charges":[{"tracker":"transferValue:0x01@78","amount":"6"}]}`,
		`"event":"sign.reverted","session":"aa","detail":{"returned":{"transferValue:0x01@78":"6"}}`,
		`"event":"sign.denied","session":"aa","verdict":{"reason":"limitExceeded"}`,
		`"event":"access.refused","session":`+string(name),
		`"event":"refusals.summary","detail":{"limitExceeded":40,"overloaded":2}`,
		`"event":"agent.latency","detail":{"requests":9,"p50":1.5,"p99":30}`,
		`"event":"sign.failed","session":"aa"`,
		`"event":"sign.granted","session":`+string(name)+`,"signer":`+string(name)+`,"verdict":{"charges":[{"tracker":`+
			string(name)+`,"amount":"1"}]}`,
		`"event":"session.revoked","session":`+string(name),
	)
}

func TestReport(t *testing.T) {
	r := sample(t)
	if r.Records != 11 || r.First != 2 || r.Last != 12 || r.Granted != 3 || r.Refused != 44 || r.Failed != 1 ||
		r.Reverted != 1 {
		t.Errorf("%+v", r)
	}
	if diff := cmp.Diff([]Reason{{"limitExceeded", 41}, {"overloaded", 2}, {"unknownSigner", 1}}, r.Refusals); diff != "" {
		t.Errorf("refusals (-want +got):\n%s", diff)
	}
	aa := r.Sessions[0]
	got := fmt.Sprint(aa.ID, aa.Granted, aa.Refused, aa.Failed, aa.Reverted, aa.Spent[0].Limit, aa.Spent[0].Amount,
		aa.Spent[1].Limit, aa.Spent[1].Amount)
	if want := "aa2 1 1 1fee340282366920938463463374607431768211456transferValue:0x015"; got != want {
		t.Errorf("session %s, want %s", got, want)
	}
	if len(r.Sessions) != 2 { // a stranger makes no session
		t.Errorf("%d sessions, want 2", len(r.Sessions))
	}
	if len(r.Lifecycle) != 2 || r.Lifecycle[0].By != "uid 7" || r.Lifecycle[1].By != "the agent" || len(r.Latency) != 1 ||
		r.Latency[0].P99 != 30 {
		t.Errorf("lifecycle %+v, latency %+v", r.Lifecycle, r.Latency)
	}
	b := NewBuilder(from, from.AddDate(0, 0, 1))
	if err := b.Add([]byte("{")); !errors.Is(err, audit.ErrDamaged) {
		t.Errorf("a line that is no record: %v", err)
	}
}

// The page is well-formed, loads nothing, and shows what others wrote as text.
func TestPage(t *testing.T) {
	for name, r := range map[string]*Report{"full": sample(t), "empty": build(t)} {
		var page bytes.Buffer
		if err := r.HTML(&page); err != nil {
			t.Fatal(err)
		}
		text := page.String()
		if found := regexp.MustCompile(`(?i)<script|javascript:|https?://|src=|href=|url\(|@import|<link|onload`).FindString(text); found != "" {
			t.Errorf("%s: the page has %q", name, found)
		}
		for _, svg := range regexp.MustCompile(`(?s)<svg.*?</svg>`).FindAllString(text, -1) {
			d := xml.NewDecoder(strings.NewReader(svg))
			for {
				if _, err := d.Token(); errors.Is(err, io.EOF) {
					break
				} else if err != nil {
					t.Fatalf("%s: a chart is no XML: %v\n%s", name, err, svg)
				}
			}
		}
		if name == "full" && (!strings.Contains(text, "alert(1)") || !strings.Contains(text, "limitExceeded") ||
			!strings.Contains(text, "polyline class=\"p99\"")) {
			t.Errorf("something is missing in\n%s", text)
		}
		if strings.Contains(text, "NaN") || strings.Contains(text, "Inf") || strings.Contains(text, "ZgotmplZ") {
			t.Errorf("%s: a number or a value is none in\n%s", name, text)
		}
	}
}

func TestCSV(t *testing.T) {
	r := sample(t)
	r.Sessions[1].Signer = "=1+1"
	var out bytes.Buffer
	if err := r.CSV(&out); err != nil {
		t.Fatal(err)
	}
	rows, err := csv.NewReader(&out).ReadAll()
	if err != nil || len(rows) != 4 {
		t.Fatalf("%d rows, %v, want a heading and 3", len(rows), err)
	}
	if got := strings.Join(rows[1], " "); got != "aa  2 1 1 1 fee 340282366920938463463374607431768211456" {
		t.Errorf("row %q", got)
	}
	if rows[3][1] != "'=1+1" || rows[3][0] != evil {
		t.Errorf("row %q, want that no program takes a cell for a formula", rows[3])
	}
	var again Report
	var text bytes.Buffer
	if err := r.JSON(&text); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text.Bytes(), &again); err != nil || again.Granted != 3 ||
		again.Sessions[0].Spent[0].Amount != "340282366920938463463374607431768211456" {
		t.Errorf("JSON: %v, %s", err, text.String())
	}
}
