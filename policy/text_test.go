package policy

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/holiman/uint256"
)

func TestAddressText(t *testing.T) {
	// The addresses of EIP-55.
	for _, want := range []string{
		"0x52908400098527886E0F7030069857D2E4169EE7",
		"0xde709f2102306220921060314715629080e2fb77",
		"0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed",
		"0xfB6916095ca1df60bB79Ce92cE3Ea74c37c5d359",
		"0xdbF03B407c01E7cD3CBea99509d93f8DDDC8C6FB",
		"0xD1220A0cf47c7B9Be7A2E6BA89F429762e7b9aDb",
	} {
		for _, text := range []string{want, strings.ToLower(want), "0x" + strings.ToUpper(want[2:])} {
			var a Address
			if err := a.UnmarshalText([]byte(text)); err != nil {
				t.Errorf("UnmarshalText(%s): %v", text, err)
			}
			if a.String() != want {
				t.Errorf("UnmarshalText(%s) = %v, want %s", text, a, want)
			}
		}
	}
}

func TestAddressTextRefused(t *testing.T) {
	for _, text := range []string{
		"", "0x", "5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed",
		"0X5aaeb6053f3e94c9b9a09f33669435e7ef1beaed",
		"0x5aaeb6053f3e94c9b9a09f33669435e7ef1beae",
		"0x5aaeb6053f3e94c9b9a09f33669435e7ef1beaed0",
		"0x5aaeb6053f3e94c9b9a09f33669435e7ef1beaeg",
		" 0x5aaeb6053f3e94c9b9a09f33669435e7ef1beaed",
		"0x5AAeb6053F3E94C9b9A09f33669435E7Ef1BeAed", // one capital too many
	} {
		a := Address{1}
		if err := a.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("UnmarshalText(%q) = %v, want an error", text, a)
		}
		if a != (Address{1}) {
			t.Errorf("UnmarshalText(%q) changed its receiver", text)
		}
	}
}

func TestHashAndSelectorText(t *testing.T) {
	var h Hash
	upper := "0x" + strings.Repeat("AB", 32)
	if err := h.UnmarshalText([]byte(upper)); err != nil || h.String() != strings.ToLower(upper) {
		t.Errorf("Hash %s, %v", h, err)
	}
	if err := h.UnmarshalText([]byte(upper[:64])); err == nil {
		t.Error("a Hash of 31 bytes was read")
	}
	var s Selector
	if err := s.UnmarshalText([]byte("0x095EA7b3")); err != nil || s.String() != "0x095ea7b3" {
		t.Errorf("Selector %s, %v", s, err)
	}
	if err := s.UnmarshalText([]byte("0x095ea7")); err == nil {
		t.Error("a Selector of 3 bytes was read")
	}
}

func TestDecimalJSON(t *testing.T) {
	const most = "115792089237316195423570985008687907853269984665640564039457584007913129639935"
	for _, c := range []struct{ in, want string }{
		{`"0"`, "0"},
		{`0`, "0"},
		{`"1000000000000000000"`, "1000000000000000000"},
		{`"0xde0b6b3a7640000"`, "1000000000000000000"},
		{`"0x000A"`, "10"},
		{`18014398509481985`, "18014398509481985"}, // 2^54 + 1: no float64
		{`"` + most + `"`, most},
		{`"0x` + strings.Repeat("f", 64) + `"`, most},
	} {
		var d Decimal
		if err := json.Unmarshal([]byte(c.in), &d); err != nil || d.String() != c.want {
			t.Errorf("%s is %v, %v; want %s", c.in, d, err, c.want)
		}
		out, err := json.Marshal(d)
		if err != nil || string(out) != `"`+c.want+`"` {
			t.Errorf("Marshal(%v) = %s, %v", d, out, err)
		}
	}
	for _, in := range []string{
		`""`, `"0x"`, `"-1"`, `-1`, `"+1"`, `" 1"`, `"1n"`, `"1_000"`, `"007"`, `"1.0"`, `1.0`, `1e18`, `"1e18"`, `-0`,
		`"0X1"`, `"0x1g"`, `"0x` + strings.Repeat("f", 65) + `"`, `null`, `true`, `{}`, `"` + most + `0"`,
		`"115792089237316195423570985008687907853269984665640564039457584007913129639936"`,
	} {
		var d Decimal
		if err := json.Unmarshal([]byte(in), &d); err == nil {
			t.Errorf("%s is read as %v, want an error", in, d)
		}
	}
}

