package bench

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holiman/uint256"

	"github.com/keyward/keyward/audit"
	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/backends/soft"
	"github.com/keyward/keyward/internal/bench"
	"github.com/keyward/keyward/internal/zktx"
	"github.com/keyward/keyward/policy"
	"github.com/keyward/keyward/session"
)

// slowDevice is like an HSM that makes one signature at a time and takes 2 ms for it.
type slowDevice struct{ *soft.Backend }

func (slowDevice) Concurrency() int { return 1 }

func newSlowDevice() slowDevice {
	return slowDevice{&soft.Backend{OnSign: func(context.Context, [32]byte) (*backends.Signature, error) {
		time.Sleep(2 * time.Millisecond)
		return nil, nil
	}}}
}

// BenchmarkOverload offers twice what a device can do. Metrics:
//
//	capacity/s, offered/s, sig/s, shed/s  what the device can do, what was asked, answered and turned away
//	p50-µs, p99-µs, p99/p50               of what was answered
func BenchmarkOverload(b *testing.B) {
	const conns = 1000
	a := startAgent(b, newSlowDevice())
	callers := newCallers(b, a, conns)
	sign := func(i int) error { return callers[i].Sign(a.Nonce()) }
	capacity := bench.Closed(b.Context(), 8, time.Second, sign).PerSecond()
	all := &bench.Load{}
	for b.Loop() {
		all.Add(bench.Open(b.Context(), 2*capacity, conns, 2*slice, sign)) // the queue is full after a tenth of this
	}
	report(b, all, "sig")
	b.ReportMetric(capacity, "capacity/s")
	b.ReportMetric(2*capacity, "offered/s")
	b.ReportMetric(float64(all.Shed)/all.Elapsed.Seconds(), "shed/s")
	b.ReportMetric(float64(all.Quantile(99))/float64(all.Quantile(50)), "p99/p50")
}

// BenchmarkFairness measures a user with one request in flight: first alone, then beside a user with 3,000 in flight.
// Metrics:
//
//	alone/s, beside/s  signatures of the one user
//	busy/s             of the other
//	p99-µs             of the one, beside the other
func BenchmarkFairness(b *testing.B) {
	const inFlight = 3000
	quiet, busy := audit.Peer{UID: 70001}, audit.Peer{UID: 70002}
	a := startAgent(b, newSlowDevice())
	sess, err := a.Sessions.Create(b.Context(), quiet, &session.CreateRequest{
		Kind: session.AGW, Spec: bench.Spec(), Account: policy.Address{19: 0x33}, ChainID: bench.ChainID,
		Validator: policy.Address{19: 0x99},
		Clients:   []session.Client{{ID: quiet.UID}, {ID: busy.UID}},
	})
	if err == nil {
		sess, err = a.Sessions.Activate(b.Context(), quiet, sess.ID)
	}
	if err != nil {
		b.Fatal(err)
	}
	var nonce atomic.Uint64
	sign := func(ctx context.Context, peer audit.Peer) error {
		tx := &zktx.Transaction{
			Type: zktx.TypeZKsync, ChainID: bench.ChainID, Nonce: nonce.Add(1), From: sess.Account, Value: *uint256.NewInt(1),
			To: sess.Spec.TransferPolicies[0].Target, GasLimit: *uint256.NewInt(100_000), MaxFeePerGas: *uint256.NewInt(1),
			GasPerPubdata: *uint256.NewInt(50_000),
		}
		_, err := a.Signer.Sign(context.WithoutCancel(ctx), peer,
			&session.SignRequest{Signer: sess.Signer(), Tx: tx, Method: "bench"})
		if errors.Is(err, session.ErrOverloaded) {
			err = bench.ErrShed
		}
		return err
	}
	one := func(int) error { return sign(b.Context(), quiet) }
	alone := bench.Closed(b.Context(), 1, 2*slice, one)
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	var shed atomic.Int64
	many := make(chan *bench.Load)
	go func() {
		many <- bench.Closed(ctx, inFlight, time.Hour, func(int) error {
			err := sign(ctx, busy)
			if errors.Is(err, bench.ErrShed) {
				shed.Add(1)
				select { // the client tries again after a pause
				case <-time.After(4*slice + rand.N(8*slice)):
				case <-ctx.Done():
				}
			}
			return err
		})
	}()
	for shed.Load() < inFlight/2 { // until it has filled the queue
		time.Sleep(time.Millisecond)
	}
	time.Sleep(slice)
	beside := &bench.Load{}
	for b.Loop() {
		beside.Add(bench.Closed(b.Context(), 1, slice, one))
	}
	cancel()
	other := <-many
	for _, l := range []*bench.Load{alone, beside, other} {
		if l.Err != nil {
			b.Fatal(l.Err)
		}
	}
	b.ReportMetric(alone.PerSecond(), "alone/s")
	b.ReportMetric(beside.PerSecond(), "beside/s")
	b.ReportMetric(other.PerSecond(), "busy/s")
	b.ReportMetric(float64(beside.Quantile(99).Microseconds()), "p99-µs")
	b.ReportMetric(0, "ns/op") // says nothing here
}
