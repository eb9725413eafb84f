package policy

import (
	"encoding/json"
	"testing"

	"github.com/holiman/uint256"
)

// Charges write what encoding/json makes of them, in the audit trail too.
func TestChargesAppendJSON(t *testing.T) {
	large := Decimal(*new(uint256.Int).Lsh(uint256.NewInt(5), 250))
	all := Charges{
		{Tracker: Tracker{Kind: FeeTracker}, Limit: large, Amount: Decimal(*uint256.NewInt(1))},
		{Tracker: Tracker{Kind: CallValueTracker, Target: Address{0xAB, 19: 1}, Selector: Selector{0xa9, 1}}},
		{Tracker: Tracker{Kind: TransferValueTracker, Target: Address{1}, Allowance: true, PeriodID: 1<<64 - 1}},
		{Tracker: Tracker{Kind: CallParamTracker, Position: 1<<32 - 1, Allowance: true}},
	}
	for _, c := range []Charges{nil, {}, all[:1], all, {{Tracker: Tracker{Kind: 9}}}} {
		want, wantErr := json.Marshal([]Charge(c))
		got, err := c.AppendJSON(nil)
		if (err == nil) != (wantErr == nil) || string(got) != string(want) {
			t.Errorf("AppendJSON(%v) = %s, %v, want %s, %v", c, got, err, want, wantErr)
		}
	}
}
