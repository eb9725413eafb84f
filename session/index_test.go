package session

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/holiman/uint256"

	"github.com/keyward/keyward/audit"
	"github.com/keyward/keyward/policy"
)

// onlyIndex is Sessions without a state on disk, for what the index alone decides.
func onlyIndex(sessions ...*Session) *Sessions {
	s := &Sessions{cfg: Config{Now: func() time.Time { return time.Unix(1_000, 0) }},
		state: &state{ledger: &Ledger{index: newIndex()}}}
	s.ledger.index.load(sessions)
	return s
}

// numbered is an active session that is distinct from those of other numbers.
func numbered(n int, account policy.Address, clients ...Client) *Session {
	sess := &Session{
		ID: ID(fmt.Sprintf("%016x", n)), Kind: AGW, Account: account, ChainID: 1, Clients: clients, Status: Active,
		Spec: &policy.Spec{ExpiresAt: *uint256.NewInt(2_000)}, CreatedAt: time.Unix(int64(n), 0).UTC(),
	}
	sess.Spec.Signer = policy.Address{0: 1, 17: byte(n >> 16), 18: byte(n >> 8), 19: byte(n)}
	return sess
}

// meant is the rule of [Sessions.Find] for an account, as the protocol has it: by looking at every session.
func meant(s *Sessions, peer audit.Peer, account policy.Address, chainID uint64) (found *Session, several bool) {
	var acting, all, elsewhere, allElsewhere []*Session
	for _, sess := range s.List() {
		if sess.Account != account || !sess.allows(peer) {
			continue
		}
		here := chainID == 0 || sess.ChainID == chainID
		if here {
			all = append(all, sess)
		} else {
			allElsewhere = append(allElsewhere, sess)
		}
		if sess.Status != Active || sess.Blocked != "" || s.pastExpiry(sess, s.cfg.Now()) || replaced(s, peer, sess) {
			continue
		}
		if here {
			acting = append(acting, sess)
		} else {
			elsewhere = append(elsewhere, sess)
		}
	}
	if len(acting) > 1 {
		return nil, true
	}
	for _, list := range [][]*Session{acting, last(all), elsewhere, last(allElsewhere)} {
		if len(list) > 0 {
			return list[0], false
		}
	}
	sess, err := s.BySigner(account)
	if err != nil || !sess.allows(peer) {
		return nil, false
	}
	return sess, false
}

func last(list []*Session) []*Session { return list[max(0, len(list)-1):] }

// replaced reports whether a session that can sign renews sess, directly or in turn.
func replaced(s *Sessions, peer audit.Peer, sess *Session) bool {
	for _, next := range s.List() {
		if next.Predecessor != sess.ID {
			continue
		}
		if next.allows(peer) && s.canSign(next, s.cfg.Now()) || replaced(s, peer, next) {
			return true
		}
	}
	return false
}

