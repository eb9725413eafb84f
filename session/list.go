package session

import (
	"iter"
	"maps"
	"slices"

	"github.com/keyward/keyward/audit"
)

// A Page is a part of a list of sessions, oldest first.
type Page struct {
	After *Session // the last session of the page before; nil: from the beginning
	Limit int      // at most this many; 0: all
}

// List returns all sessions, oldest first.
func (s *Sessions) List() []*Session { return s.ListPage(Page{}) }

// ListPage returns a page of all sessions.
func (s *Sessions) ListPage(p Page) []*Session {
	x := s.ledger.index
	x.mu.RLock()
	page := slices.Clone(p.of(x.all))
	x.mu.RUnlock()
	return x.wholeOf(page)
}

// VisibleTo returns the sessions that peer may use and that have not ended, oldest first.
func (s *Sessions) VisibleTo(peer audit.Peer) []*Session { return s.VisiblePage(peer, Page{}) }

// VisiblePage returns a page of the sessions that peer may use and that have not ended. The page begins after
// p.After also if that one has ended.
func (s *Sessions) VisiblePage(peer audit.Peer, p Page) []*Session {
	x := s.ledger.index
	var page []*listed
	lists := 0
	x.mu.RLock()
	for client := range identities(peer) {
		if of := x.clients[client]; of != nil && len(of.live) > 0 {
			page = append(page, p.of(of.live)...)
			lists++
		}
	}
	x.mu.RUnlock()
	sessions := x.wholeOf(page)
	if lists > 1 {
		slices.SortFunc(sessions, byAge)
		sessions = slices.CompactFunc(sessions, func(a, b *Session) bool { return a.ID == b.ID })
	}
	if p.Limit > 0 && len(sessions) > p.Limit {
		sessions = sessions[:p.Limit]
	}
	return sessions
}

// of returns the page of a list by age.
func (p Page) of(list []*listed) []*listed {
	if p.After != nil {
		i, found := position(list, p.After)
		if found {
			i++
		}
		list = list[i:]
	}
	if p.Limit > 0 && len(list) > p.Limit {
		list = list[:p.Limit]
	}
	return list
}

func (x *index) wholeOf(list []*listed) []*Session {
	sessions := make([]*Session, len(list))
	for i, n := range list {
		sessions[i] = x.whole(n)
	}
	return sessions
}

// briefly returns all sessions, oldest first. They may be brief.
func (x *index) briefly() iter.Seq[*Session] {
	x.mu.RLock()
	all := slices.Clone(x.all)
	x.mu.RUnlock()
	return func(yield func(*Session) bool) {
		for _, n := range all {
			if !yield(n.Load()) {
				return
			}
		}
	}
}

// filter returns the sessions to keep, oldest first. keep gets brief ones.
func (s *Sessions) filter(keep func(*Session) bool) (kept []*Session) {
	for sess := range s.ledger.index.briefly() {
		if keep(sess) {
			kept = append(kept, s.ledger.index.complete(sess))
		}
	}
	return kept
}

// Counts returns how many sessions there are in each status.
func (s *Sessions) Counts() map[Status]int {
	x := s.ledger.index
	x.mu.RLock()
	defer x.mu.RUnlock()
	counts := maps.Clone(x.counts)
	maps.DeleteFunc(counts, func(_ Status, n int) bool { return n == 0 })
	return counts
}
