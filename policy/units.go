package policy

import (
	"fmt"
	"slices"
	"time"

	"github.com/holiman/uint256"
)

// expiresAt and periods are in seconds. JavaScript's Date.now() counts milliseconds, and a number of those is a
// valid number of seconds: one that makes a session without end.

const (
	// Between these an expiresAt is in milliseconds: as such it lies in the years 1973 to 5138, and as seconds
	// beyond them.
	minMilliseconds = 100_000_000_000     // 10^11, inclusive
	maxMilliseconds = 100_000_000_000_000 // 10^14, exclusive
)

// timeUnit is a part of a second.
type timeUnit struct {
	name      string
	perSecond uint64
}

var (
	milliseconds = timeUnit{"milliseconds", 1e3}
	// finerUnits come before milliseconds where both would do.
	finerUnits = []timeUnit{{"nanoseconds", 1e9}, {"microseconds", 1e6}}
)

// CheckExpiryUnit refuses an expiresAt that is in milliseconds, 10^11 to 10^14, and says what it is in seconds. The
// error is a *[JSONError]. Larger numbers are a way to write "never", of which [Spec.Warnings] warns.
func (s *Spec) CheckExpiryUnit() error {
	if !inMilliseconds(&s.ExpiresAt) {
		return nil
	}
	return &JSONError{Path: "expiresAt", Msg: milliseconds.explain(&s.ExpiresAt)}
}

// NeverExpires reports whether expiresAt is beyond every date, in whatever unit.
func (s *Spec) NeverExpires() bool { return !s.ExpiresAt.LtUint64(maxMilliseconds) }

func inMilliseconds(x *uint256.Int) bool {
	return !x.LtUint64(minMilliseconds) && x.LtUint64(maxMilliseconds)
}

// expiryUnit returns what expiresAt is in, and false if that is seconds, or no date in any unit. From 10^14 on only
// a date of the years 2000 to 2099 counts: 2^48-1 and 2^256-1, which people write for "never", are none.
func expiryUnit(expiresAt *uint256.Int) (timeUnit, bool) {
	if inMilliseconds(expiresAt) {
		return milliseconds, true
	}
	for _, unit := range finerUnits {
		if y := yearIn(expiresAt, unit.perSecond); !expiresAt.LtUint64(maxMilliseconds) && y >= 2000 && y < 2100 {
			return unit, true
		}
	}
	return timeUnit{}, false
}

// explain says what an expiresAt that is in the unit would be in seconds.
func (unit timeUnit) explain(expiresAt *uint256.Int) string {
	meant := new(uint256.Int).Div(expiresAt, uint256.NewInt(unit.perSecond))
	return fmt.Sprintf("%s seconds are %s; if it is in %s, write %s (%s)",
		expiresAt.Dec(), inYear(expiresAt), unit.name, meant.Dec(), unixTime(meant))
}

// yearIn is the year of a date in parts of a second; 0 if there is no such date.
func yearIn(x *uint256.Int, perSecond uint64) int {
	seconds := new(uint256.Int).Div(x, uint256.NewInt(perSecond))
	if seconds.GtUint64(lastYear) {
		return 0
	}
	return time.Unix(int64(seconds.Uint64()), 0).UTC().Year()
}

// lastYear is the last second, in round numbers, whose year is worth telling.
const lastYear = 1e17

// inYear names the year of a number of Unix seconds.
func inYear(seconds *uint256.Int) string {
	if year := yearIn(seconds, 1); year != 0 {
		return fmt.Sprintf("in the year %d", year)
	}
	return "beyond every calendar"
}

// expiryUnit warns of an expiresAt that can't be in seconds.
func (w *warner) expiryUnit(expiresAt *uint256.Int) {
	if unit, ok := expiryUnit(expiresAt); ok {
		w.warn(WarnUnit, "expiresAt", "%s", unit.explain(expiresAt))
	} else if !expiresAt.LtUint64(maxMilliseconds) {
		w.warn(WarnNeverExpires, "expiresAt", "%s seconds are %s: the session never ends by itself", expiresAt.Dec(),
			inYear(expiresAt))
	}
}

const (
	day            = 86_400
	longestPeriod  = 10 * 366 * day
	nonsensePeriod = 10_000_000_000 // 317 years
)

// periodUnit warns of a period that is a whole number of minutes if it is in parts of a second, and hardly
// anything that a person would write in seconds.
func (w *warner) periodUnit(field string, period *uint256.Int) {
	for _, unit := range append(slices.Clip(finerUnits), milliseconds) {
		seconds, rest := new(uint256.Int).DivMod(period, uint256.NewInt(unit.perSecond), new(uint256.Int))
		n := seconds.Uint64()
		if !rest.IsZero() || seconds.IsZero() || seconds.GtUint64(longestPeriod) || n%60 != 0 {
			continue
		}
		// 25, 50 or 100 days are minutes in milliseconds, too.
		if new(uint256.Int).Mod(period, uint256.NewInt(day)).IsZero() && n%3600 != 0 {
			continue
		}
		w.warn(WarnUnit, field+".period", "%s seconds are %s: if that is in %s, write %d (%s)",
			period.Dec(), periodLength(period), unit.name, n, periodLength(seconds))
		return
	}
	if !period.LtUint64(nonsensePeriod) {
		w.warn(WarnUnit, field+".period", "%s seconds are %s: the allowance never comes back", period.Dec(),
			periodLength(period))
	}
}

// periodLength writes a number of seconds in the largest unit that it fills.
func periodLength(seconds *uint256.Int) string {
	for _, unit := range []struct {
		name    string
		seconds uint64
	}{{"year", 365 * day}, {"day", day}, {"hour", 3600}} {
		n := new(uint256.Int).Div(seconds, uint256.NewInt(unit.seconds))
		if !n.IsZero() {
			return plural(n, unit.name)
		}
	}
	return plural(new(uint256.Int).Div(seconds, uint256.NewInt(60)), "minute")
}

// UnitWarnings returns those of [Spec.Warnings] that are about dates and periods in the wrong unit, or
// that never come. now is in Unix seconds. It is never nil.
func (s *Spec) UnitWarnings(now uint64) []Warning {
	return slices.DeleteFunc(s.Warnings(WarningRules{Now: now}), func(w Warning) bool {
		return w.Code != WarnUnit && w.Code != WarnNeverExpires
	})
}
