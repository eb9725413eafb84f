package session

import (
	"context"
	"math"
	"sync"
	"time"

	"github.com/holiman/uint256"

	"github.com/keyward/keyward/policy"
)

// How far back the rate of use is taken from, and how often the totals are noted.
const (
	rateWindow  = 2 * time.Hour
	sampleEvery = 10 * time.Minute
	leastSpan   = time.Minute // over which a rate means something
	warnEvery   = 24 * time.Hour
)

// forecast knows what was used when, in memory only. It looks only at sessions that are being used: the totals of
// the others do not change.
type forecast struct {
	mu      sync.Mutex
	samples map[ID]map[policy.Tracker][]sample
	warned  map[warning]time.Time
	inUse   map[ID]bool // used since the last look, or lately
	looked  time.Time   // at the sessions last
}

// sample is a total at a time.
type sample struct {
	at   time.Time
	used float64
}

// warning is what an operator is told once a day.
type warning struct {
	session ID
	limit   policy.Tracker
	expiry  bool // not a limit
}

func newForecast() *forecast {
	return &forecast{samples: map[ID]map[policy.Tracker][]sample{}, warned: map[warning]time.Time{}, inUse: map[ID]bool{}}
}

// use notes that a session's totals have changed.
func (f *forecast) use(id ID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.inUse[id] = true
}

// lookAgain reports whether it is time to look at the sessions, at most once a minute, and takes note that it is done.
func (f *forecast) lookAgain(now time.Time) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if since := now.Sub(f.looked); since >= 0 && since < longestPause {
		return false
	}
	f.looked = now
	return true
}

// takeInUse returns the sessions that were used since the last call, or lately before that.
func (f *forecast) takeInUse() map[ID]bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	inUse := f.inUse
	f.inUse = map[ID]bool{}
	return inUse
}

// note remembers the totals of a session's limits, and forgets those of past periods. The session stays in use while
// one of the samples that it keeps differs from another.
func (f *forecast) note(id ID, usage []Usage, now time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	kept := map[policy.Tracker][]sample{}
	defer func() {
		f.samples[id] = kept
		for _, all := range kept {
			if all[0].used != all[len(all)-1].used {
				f.inUse[id] = true
			}
		}
	}()
	for _, u := range usage {
		all := f.samples[id][u.Tracker]
		if n := len(all); n > 0 && now.Sub(all[n-1].at) < sampleEvery && !now.Before(all[n-1].at) {
			kept[u.Tracker] = all
			continue
		}
		kept[u.Tracker] = append(inWindow(all, now), sample{now, toFloat(u.Used)})
	}
}

// inWindow drops samples from before the window but the last, which has the total at the window's beginning: between
// two samples that are further apart than sampleEvery nothing was used until the later one.
func inWindow(all []sample, now time.Time) []sample {
	for len(all) > 0 && now.Before(all[0].at) {
		all = all[1:]
	}
	begin := now.Add(-rateWindow)
	for len(all) > 1 && !all[1].at.After(begin) {
		all = all[1:]
	}
	if len(all) > 0 && all[0].at.Before(begin) {
		all[0].at = begin
	}
	return all
}

// forget drops the sessions that are not among ids.
func (f *forecast) forget(ids map[ID]bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for id := range f.samples {
		if !ids[id] {
			delete(f.samples, id)
		}
	}
	for w := range f.warned {
		if !ids[w.session] {
			delete(f.warned, w)
		}
	}
}

// runsOut returns when the limit will be used up if it is used on as it was lately; the zero time if it
// will not be before end, or nothing can be said. since is when its total was zero.
func (f *forecast) runsOut(id ID, u *Usage, since, now, end time.Time) time.Time {
	from := sample{at: since}
	f.mu.Lock()
	if all := f.samples[id][u.Tracker]; len(all) > 0 && now.Sub(all[0].at) >= leastSpan {
		from = all[0]
	}
	f.mu.Unlock()
	span, used := now.Sub(from.at), toFloat(u.Used)-from.used
	if span < leastSpan || used <= 0 {
		return time.Time{}
	}
	left := toFloat(u.Remaining) / used * span.Seconds()
	if left > end.Sub(now).Seconds() || left > math.MaxInt32 {
		return time.Time{}
	}
	return now.Add(time.Duration(left * float64(time.Second))).UTC().Truncate(time.Second)
}

// due reports whether the operator has not been told of w for a day, and takes note that it is now.
func (f *forecast) due(w warning, now time.Time) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if last, ok := f.warned[w]; ok && now.Sub(last) < warnEvery {
		return false
	}
	f.warned[w] = now
	return true
}

func toFloat(d policy.Decimal) float64 {
	x := uint256.Int(d)
	return x.Float64()
}

// forecastFor returns when a limit of sess runs out; see [forecast.runsOut]. An allowance that lasts until its
// period ends does not.
func (s *Sessions) forecastFor(sess *Session, u *Usage, period *uint256.Int, now time.Time) time.Time {
	since, end := sess.ActivatedAt, s.SignsUntil(sess)
	if since.IsZero() {
		return time.Time{}
	}
	if u.Tracker.Allowance && period.IsUint64() && period.Uint64() > 0 && period.Uint64() < math.MaxInt32 {
		start := time.Unix(int64(u.Tracker.PeriodID*period.Uint64()), 0)
		if start.After(since) {
			since = start
		}
		if over := start.Add(time.Duration(period.Uint64()) * time.Second); over.Before(end) {
			end = over
		}
	}
	return s.forecast.runsOut(sess.ID, u, since, now, end)
}

// foresee notes what is used, and warns ahead of limits that run out and sessions that end: of each
// once a day.
func (s *Sessions) foresee(ctx context.Context, now time.Time) {
	live := map[ID]bool{}
	inUse := s.forecast.takeInUse()
	for sess := range s.ledger.index.briefly() {
		if sess.Status != Active || ctx.Err() != nil {
			continue
		}
		live[sess.ID] = true
		if inUse[sess.ID] {
			s.foreseeLimits(sess, now)
		}
		s.warnOfEnd(sess, now)
	}
	s.forecast.forget(live)
}

// foreseeLimits notes what is used of a session's limits, and warns of those that will be used up.
func (s *Sessions) foreseeLimits(sess *Session, now time.Time) {
	usage, err := s.Usage(sess.ID)
	if err != nil {
		s.cfg.Logger.Error("reading what a session has used", "session", sess.ID, "error", err)
		return
	}
	s.forecast.note(sess.ID, usage, now)
	if s.cfg.WarnAhead == 0 {
		return
	}
	for _, u := range usage {
		if u.RunsOut.IsZero() || u.RunsOut.Sub(now) > s.cfg.WarnAhead ||
			!s.forecast.due(warning{session: sess.ID, limit: limitOf(u.Tracker)}, now) {
			continue
		}
		s.cfg.Logger.Warn("a limit will be used up", "session", sess.ID, "limit", limitText(u.Tracker),
			"remaining", u.Remaining.String(), "runsOut", stamp(u.RunsOut))
	}
}

// warnOfEnd warns of a session that will end and has no successor.
func (s *Sessions) warnOfEnd(sess *Session, now time.Time) {
	if s.cfg.WarnAhead == 0 {
		return
	}
	end := s.SignsUntil(sess)
	if sess.Kind == AGW && end.Sub(now) <= s.cfg.WarnAhead && s.Successor(sess.ID) == "" &&
		s.forecast.due(warning{session: sess.ID, expiry: true}, now) {
		s.cfg.Logger.Warn("a session will end and has no successor: keyward session renew", "session", sess.ID, "signsUntil",
			stamp(end))
	}
}
