package bench

import (
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/keyward/keyward/internal/bench"
	softhsmtest "github.com/keyward/keyward/softhsm-test"
)

// BenchmarkModuleProcess measures what it costs that the PKCS#11 module has a process of its own. Each iteration is a
// slice of an agent with such a process, of one that has the module in its own, and of raw C_Sign calls.
// Metrics:
//
//	own/raw, agent/raw  each agent's signatures to raw C_Sign calls
//	own/agent           what is left of the one in the other
func BenchmarkModuleProcess(b *testing.B) {
	raw := newRawSigner(b)
	var agents [2]*softhsmtest.Agent
	var signers [2]string
	for i, process := range []string{"own", "agent"} {
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
			for b.Loop() {
				for i := range agents {
					loads[i].Add(bench.Closed(b.Context(), conns, slice, sign[i]))
				}
				device.Add(bench.Closed(b.Context(), min(conns, rawSessions), slice, raw.sign))
			}
			for _, l := range []*bench.Load{&loads[0], &loads[1], &device} {
				if l.Err != nil {
					b.Fatal(l.Err)
				}
			}
			own, agent := loads[0].PerSecond(), loads[1].PerSecond()
			b.ReportMetric(own/device.PerSecond(), "own/raw")
			b.ReportMetric(agent/device.PerSecond(), "agent/raw")
			b.ReportMetric(own/agent, "own/agent")
			b.ReportMetric(0, "ns/op") // says nothing here
		})
	}
}
