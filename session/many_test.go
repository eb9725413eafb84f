package session

import (
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/keyward/keyward/policy"
)

// demoSpec is the demo's (softhsm-test/demo/spec.json), with a transfer that the tests' transactions are.
const demoSpec = `{"expiresAt": "1900000000", "feeLimit": {"limitType": "Lifetime", "limit": "1000000000000000000", "period": "0"},
	"callPolicies": [{"target": "0xC4822AbB9F05646A9Ce44EFa6dDcda0Bf45595AA", "selector": "0x40c10f19", "maxValuePerUse": "0",
		"valueLimit": {"limitType": "Unlimited", "limit": "0", "period": "0"}, "constraints": [
			{"condition": "Equal", "index": "0", "refValue": "0x000000000000000000000000a16081f360e3847006db660bae1c6d1b2e17ec2a",
				"limit": {"limitType": "Unlimited", "limit": "0", "period": "0"}},
			{"condition": "LessOrEqual", "index": "1", "refValue": "0x0000000000000000000000000000000000000000000000000000000000000005",
				"limit": {"limitType": "Allowance", "limit": "5", "period": "86400"}}]}],
	"transferPolicies": [{"target": "0x7a00000000000000000000000000000000000000", "maxValuePerUse": "1",
		"valueLimit": {"limitType": "Lifetime", "limit": "1000000000", "period": "0"}}]}`

// seeded is the nth of sessions that are put into the store and that no device has a key of.
func seeded(spec *policy.Spec, n int) *Session {
	own := *spec
	own.Signer = policy.Address{0: 0xee}
	binary.BigEndian.PutUint64(own.Signer[12:], uint64(n))
	sess := &Session{
		ID: ID(fmt.Sprintf("%016x", n)), Kind: AGW, Account: own.Signer, ChainID: 11124, Validator: vectorValidator,
		Spec: &own, Backend: "soft",
		KeyURI: fmt.Sprintf("pkcs11:token=keyward;serial=0123456789abcdef;id=%%%016x;object=keyward-%016x;type=private", n,
			n),
		PublicKey: make([]byte, 65), Protection: "resident", Clients: []Client{{ID: app.UID}}, Status: Active,
		CreatedAt: time.Unix(1_700_000_000, int64(n)).UTC(), ActivatedAt: time.Unix(1_700_000_000, int64(n)).UTC(),
	}
	sess.Account[0] = 0xaa
	return sess
}

// seed puts n sessions into a's store, and opens it again.
func (a *agent) seed(t testing.TB, n int) {
	t.Helper()
	spec, err := policy.ParseSpec([]byte(demoSpec), false)
	if err != nil {
		t.Fatal(err)
	}
	for part := range slices.Chunk(slices.Collect(numbers(n)), 1000) {
		b := &batch{head: a.ledger.head}
		for _, i := range part {
			sess := seeded(spec, i)
			b.changes = append(b.changes, &change{id: sess.ID, session: sess, spec: sess.Spec})
		}
		if err := a.ledger.store.commit(b); err != nil {
			t.Fatal(err)
		}
	}
	a.restart(t)
}

func numbers(n int) func(yield func(int) bool) {
	return func(yield func(int) bool) {
		for i := 0; i < n && yield(i); i++ {
		}
	}
}

// The start decodes no spec: sessions whose specs can't be read don't hinder it, nor the others. One that is
// asked for allows nothing, and the agent signs nothing more.
func TestStartDecodesNoSpec(t *testing.T) {
	a := newAgent(t)
	good := a.active(t)
	a.seed(t, 100)
	db := a.ledger.store.(*embedded).db
	for n := range 100 {
		if err := db.Set(keyOf(specKey, ID(fmt.Sprintf("%016x", n))), []byte("no spec"), pebble.NoSync); err != nil {
			t.Fatal(err)
		}
	}
	a.restart(t)
	if n := a.Sessions.Counts()[Active]; n != 101 {
		t.Errorf("%d sessions are active, want 101", n)
	}
	if all, err := a.UnmappedClients(); err != nil {
		t.Errorf("UnmappedClients = %v, %v", all, err)
	}
	a.sweep(t.Context(), map[ID]bool{})
	for i, name := range []*SignRequest{transfer(good, 1), {Session: good.ID, Tx: transfer(good, 2).Tx},
		{Tx: transfer(good, 3).Tx}} {
		if _, err := a.Sign(t.Context(), app, name); err != nil {
			t.Errorf("request %d: Sign = %v", i, err)
		}
	}
	bad, err := a.Get("0000000000000007")
	if err != nil || bad.Signer() != (policy.Address{0: 0xee, 19: 7}) {
		t.Fatalf("Get = %+v, %v", bad, err)
	}
	if len(bad.Spec.CallPolicies)+len(bad.Spec.TransferPolicies) > 0 {
		t.Errorf("a spec that can't be read allows %+v", bad.Spec)
	}
	if _, err := a.Sign(t.Context(), app, transfer(good, 4)); !errors.Is(err, ErrHalted) ||
		!strings.Contains(err.Error(), "0000000000000007") {
		t.Errorf("Sign = %v, want ErrHalted for session 0000000000000007", err)
	}
	if err := a.Halted(); !errors.Is(err, ErrHalted) {
		t.Errorf("Halted = %v", err)
	}
}

