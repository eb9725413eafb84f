package bench

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"runtime"
	"time"

	"github.com/ethereum/go-ethereum/crypto"

	"github.com/keyward/keyward/audit"
	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/internal/zktx"
)

// Report is what a benchmark of a backend found.
type Report struct {
	Protection backends.Protection `json:"protection"` // of the key
	CPUs       int                 `json:"cpus"`
	Device     []Row               `json:"device"` // SignDigest alone
	Agent      []Row               `json:"agent"`  // through the socket
	Ledger     []Row               `json:"ledger"` // durable records alone
	Stages     []Stage             `json:"stages"` // of one signature at a time
}

// Row is what a number of callers got done.
type Row struct {
	Callers   int     `json:"callers"`
	PerSecond float64 `json:"perSecond"`
	P50       float64 `json:"p50Micros"`
	P99       float64 `json:"p99Micros"`
	Ratio     float64 `json:"ratio,omitempty"` // of the agent: to the device with as many callers
}

// Stage is a part of a signature.
type Stage struct {
	Name   string  `json:"name"`
	Micros float64 `json:"micros"` // at the median
	Share  float64 `json:"share"`  // of the whole, the last stage; the device and the ledger work at the same time
}

// Run measures a's backend for d each. Progress, if not nil, is told what is measured. When ctx is done, the
// error is ctx's.
func (a *Agent) Run(ctx context.Context, d time.Duration, progress func(what string)) (*Report, error) {
	s := &suite{Agent: a, d: d, progress: progress, rep: &Report{Protection: a.Session.Protection,
		CPUs: runtime.GOMAXPROCS(0)}}
	key, err := a.device.Key(ctx, a.Session.KeyURI)
	if err != nil {
		return nil, err
	}
	s.key = key
	for _, step := range []func(context.Context) error{s.signatures, s.ledger, s.stages} {
		if err := step(ctx); err != nil {
			return nil, err
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
	}
	return s.rep, nil
}

// suite is one run.
type suite struct {
	*Agent
	d        time.Duration
	key      backends.Key
	progress func(what string)
	rep      *Report
}

// Device and agent take turns, at least so often and at most for so long, so that both see the same machine.
const (
	rounds = 4
	turn   = time.Second / 2
)

// patience is how long a caller may wait for its turn at a slow device: with more callers they would time out.
const patience = 2 * time.Second

// signatures measures the device and the agent with 1, 8 and 64 callers.
func (s *suite) signatures(ctx context.Context) error {
	single := 0.0
	for _, n := range []int{1, 8, 64} {
		if n > 1 && float64(n) > single*patience.Seconds() {
			break
		}
		device, agent, err := s.sideBySide(ctx, n)
		if err != nil {
			return err
		}
		if n == 1 {
			single = device.PerSecond()
		}
		s.rep.Device = append(s.rep.Device, row(n, device))
		r := row(n, agent)
		r.Ratio = agent.PerSecond() / device.PerSecond()
		s.rep.Agent = append(s.rep.Agent, r)
	}
	return nil
}

// sideBySide has n callers use the device and the agent in turn.
func (s *suite) sideBySide(ctx context.Context, n int) (device, agent *Load, err error) {
	s.progress(fmt.Sprintf("device and agent, %d at a time", n))
	var callers []*Caller
	for range n {
		c, err := s.Caller()
		if err != nil {
			return nil, nil, err
		}
		defer c.Close()
		callers = append(callers, c)
	}
	device, agent = &Load{}, &Load{}
	turns := max(rounds, s.d/turn)
	for range turns {
		device.Add(Closed(ctx, n, s.d/turns, func(int) error { return s.sign(ctx) }))
		agent.Add(Closed(ctx, n, s.d/turns, func(i int) error { return callers[i].Sign(s.Nonce()) }))
		if device.Err != nil || agent.Err != nil {
			break
		}
	}
	if err := errors.Join(device.Err, agent.Err); err != nil {
		return nil, nil, err
	}
	if ctx.Err() != nil {
		return nil, nil, context.Cause(ctx)
	}
	return device, agent, nil
}

// sign has the device sign a random digest. It is the hash of no transaction that anybody could find.
func (s *suite) sign(ctx context.Context) error {
	var digest [32]byte
	rand.Read(digest[:]) // never fails (crypto/rand)
	_, err := s.key.SignDigest(ctx, digest)
	return err
}

// ledger measures what it takes to have a record on disk, each of which is a charge's size.
func (s *suite) ledger(ctx context.Context) error {
	for _, n := range []int{1, 8, 64} {
		s.progress(fmt.Sprintf("ledger, %d at a time", n))
		l := Closed(ctx, n, s.d/2, func(int) error { return s.record(ctx) })
		if l.Err != nil {
			return l.Err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		s.rep.Ledger = append(s.rep.Ledger, row(n, l))
	}
	return nil
}

func (s *suite) record(ctx context.Context) error {
	return s.Sessions.Record(ctx, audit.Record{
		Event: audit.BackendChecked, Peer: &s.peer, Session: string(s.Session.ID), Signer: s.Session.Signer().String(),
		Digest: crypto.Keccak256Hash([]byte("benchmark")).Hex(), KeyURI: s.Session.KeyURI,
		Detail: "benchmark of the ledger: a record of about the size of a grant's",
	})
}

// stages measures the parts of one signature, one at a time, and the whole.
func (s *suite) stages(ctx context.Context) error {
	s.progress("the parts of a signature")
	caller, err := s.Caller()
	if err != nil {
		return err
	}
	defer caller.Close()
	tx, digest, sig, err := s.sample(ctx, caller)
	if err != nil {
		return err
	}
	call, now := tx.Call(validator), uint64(time.Now().Unix())
	public := crypto.FromECDSAPub(s.key.Public())
	parts := []struct {
		name string
		do   func() error
	}{
		{"parse", func() error { _, err := zktx.ParseTypedData(caller.typedData()); return err }},
		{"digest", func() error { tx.Digest(); return nil }},
		{"policy", func() error {
			_, err := s.Session.Spec.Check(call, s.Session.Spec.PeriodIDs(call, now), now)
			return err
		}},
		{"ledger", func() error { return s.record(ctx) }},
		{"device", func() error { return s.sign(ctx) }},
		{"verify", func() error { _, err := backends.Recoverable(public, digest, sig); return err }},
		{"whole", func() error { return caller.Sign(s.Nonce()) }},
	}
	for _, p := range parts {
		micros, err := medianOf(ctx, s.d/rounds, p.do)
		if err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
		s.rep.Stages = append(s.rep.Stages, Stage{Name: p.name, Micros: micros})
	}
	whole := s.rep.Stages[len(parts)-1].Micros
	for i := range s.rep.Stages {
		s.rep.Stages[i].Share = s.rep.Stages[i].Micros / whole
	}
	return nil
}

// sample is a transaction as the callers ask for, and the device's signature over it.
func (s *suite) sample(ctx context.Context, c *Caller) (tx *zktx.Transaction, digest [32]byte, sig backends.Signature,
	err error) {
	if tx, err = zktx.ParseTypedData(c.typedData()); err != nil {
		return nil, digest, sig, err
	}
	digest = tx.Digest()
	sig, err = s.key.SignDigest(ctx, digest)
	return tx, digest, sig, err
}

// medianOf is the median of what do takes, in microseconds. What is short is timed many at a time.
func medianOf(ctx context.Context, d time.Duration, do func() error) (float64, error) {
	start := time.Now()
	if err := do(); err != nil {
		return 0, err
	}
	batch := max(1, int(100*time.Microsecond/max(time.Since(start), 1)))
	l := Closed(ctx, 1, d, func(int) error {
		for range batch {
			if err := do(); err != nil {
				return err
			}
		}
		return nil
	})
	if l.Err == nil && ctx.Err() != nil {
		l.Err = context.Cause(ctx)
	}
	return float64(l.Quantile(50).Nanoseconds()) / 1000 / float64(batch), l.Err
}

func row(n int, l *Load) Row {
	micros := func(q float64) float64 { return float64(l.Quantile(q).Nanoseconds()) / 1000 }
	return Row{Callers: n, PerSecond: l.PerSecond(), P50: micros(50), P99: micros(99)}
}