func TestTrackerText(t *testing.T) {
	target := mustAddress("0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed")
	selector := Selector{0x40, 0xc1, 0x0f, 0x19}
	for _, c := range []struct {
		tracker Tracker
		want    string
	}{
		{Tracker{Kind: FeeTracker}, "fee"},
		{Tracker{Kind: FeeTracker, Allowance: true, PeriodID: 20000}, "fee@20000"},
		{Tracker{Kind: FeeTracker, Allowance: true}, "fee@0"},
		{Tracker{Kind: CallValueTracker, Target: target, Selector: selector},
			"callValue:0x5aaeb6053f3e94c9b9a09f33669435e7ef1beaed:0x40c10f19"},
		{Tracker{Kind: TransferValueTracker, Target: target, Allowance: true, PeriodID: 1<<64 - 1},
			"transferValue:0x5aaeb6053f3e94c9b9a09f33669435e7ef1beaed@18446744073709551615"},
		{Tracker{Kind: CallParamTracker, Target: target, Selector: selector, Position: 2, Allowance: true, PeriodID: 7},
			"callParam:0x5aaeb6053f3e94c9b9a09f33669435e7ef1beaed:0x40c10f19:2@7"},
	} {
		text, err := c.tracker.MarshalText()
		if err != nil || string(text) != c.want {
			t.Errorf("MarshalText(%+v) = %s, %v; want %s", c.tracker, text, err, c.want)
		}
		var back Tracker
		if err := back.UnmarshalText(text); err != nil || back != c.tracker {
			t.Errorf("UnmarshalText(%s) = %+v, %v; want %+v", text, back, err, c.tracker)
		}
	}
}

func TestTrackerTextRefused(t *testing.T) {
	for _, text := range []string{
		"", "fees", "Fee", "fee@", "fee@01", "fee@-1", "fee@18446744073709551616", "fee@1@2", "fee:",
		"fee:0x5aaeb6053f3e94c9b9a09f33669435e7ef1beaed",
		"callValue", "callValue:0x5aaeb6053f3e94c9b9a09f33669435e7ef1beaed",
		"transferValue:0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed", // not the one form
		"callParam:0x5aaeb6053f3e94c9b9a09f33669435e7ef1beaed:0x40c10f19",
		"callParam:0x5aaeb6053f3e94c9b9a09f33669435e7ef1beaed:0x40c10f19:00",
		"callParam:0x5aaeb6053f3e94c9b9a09f33669435e7ef1beaed:0x40c10f19:4294967296",
		"callParam:0x5aaeb6053f3e94c9b9a09f33669435e7ef1beaed:0x40c10f19:1:1",
	} {
		var tracker Tracker
		if err := tracker.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("UnmarshalText(%q) = %+v, want an error", text, tracker)
		}
	}
	if text, err := (Tracker{Kind: 4}).MarshalText(); err == nil {
		t.Errorf("an unknown kind is written as %s", text)
	}
}

func TestChargeJSON(t *testing.T) {
	charge := Charge{Tracker{Kind: FeeTracker}, Decimal(*uint256.NewInt(7)), Decimal(*uint256.NewInt(3))}
	text, err := json.Marshal(charge)
	if want := `{"tracker":"fee","limit":"7","amount":"3"}`; err != nil || string(text) != want {
		t.Errorf("Marshal = %s, %v; want %s", text, err, want)
	}
	var back Charge
	if err := json.Unmarshal(text, &back); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(charge, back); diff != "" {
		t.Errorf("round trip (-want +got):\n%s", diff)
	}
}
