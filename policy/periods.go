package policy

import (
	"fmt"
	"time"

	"github.com/holiman/uint256"
)

// PeriodIDs returns the ids that the SDK sends with tx at now (Unix seconds): the fee limit's, the value
// limit's, then one for each constraint of the call policy that decides; 0 where
// the limit is no Allowance. Nil if no policy matches.
func (s *Spec) PeriodIDs(tx *Call, now uint64) []uint64 {
	if !tx.IsCall() {
		i := s.transferPolicy(tx.To)
		if i < 0 {
			return nil
		}
		return []uint64{s.FeeLimit.periodID(now), s.TransferPolicies[i].ValueLimit.periodID(now)}
	}
	i := s.callPolicy(tx.To, tx.selector())
	if i < 0 {
		return nil
	}
	p := &s.CallPolicies[i]
	ids := make([]uint64, 0, 2+len(p.Constraints))
	ids = append(ids, s.FeeLimit.periodID(now), p.ValueLimit.periodID(now))
	for j := range p.Constraints {
		ids = append(ids, p.Constraints[j].Limit.periodID(now))
	}
	return ids
}

// periodID is now / period. A period of 0, where the SDK throws, is refused
// by the chain with any id.
func (l *UsageLimit) periodID(now uint64) uint64 {
	if l.LimitType != Allowance || l.Period.IsZero() {
		return 0
	}
	return new(uint256.Int).Div(uint256.NewInt(now), &l.Period).Uint64()
}

// lastUnix is the last second of the year 9999, beyond which no calendar date is given.
const lastUnix = 253402300799

// unixTime writes Unix seconds as a UTC time, and beyond the year 9999 as the number with its year, if it has one.
func unixTime(seconds *uint256.Int) string {
	if seconds.GtUint64(lastUnix) {
		text := "Unix time " + seconds.Dec()
		if year := yearIn(seconds, 1); year != 0 {
			text += fmt.Sprintf(" (in the year %d)", year)
		}
		return text
	}
	return time.Unix(int64(seconds.Uint64()), 0).UTC().Format("2006-01-02 15:04:05 UTC")
}
