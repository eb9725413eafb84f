package bench

import (
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/pkcs11"

	"github.com/keyward/keyward/internal/bench"
	softhsmtest "github.com/keyward/keyward/softhsm-test"
)

const (
	account = "0x1111111111111111111111111111111111111111"
	chainID = 11124 // abstract-testnet
)

// spec is [bench.Spec] as the command line takes it.
func spec() string {
	const lots = `{"limitType": "Lifetime", "limit": "1000000000000000000", "period": "0"}`
	return fmt.Sprintf(`{"expiresAt": "%d", "feeLimit": %s, "callPolicies": [],
		"transferPolicies": [{"target": %q, "maxValuePerUse": "1", "valueLimit": %s}]}`,
		time.Now().Add(24*time.Hour).Unix(), lots, bench.Recipient, lots)
}

// BenchmarkSoftHSM measures the full path from socket to signature, of an agent that is a process of its own, beside
// raw C_Sign on a token of the same kind. There are two agents: "own" has the module in its own process, and "child" in
// a child process, as is the default. Each iteration is a slice of each of the three, so that all see the same machine:
// on one that others use too, only the ratio says something. Metrics:
//
//	raw/s, raw-p50-µs  raw C_Sign, with as many p11 sessions as connections, at most 8
//	own/s, child/s     through the socket
//	own/raw, child/raw  the ratio
//	…-p50-µs           of one request
//	…-cpu-µs           processor time of the agent and its child for a signature, less that of C_Sign
func BenchmarkSoftHSM(b *testing.B) {
	raw := newRawSigner(b)
	names := [2]string{"own", "child"}
	var agents [2]*softhsmtest.Agent
	var signers [2]string
	for i, process := range []string{"agent", "own"} { // in the words of the configuration
		a := softhsmtest.NewPlainAgent(b, b.TempDir())
		a.Stop()
		a.Configure(fmt.Sprintf("process = %q", process))
		a.Start()
		agents[i], signers[i] = a, a.ActiveSession(spec(), account).Signer.String()
	}
	var nonce atomic.Uint64
	for _, conns := range []int{1, 8, 64} {
		b.Run(fmt.Sprintf("conns=%d", conns), func(b *testing.B) {
			var sign [2]func(int) error
			for i, a := range agents {
				callers := dial(b, a, signers[i], conns)
				sign[i] = func(n int) error { return callers[n].Sign(nonce.Add(1)) }
				bench.Closed(b.Context(), conns, slice, sign[i]) // warm up
			}
			var loads [2]bench.Load
			var device bench.Load
			var cpu [2]time.Duration
			var deviceCPU time.Duration
			for b.Loop() {
				for i, a := range agents {
					before := a.CPU()
					loads[i].Add(bench.Closed(b.Context(), conns, slice, sign[i]))
					cpu[i] += a.CPU() - before
				}
				before := ownCPU()
				device.Add(bench.Closed(b.Context(), min(conns, rawSessions), slice, raw.sign))
				deviceCPU += ownCPU() - before
			}
			for _, l := range []*bench.Load{&loads[0], &loads[1], &device} {
				if l.Err != nil {
					b.Fatal(l.Err)
				}
			}
			b.ReportMetric(0, "ns/op") // says nothing here
			b.ReportMetric(device.PerSecond(), "raw/s")
			b.ReportMetric(float64(device.Quantile(50).Microseconds()), "raw-p50-µs")
			for i, name := range names {
				l := &loads[i]
				b.ReportMetric(l.PerSecond(), name+"/s")
				b.ReportMetric(l.PerSecond()/device.PerSecond(), name+"/raw")
				b.ReportMetric(float64(l.Quantile(50).Microseconds()), name+"-p50-µs")
				b.ReportMetric(micros(cpu[i], l)-micros(deviceCPU, &device), name+"-cpu-µs")
			}
		})
	}
}

// BenchmarkSoftHSMOpen measures latency at a load that does not follow the agent: requests come at a rate, half
// of what 64 connections get done, whether or not those before are answered.
func BenchmarkSoftHSMOpen(b *testing.B) {
	const conns = 64
	a := softhsmtest.NewPlainAgent(b, b.TempDir())
	sess := a.ActiveSession(spec(), account)
	callers := dial(b, a, sess.Signer.String(), conns)
	var nonce atomic.Uint64
	sign := func(i int) error { return callers[i].Sign(nonce.Add(1)) }
	bench.Closed(b.Context(), conns, slice, sign) // warm up
	rate := bench.Closed(b.Context(), conns, 2*slice, sign).PerSecond() / 2
	all := &bench.Load{}
	for b.Loop() {
		all.Add(bench.Open(b.Context(), rate, conns, slice, sign))
	}
	report(b, all, "sig")
	b.ReportMetric(rate, "offered/s")
	b.ReportMetric(float64(all.Quantile(99.9).Microseconds()), "p99.9-µs")
}

// micros is the processor time of one operation.
func micros(cpu time.Duration, l *bench.Load) float64 {
	return float64(cpu.Microseconds()) / float64(l.Done)
}

func dial(b *testing.B, a *softhsmtest.Agent, signer string, n int) []*bench.Caller {
	b.Helper()
	var callers []*bench.Caller
	for range n {
		c, err := bench.Dial(a.Socket(), signer, account, chainID)
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { c.Close() })
		callers = append(callers, c)
	}
	return callers
}

const rawSessions = 8

// rawSigner calls C_Sign and nothing else.
type rawSigner struct {
	ctx      *pkcs11.Ctx
	sessions []pkcs11.SessionHandle
	key      pkcs11.ObjectHandle
}

func newRawSigner(b *testing.B) *rawSigner {
	tok := softhsmtest.NewToken(b)
	for name, value := range tok.Env() {
		b.Setenv(name, value)
	}
	s := &rawSigner{ctx: pkcs11.New(tok.Module)}
	check := func(err error) {
		if err != nil {
			b.Helper()
			b.Fatal(err)
		}
	}
	check(s.ctx.Initialize())
	b.Cleanup(func() { s.ctx.Finalize(); s.ctx.Destroy() })
	slots, err := s.ctx.GetSlotList(true)
	check(err)
	for range rawSessions {
		h, err := s.ctx.OpenSession(slots[0], pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
		check(err)
		s.sessions = append(s.sessions, h)
	}
	pin, err := os.ReadFile(tok.PINFile)
	check(err)
	check(s.ctx.Login(s.sessions[0], pkcs11.CKU_USER, strings.TrimSuffix(string(pin), "\n")))
	_, s.key, err = s.ctx.GenerateKeyPair(s.sessions[0],
		[]*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_EC_KEY_PAIR_GEN, nil)},
		[]*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_EC_PARAMS, []byte{0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x0a})},
		[]*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true), pkcs11.NewAttribute(pkcs11.CKA_SIGN, true)})
	check(err)
	return s
}

func (s *rawSigner) sign(i int) error {
	if err := s.ctx.SignInit(s.sessions[i], []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_ECDSA, nil)},
		s.key); err != nil {
		return err
	}
	sig, err := s.ctx.Sign(s.sessions[i], make([]byte, 32))
	if err == nil && len(sig) != 64 {
		err = fmt.Errorf("C_Sign returned %d bytes", len(sig))
	}
	return err
}
