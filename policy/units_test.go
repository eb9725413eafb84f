package policy

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/holiman/uint256"
)

func TestCheckExpiryUnit(t *testing.T) {
	for _, c := range []struct{ expiresAt, want string }{
		{"0", ""},
		{"1798761600", ""},
		{"99999999999", ""},
		{"100000000000", "write 100000000 (1973-03-03 09:46:40 UTC)"},
		{"1798761600123", "1798761600123 seconds are in the year 58970; if it is in milliseconds, write 1798761600 " +
			"(2027-01-01 00:00:00 UTC)"},
		{"99999999999999", "write 99999999999 (5138-11-16 09:46:39 UTC)"},
		{"100000000000000", ""},
		{"281474976710655", ""},
		{uint256.MustFromHex("0xffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff").Dec(), ""},
	} {
		spec := &Spec{ExpiresAt: *uint256.MustFromDecimal(c.expiresAt)}
		got := ""
		if err := spec.CheckExpiryUnit(); err != nil {
			got = err.Error()
			if path := err.(*JSONError).Path; path != "expiresAt" {
				t.Errorf("%s: the error's path is %q", c.expiresAt, path)
			}
		}
		if (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
			t.Errorf("expiresAt %s: %q, want %q", c.expiresAt, got, c.want)
		}
	}
}

// Each line of want is a code and the end of the reason.
func TestWarnsOfExpiryUnit(t *testing.T) {
	for expiresAt, want := range map[string]string{
		"1798761600":     "",
		"99999999999":    "",
		"100000000000":   "wrongUnit: write 100000000 (1973-03-03 09:46:40 UTC)",
		"1798761600000":  "wrongUnit: if it is in milliseconds, write 1798761600 (2027-01-01 00:00:00 UTC)",
		"99999999999999": "wrongUnit: write 99999999999 (5138-11-16 09:46:39 UTC)",
		"100000000000000": "neverExpires: 100000000000000 seconds are in the year 3170843: the session never ends by " +
			"itself",
		"281474976710655": "neverExpires: 281474976710655 seconds are in the year 8921556: the session never ends by " +
			"itself",
		"1798761600000000": "wrongUnit: if it is in microseconds, write 1798761600 (2027-01-01 00:00:00 UTC)",
		"1798761600000000000": "wrongUnit: beyond every calendar; if it is in nanoseconds, write 1798761600 (2027-01-01 " +
			"00:00:00 UTC)",
		new(uint256.Int).SetAllOne().Dec(): "neverExpires: " + new(uint256.Int).SetAllOne().Dec() +
			" seconds are beyond every calendar: the session never ends by itself",
	} {
		spec := quietSpec(Selector{1})
		spec.ExpiresAt = *uint256.MustFromDecimal(expiresAt)
		code, end, _ := strings.Cut(want, ": ")
		got := spec.UnitWarnings(1_700_000_000)
		switch {
		case want == "" && len(got) == 0:
		case len(got) != 1 || got[0].Code != code || got[0].Path != "expiresAt" || !strings.HasSuffix(got[0].Reason, end):
			t.Errorf("expiresAt %s: %+v, want %s", expiresAt, got, want)
		}
	}
}

func TestWarnsOfPeriodUnit(t *testing.T) {
	for period, want := range map[uint64]string{
		// a minute to a leap year
		61: "", 3600: "", 86400: "", 604800: "", 2592000: "", 7776000: "", 31536000: "", 31622400: "",
		25 * day: "", 50 * day: "", 100 * day: "",
		60_000:             "60000 seconds are 16 hours: if that is in milliseconds, write 60 (1 minute)",
		3_600_000:          "3600000 seconds are 41 days: if that is in milliseconds, write 3600 (1 hour)",
		86_400_000:         "86400000 seconds are 2 years: if that is in milliseconds, write 86400 (1 day)",
		604_800_000:        "604800000 seconds are 19 years: if that is in milliseconds, write 604800 (7 days)",
		2_592_000_000:      "2592000000 seconds are 82 years: if that is in milliseconds, write 2592000 (30 days)",
		86_400_000_000:     "86400000000 seconds are 2739 years: if that is in microseconds, write 86400 (1 day)",
		3_600_000_000_000:  "3600000000000 seconds are 114155 years: if that is in nanoseconds, write 3600 (1 hour)",
		9_999_999_999:      "",
		10_000_000_001:     "10000000001 seconds are 317 years: the allowance never comes back",
		1<<64 - 1:          "18446744073709551615 seconds are 584942417355 years: the allowance never comes back",
		0:                  "", // another warning's
		1_000_000_007 * 60: "60000000420 seconds are 1902 years: the allowance never comes back",
	} {
		limit := UsageLimit{Allowance, *uint256.NewInt(5), *uint256.NewInt(period)}
		spec := quietSpec(Selector{1}, Constraint{Index: 1, Limit: limit})
		spec.FeeLimit.Limit, spec.FeeLimit.Period = limit.Limit, limit.Period // a Lifetime limit has no period to speak of
		spec.TransferPolicies = []TransferSpec{{MaxValuePerUse: *uint256.NewInt(1), ValueLimit: limit}}
		wants := []Warning{}
		if want != "" {
			wants = append(wants, Warning{WarnUnit, "callPolicies[0].constraints[0].limit.period", want},
				Warning{WarnUnit, "transferPolicies[0].valueLimit.period", want})
		}
		if diff := cmp.Diff(wants, spec.UnitWarnings(sampleNow)); diff != "" {
			t.Errorf("a period of %d (-want +got):\n%s", period, diff)
		}
	}
}

// A date beyond the calendar is told as the number that it is, with its year where that says something.
func TestUnixTimeBeyondTheCalendar(t *testing.T) {
	for seconds, want := range map[uint64]string{
		lastUnix:            "9999-12-31 23:59:59 UTC",
		lastUnix + 1:        "Unix time 253402300800 (in the year 10000)",
		1_798_761_600_000:   "Unix time 1798761600000 (in the year 58970)",
		281_474_976_710_655: "Unix time 281474976710655 (in the year 8921556)",
		1<<64 - 1:           "Unix time 18446744073709551615",
	} {
		if got := unixTime(uint256.NewInt(seconds)); got != want {
			t.Errorf("%d is %q, want %q", seconds, got, want)
		}
	}
}
