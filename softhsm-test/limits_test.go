package softhsmtest

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keyward/keyward/socket/api"
	"github.com/keyward/keyward/socket/client"
)

const (
	userAccount = "0x1111111111111111111111111111111111111111"
	recipient   = "0x2222222222222222222222222222222222222222"
)

// transferSpec allows transfers of 1 wei to recipient, limit of them in all.
func transferSpec(limit int) string {
	return fmt.Sprintf(`{
		"expiresAt": "%d",
		"feeLimit": {"limitType": "Lifetime", "limit": "1000000000000000000", "period": "0"},
		"callPolicies": [],
		"transferPolicies": [{"target": "%s", "maxValuePerUse": "1",
			"valueLimit": {"limitType": "Lifetime", "limit": "%d", "period": "0"}}]
	}`, time.Now().Add(24*time.Hour).Unix(), recipient, limit)
}

// transferTx is such a transfer, as session_signTransaction takes it.
func transferTx(session string, nonce uint64) map[string]any {
	return map[string]any{
		"session": session, "from": userAccount, "to": recipient, "value": "1", "nonce": nonce,
		"gas": "100000", "maxFeePerGas": "1", "chainId": 11124,
	}
}

// 1,000 parallel requests on 20 connections against a limit that admits 100: exactly 100
// signatures, and the trail has every answer.
func TestLimitHoldsUnderParallelRequests(t *testing.T) {
	a := NewAgent(t)
	sess := a.ActiveSession(transferSpec(100), userAccount)
	var conns []*client.Client
	for range 20 {
		conns = append(conns, a.Client())
	}
	var granted, denied atomic.Int32
	var wg sync.WaitGroup
	for i := range uint64(1000) {
		wg.Go(func() {
			_, err := conns[i%20].SignTransaction(t.Context(), transferTx(sess.ID, i))
			var refusal *client.Error
			for errors.As(err, &refusal) && refusal.Code == api.CodeLimited { // shed: neither counted nor recorded
				time.Sleep(100 * time.Millisecond)
				_, err = conns[i%20].SignTransaction(t.Context(), transferTx(sess.ID, i))
			}
			switch {
			case err == nil:
				granted.Add(1)
			case errors.As(err, &refusal) && refusal.Code == api.CodeDenied:
				denied.Add(1)
			default:
				t.Errorf("nonce %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	if granted.Load() != 100 || denied.Load() != 900 {
		t.Errorf("%d granted, %d denied, want 100 and 900", granted.Load(), denied.Load())
	}
	counts := map[string]int{}
	for _, rec := range a.trail() {
		counts[rec.Event]++
	}
	if counts["sign.granted"] != 100 || counts["sign.denied"] != 900 {
		t.Errorf("audit trail has %v, want 100 granted and 900 denied", counts)
	}
}

// auditRecord is what these tests look at in a record.
type auditRecord struct {
	Event   string
	Session string
	Digest  string
	Detail  json.RawMessage
	Verdict struct {
		Charges []struct {
			Tracker string
			Amount  string
		}
	}
}

// trail verifies the audit trail and returns its records.
func (a *Agent) trail() []auditRecord {
	a.t.Helper()
	a.Keyward("audit", "verify")
	dec := json.NewDecoder(strings.NewReader(a.Keyward("audit", "tail", "--json", "-n", "1000000")))
	var all []auditRecord
	for dec.More() {
		var rec auditRecord
		if err := dec.Decode(&rec); err != nil {
			a.t.Fatal(err)
		}
		all = append(all, rec)
	}
	return all
}
