package session

import (
	"container/heap"
	"time"
)

// schedule is when the next thing happens to each session by itself, as a heap: Run looks only at what is due. A
// session has an entry for each time that its status changed. Those that no longer count are dropped when they come up.
type schedule []dueEntry

type dueEntry struct {
	at int64 // Unix milliseconds, rounded up
	n  *listed
}

func (s schedule) Len() int           { return len(s) }
func (s schedule) Less(i, j int) bool { return s[i].at < s[j].at }
func (s schedule) Swap(i, j int)      { s[i], s[j] = s[j], s[i] }
func (s *schedule) Push(e any)        { *s = append(*s, e.(dueEntry)) }
func (s *schedule) Pop() any {
	last := len(*s) - 1
	e := (*s)[last]
	*s = (*s)[:last]
	return e
}

// startSchedule makes the schedule by dueAt, which says when the next thing happens to a session; the zero
// time: nothing does. That changes only with the session's status.
func (x *index) startSchedule(dueAt func(*Session) time.Time) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.dueAt, x.due = dueAt, make(schedule, 0, len(x.all))
	for _, n := range x.all {
		if at := dueAt(n.Load()); !at.IsZero() {
			x.due = append(x.due, dueEntry{millis(at), n})
		}
	}
	heap.Init(&x.due)
}

// scheduleLocked makes an entry for n.
func (x *index) scheduleLocked(n *listed) {
	if x.dueAt == nil {
		return
	}
	if at := x.dueAt(n.Load()); !at.IsZero() {
		heap.Push(&x.due, dueEntry{millis(at), n})
	}
}

// takeDue takes the sessions off the schedule to which something is to happen by now, and returns each once. What
// it does not happen to is for [index.putBack].
func (x *index) takeDue(now time.Time) []*Session { return x.wholeOf(x.takeListed(now)) }

func (x *index) takeListed(now time.Time) (due []*listed) {
	x.mu.Lock()
	defer x.mu.Unlock()
	taken := map[*listed]bool{}
	for len(x.due) > 0 && x.due[0].at <= now.UnixMilli() {
		n := heap.Pop(&x.due).(dueEntry).n
		sess := n.Load()
		if at := x.dueAt(sess); !taken[n] && !at.IsZero() && !at.After(now) {
			taken[n] = true
			due = append(due, n)
		}
	}
	return due
}

// nextDue is when the next thing happens; the zero time: never.
func (x *index) nextDue() time.Time {
	x.mu.RLock()
	defer x.mu.RUnlock()
	if len(x.due) == 0 {
		return time.Time{}
	}
	return time.UnixMilli(x.due[0].at)
}

// putBack puts a session back on the schedule that was taken off.
func (x *index) putBack(sess *Session) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.scheduleLocked(x.byID[sess.ID])
}

func millis(t time.Time) int64 { return t.Add(time.Millisecond - 1).UnixMilli() }