// TestFindIsTheRule changes sessions at random and holds Find, List and VisibleTo to what looking at every session
// gives.
func TestFindIsTheRule(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	accounts := []policy.Address{{1}, {2}}
	clients := []Client{{ID: 1}, {ID: 2}, {Group: true, ID: 1}, {Group: true, ID: 3}}
	peers := []audit.Peer{{UID: 1, GID: 9}, {UID: 2, GID: 1, Groups: []uint32{1, 3}}, {UID: 3, GID: 3}, {UID: 4, GID: 4}}
	kinds := map[string]int{}
	for round := range 300 {
		s := onlyIndex()
		all := map[ID]*Session{}
		for n := range 1 + rng.IntN(12) {
			sess := numbered(n, accounts[rng.IntN(2)], clients[rng.IntN(4)], clients[rng.IntN(4)])
			sess.ChainID = uint64(1 + rng.IntN(2))
			if n > 0 && rng.IntN(3) == 0 {
				before := all[ID(fmt.Sprintf("%016x", rng.IntN(n)))]
				sess.Predecessor, sess.Account, sess.ChainID = before.ID, before.Account, before.ChainID
			}
			if rng.IntN(8) == 0 { // as after a clock that was set back
				sess.CreatedAt = time.Unix(int64(rng.IntN(5)), 0).UTC()
			}
			all[sess.ID] = sess
			s.ledger.index.put(sess)
			for id := range all { // each changes now and then
				if rng.IntN(3) > 0 {
					continue
				}
				next := *all[id]
				next.Status = []Status{Pending, Active, Active, Expired, Revoked}[rng.IntN(5)]
				next.Blocked = []string{"", "", "", "target"}[rng.IntN(4)]
				if rng.IntN(6) == 0 {
					next.Clients = []Client{clients[rng.IntN(4)]}
				}
				spec := *next.Spec
				spec.ExpiresAt = *uint256.NewInt(uint64(900 + 1_000*rng.IntN(2)))
				next.Spec = &spec
				all[id] = &next
				s.ledger.index.put(&next)
			}
		}
		if got := len(s.List()); got != len(all) || !slices.IsSortedFunc(s.List(), byAge) {
			t.Fatalf("round %d: %d sessions listed, want %d, oldest first", round, got, len(all))
		}
		for _, peer := range peers {
			want := s.filter(func(sess *Session) bool { return !sess.Status.Ended() && sess.allows(peer) })
			if got := s.VisibleTo(peer); !slices.Equal(got, want) {
				t.Fatalf("round %d: VisibleTo(%v) = %v, want %v", round, peer, got, want)
			}
			for _, account := range append(accounts, policy.Address{0: 1, 19: 1}) {
				for chainID := range uint64(4) {
					want, several := meant(s, peer, account, chainID)
					got, err := s.Find(peer, Ref{Account: account, ChainID: chainID})
					if got != want || errors.Is(err, ErrAmbiguous) != several || (err == nil) != (want != nil) {
						t.Fatalf("round %d: Find(%v, %v, %d) = %v, %v, want %v, several: %v", round, peer, account, chainID, got, err,
							want, several)
					}
					kinds[fmt.Sprint(err == nil, several, got != nil && s.canSign(got, s.cfg.Now()), got != nil &&
						got.ChainID == chainID)]++
				}
			}
		}
	}
	if len(kinds) < 6 {
		t.Errorf("only these outcomes came up: %v", kinds)
	}
}

// BenchmarkFind looks up sessions among 100,000, in the shapes in which they can get in each other's way.
func BenchmarkFind(b *testing.B) {
	const count = 100_000
	peer := audit.Peer{UID: 1000, GID: 1000, Groups: []uint32{4, 24, 27, 1000}}
	client, other := Client{ID: 1000}, Client{ID: 1001}
	for _, shape := range []struct {
		name string
		make func(n int) *Session
	}{
		{"accounts", func(n int) *Session {
			return numbered(n, policy.Address{1, byte(n >> 16), byte(n >> 8), byte(n)}, client)
		}},
		{"ended", func(n int) *Session { // all but one
			sess := numbered(n, account, client)
			if n > 0 {
				sess.Status = Expired
			}
			return sess
		}},
		{"clients", func(n int) *Session { // all but one another's
			if n == count/2 {
				return numbered(n, account, client)
			}
			return numbered(n, account, other)
		}},
		{"chains", func(n int) *Session {
			sess := numbered(n, account, client)
			sess.Status = Pending
			if sess.ChainID = uint64(1 + n%3); n == 0 {
				sess.Status = Active
			}
			return sess
		}},
	} {
		all := make([]*Session, count)
		for n := range all {
			all[n] = shape.make(n)
		}
		s := onlyIndex(all...)
		for name, ref := range map[string]func(n int) Ref{
			"id":     func(n int) Ref { return Ref{ID: all[n].ID} },
			"signer": func(n int) Ref { return Ref{Signer: all[n].Signer()} },
			"account": func(n int) Ref {
				if shape.name != "accounts" {
					n = 0
				}
				return Ref{Account: all[n].Account, ChainID: all[n].ChainID}
			},
		} {
			b.Run(shape.name+"/"+name, func(b *testing.B) {
				for i := 0; b.Loop(); i++ {
					n := i * 7919 % count
					if _, err := s.Find(peer, ref(n)); err != nil && shape.name != "clients" {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
