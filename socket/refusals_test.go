package socket

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/keyward/keyward/socket/api"
)

// Thousands of requests for a signature, refused in every way that there is: what a client was answered is what the
// trail has, in records and counts together, reason for reason.
func TestTrailHasEveryRefusal(t *testing.T) {
	a := startBoundedAgent(t, Limits{MaxInFlightPerConn: 60})
	sess := a.session("agw", testSpec)
	request := func(method string, params ...any) string {
		text, err := json.Marshal(map[string]any{"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	kinds := []string{
		request("eth_signTransaction", tx(map[string]any{"to": testOther})),   // 4001
		request("personal_sign", "0x00", sess.Signer),                         // 4001
		request("eth_signTransaction", tx(map[string]any{"from": testOther})), // 4100
		// 4100, and no complete transaction
		request("eth_signTransaction", tx(map[string]any{"from": testOther, "chainId": nil})),
		request("eth_signTypedData_v4", testOther, typedData(nil)),                                  // 4100
		request("session_signTransaction", tx(map[string]any{"session": strings.Repeat("x", 900)})), // 4100
		request("eth_signTransaction", tx(map[string]any{"extra": 1})),                              // -32602
		request("eth_sign"), // -32602
		request("eth_signTypedData_v3", testOther, typedData(nil)),                                              // 4200
		`{"jsonrpc":"2.0","id":1,"method":"eth_signTransaction","params":{}}`,                                   // -32602
		`{"params":[],"jsonrpc":"1.0","id":1,"method":"eth_sign"}`,                                              // -32600
		`{"jsonrpc":"2.0","id":1,"params":7,"method":"account_signTransaction"}`,                                // -32602
		`{"jsonrpc":"2.0","id":1,"method":"account_signData","params":["text/plain","` + testOther + `","0x"]}`, // 4100
	}
	conn := dial(t, a.appPath)
	answered := map[string]uint64{}
	total := uint64(0)
	for round := range 60 {
		batch := kinds
		if round%3 == 0 { // too many at once: -32005
			batch = append(append(append(append(append([]string{}, kinds...), kinds...), kinds...), kinds...), kinds...)
		}
		var answers []struct {
			Error *struct {
				Code int
				Data struct{ Reason string }
			}
		}
		line := conn.ask("[" + strings.Join(batch, ",") + "]")
		if err := json.Unmarshal([]byte(line), &answers); err != nil || len(answers) != len(batch) {
			t.Fatalf("%d answers, %v: %.300s", len(answers), err, line)
		}
		for i, answer := range answers {
			if answer.Error == nil {
				t.Fatalf("request %d was granted: %s", i, batch[i])
			}
			answered[answer.Error.Data.Reason]++
			total++
		}
	}
	if _, err := a.operator.Lock(t.Context(), api.Lock{}); err != nil {
		t.Fatal(err)
	}
	if got := code(t, conn.ask(request("eth_signTransaction", tx(nil)))); got != -32000 {
		t.Errorf("locked: code %d", got)
	}
	answered["lockedByOperator"]++
	total++
	a.Signer.Sessions.Close()
	inTrail := trailRefusals(t, a.auditPath)
	if fmt.Sprint(inTrail) != fmt.Sprint(answered) {
		t.Errorf("%d refusals: answered\n%v, the trail has\n%v", total, answered, inTrail)
	}
	if answered["tooManyRequests"] == 0 || answered["unknownSigner"] == 0 || answered["invalidParams"] == 0 {
		t.Errorf("answered %v: not every kind", answered)
	}
}

// trailRefusals counts the refusals in a trail by reason, records and summaries together.
func trailRefusals(t *testing.T, path string) map[string]uint64 {
	t.Helper()
	trail, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]uint64{}
	for line := range bytes.Lines(trail) {
		var rec struct {
			Event   string
			Verdict struct{ Reason string }
			Detail  json.RawMessage
		}
		if err := json.Unmarshal(line, &rec); err != nil {
			t.Fatalf("record %.100s: %v", line, err)
		}
		switch rec.Event {
		case "sign.denied", "message.refused":
			found[rec.Verdict.Reason]++
		case "access.refused":
			found["unknownSigner"]++
		case "refusals.summary":
			var counts map[string]uint64
			if err := json.Unmarshal(rec.Detail, &counts); err != nil {
				t.Fatalf("record %.100s: %v", line, err)
			}
			for reason, n := range counts {
				found[reason] += n
			}
		}
	}
	return found
}