// Sessions are the same, brief or whole, however many there are; no more than maxWhole stay whole.
func TestBriefSessionsBecomeWhole(t *testing.T) {
	spec, err := policy.ParseSpec([]byte(demoSpec), false)
	if err != nil {
		t.Fatal(err)
	}
	const n = maxWhole + 100
	s, reads := onlyIndex(), 0
	x := s.ledger.index
	x.details.read = func(id ID) (*Session, error) {
		reads++
		var i int
		_, err := fmt.Sscanf(string(id), "%x", &i)
		return seeded(spec, i), err
	}
	for i := range n {
		x.put(seeded(spec, i).brief())
	}
	same := func(got *Session, n int) {
		t.Helper()
		want := seeded(spec, n)
		if got.Hash != want.Hash || got.KeyURI != want.KeyURI || got.Signer() != want.Signer() ||
			got.Spec.Hash() != want.Spec.Hash() ||
			len(got.PublicKey) != 65 || got.expiresAt() != want.expiresAt() {
			t.Fatalf("session %d is %+v, want %+v", n, got, want)
		}
	}
	all := s.List()
	for i, sess := range all {
		same(sess, i)
	}
	if reads != n {
		t.Errorf("%d sessions were read, want %d", reads, n)
	}
	changed := *all[n-1]
	changed.Status = Revoked
	x.put(&changed)
	for _, i := range []int{0, 99, n - 1} { // the first are brief again
		sess, err := s.Get(all[i].ID)
		if err != nil {
			t.Fatal(err)
		}
		same(sess, i)
	}
	if sess, err := s.Get(changed.ID); err != nil || sess.Status != Revoked {
		t.Errorf("after a change: %+v, %v", sess, err)
	}
	whole := 0
	for sess := range x.briefly() {
		if sess.Spec != nil {
			whole++
		}
	}
	if whole > maxWhole {
		t.Errorf("%d sessions are whole, want %d at most", whole, maxWhole)
	}
}

// BenchmarkSessions measures an agent with many sessions, of the demo session's size, beside one with ten. Metrics:
//
//	start-s           from Open to an agent that signs
//	heap-MiB          after the start, of the whole process
//	B/session         of it
//	signer-%, account-%  how much longer a signature takes than with ten sessions, named by either, at the median
//	page-ms, all-ms   to list 1,000 sessions, and all of them
func BenchmarkSessions(b *testing.B) {
	for _, n := range []int{1_000, 100_000} {
		b.Run(fmt.Sprintf("sessions=%d", n), func(b *testing.B) { benchmarkSessions(b, n) })
	}
}

func benchmarkSessions(b *testing.B, n int) {
	few, many := newAgent(b), newAgent(b)
	fewSession, manySession := few.activeDemo(b), many.activeDemo(b)
	few.seed(b, 10)
	many.seed(b, n)
	var start, page, all time.Duration
	var heap, each float64
	var took [4][]time.Duration
	nonce := uint64(0)
	for b.Loop() {
		if err := many.Close(); err != nil {
			b.Fatal(err)
		}
		many.Sessions, many.Signer = nil, nil
		before := liveHeap()
		began := time.Now()
		many.start(b)
		start += time.Since(began)
		heap = float64(liveHeap())
		each = (heap - float64(before)) / float64(n)
		for range 300 {
			for i, a := range []*agent{few, many} {
				nonce++
				byAccount := transfer([]*Session{fewSession, manySession}[i], nonce)
				byAccount.Signer = policy.Address{}
				took[2*i] = append(took[2*i], signTime(b, a, transfer([]*Session{fewSession, manySession}[i], nonce)))
				byAccount.Tx.Nonce = 1<<40 + nonce
				took[2*i+1] = append(took[2*i+1], signTime(b, a, byAccount))
			}
		}
		page += listTime(b, many, Page{Limit: 1000}, min(n, 1000))
		all += listTime(b, many, Page{}, n)
	}
	b.ReportMetric(0, "ns/op") // says nothing here
	b.ReportMetric(start.Seconds()/float64(b.N), "start-s")
	b.ReportMetric(heap/(1<<20), "heap-MiB")
	b.ReportMetric(each, "B/session")
	b.ReportMetric(100*(median(took[2])/median(took[0])-1), "signer-%")
	b.ReportMetric(100*(median(took[3])/median(took[1])-1), "account-%")
	b.ReportMetric(1000*page.Seconds()/float64(b.N), "page-ms")
	b.ReportMetric(1000*all.Seconds()/float64(b.N), "all-ms")
}

// activeDemo makes an active session with a key and the spec of those that are seeded.
func (a *agent) activeDemo(b *testing.B) *Session {
	req := a.createRequest()
	var err error
	if req.Spec, err = policy.ParseSpec([]byte(demoSpec), false); err != nil {
		b.Fatal(err)
	}
	sess, err := a.Create(b.Context(), operator, req)
	if err == nil {
		sess, err = a.Activate(b.Context(), operator, sess.ID)
	}
	if err != nil {
		b.Fatal(err)
	}
	return sess
}

func liveHeap() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func signTime(b *testing.B, a *agent, req *SignRequest) time.Duration {
	began := time.Now()
	if _, err := a.Sign(b.Context(), app, req); err != nil {
		b.Fatal(err)
	}
	return time.Since(began)
}

func listTime(b *testing.B, a *agent, p Page, want int) time.Duration {
	began := time.Now()
	if got := a.VisiblePage(app, p); len(got) < want {
		b.Fatalf("a page of %d sessions, want %d", len(got), want)
	}
	return time.Since(began)
}

func median(all []time.Duration) float64 {
	slices.Sort(all)
	return float64(all[len(all)/2])
}
