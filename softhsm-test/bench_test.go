package softhsmtest

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/pkcs11"
)

// BenchmarkSign measures the full path from socket to signature beside raw C_Sign on a token of
// the same kind. Each iteration is a slice of the one and a slice of the other, so that both
// see the same machine. Run it with -benchtime 10x (make bench). Metrics:
//
//	sig/s    signatures through the socket
//	raw/s    raw C_Sign calls, with as many p11 sessions as connections, at most 8
//	ratio    of the two
//	p50-µs, p99-µs  of one request
func BenchmarkSign(b *testing.B) {
	raw := newRawSigner(b)
	a := newPlainAgent(b, b.TempDir())
	sess := a.ActiveSession(transferSpec(1_000_000_000), userAccount)
	var nonce atomic.Uint64
	for _, conns := range []int{1, 8, 64} {
		b.Run(fmt.Sprintf("conns=%d", conns), func(b *testing.B) {
			callers := make([]*rawCaller, conns)
			for i := range callers {
				callers[i] = newRawCaller(b, a.Socket(), sess.Signer.String())
			}
			measure(conns, time.Second/2, func(i int) { callers[i].sign(b, nonce.Add(1)) }) // warm up
			var viaSocket, viaRaw []time.Duration
			for b.Loop() {
				viaSocket = append(viaSocket, measure(conns, time.Second/2, func(i int) { callers[i].sign(b, nonce.Add(1)) })...)
				viaRaw = append(viaRaw, measure(min(conns, rawSessions), time.Second/2, func(i int) { raw.sign(b, i) })...)
			}
			slices.Sort(viaSocket)
			perSecond := 2 / float64(b.N) // slices of half a second
			sigs, raws := float64(len(viaSocket))*perSecond, float64(len(viaRaw))*perSecond
			b.ReportMetric(sigs, "sig/s")
			b.ReportMetric(raws, "raw/s")
			b.ReportMetric(sigs/raws, "ratio")
			b.ReportMetric(float64(viaSocket[len(viaSocket)/2].Microseconds()), "p50-µs")
			b.ReportMetric(float64(viaSocket[len(viaSocket)*99/100].Microseconds()), "p99-µs")
			b.ReportMetric(0, "ns/op") // says nothing here
		})
	}
}

// measure calls f from n goroutines for d and returns how long each call took.
func measure(n int, d time.Duration, f func(i int)) []time.Duration {
	var mu sync.Mutex
	var all []time.Duration
	var wg sync.WaitGroup
	end := time.Now().Add(d)
	for i := range n {
		wg.Go(func() {
			var mine []time.Duration
			for start := time.Now(); start.Before(end); start = time.Now() {
				f(i)
				mine = append(mine, time.Since(start))
			}
			mu.Lock()
			defer mu.Unlock()
			all = append(all, mine...)
		})
	}
	wg.Wait()
	return all
}

// rawCaller sends requests that cost the client as little as can be, since it runs on the same cores.
type rawCaller struct {
	nc     net.Conn
	br     *bufio.Reader
	before []byte // the request up to the nonce
	after  []byte
}

func newRawCaller(b *testing.B, socket, signer string) *rawCaller {
	nc, err := net.Dial("unix", socket)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { nc.Close() })
	before, after, _ := bytes.Cut(fmt.Appendf(nil, typedDataRequest, signer), []byte("NONCE"))
	return &rawCaller{nc: nc, br: bufio.NewReader(nc), before: before, after: after}
}

func (c *rawCaller) sign(b *testing.B, nonce uint64) {
	if _, err := c.nc.Write(fmt.Appendf(nil, "%s%d%s", c.before, nonce, c.after)); err != nil {
		b.Error(err)
		return
	}
	line, err := c.br.ReadBytes('\n')
	var reply struct {
		Result string
		Error  json.RawMessage
	}
	if err == nil {
		err = json.Unmarshal(line, &reply)
	}
	if err != nil || len(reply.Result) != 2+2*65 {
		b.Errorf("answer %s, %v, want a signature", line, err)
	}
}

// typedDataRequest is what agw-client sends through viem; %s is the signer.
var typedDataRequest = `{"jsonrpc":"2.0","id":1,"method":"eth_signTypedData_v4","params":["%s",{"domain":{"name":"zkSync","version":"2","chainId":11124},` +
	`"types":{"EIP712Domain":[{"name":"name","type":"string"},{"name":"version","type":"string"},{"name":"chainId","type":"uint256"}],` +
	`"Transaction":[{"name":"txType","type":"uint256"},{"name":"from","type":"uint256"},{"name":"to","type":"uint256"},{"name":"gasLimit","type":"uint256"},` +
	`{"name":"gasPerPubdataByteLimit","type":"uint256"},{"name":"maxFeePerGas","type":"uint256"},{"name":"maxPriorityFeePerGas","type":"uint256"},` +
	`{"name":"paymaster","type":"uint256"},{"name":"nonce","type":"uint256"},{"name":"value","type":"uint256"},{"name":"data","type":"bytes"},` +
	`{"name":"factoryDeps","type":"bytes32[]"},{"name":"paymasterInput","type":"bytes"}]},"primaryType":"Transaction",` +
	`"message":{"txType":"113","from":"` + userAccount + `","to":"` + recipient + `","gasLimit":"100000","gasPerPubdataByteLimit":"50000",` +
	`"maxFeePerGas":"1","maxPriorityFeePerGas":"0","paymaster":"0","nonce":"NONCE","value":"1","data":"0x","factoryDeps":[],"paymasterInput":"0x"}}]}` + "\n"

const rawSessions = 8

// rawSigner calls C_Sign and nothing else.
type rawSigner struct {
	ctx      *pkcs11.Ctx
	sessions []pkcs11.SessionHandle
	key      pkcs11.ObjectHandle
}

func newRawSigner(b *testing.B) *rawSigner {
	tok := NewToken(b)
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
	check(s.ctx.Login(s.sessions[0], pkcs11.CKU_USER, tok.pin(b)))
	_, s.key, err = s.ctx.GenerateKeyPair(s.sessions[0], []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_EC_KEY_PAIR_GEN, nil)},
		[]*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_EC_PARAMS, []byte{0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x0a})},
		[]*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true), pkcs11.NewAttribute(pkcs11.CKA_SIGN, true)})
	check(err)
	return s
}

func (s *rawSigner) sign(b *testing.B, i int) {
	if err := s.ctx.SignInit(s.sessions[i], []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_ECDSA, nil)}, s.key); err != nil {
		b.Error(err)
		return
	}
	if sig, err := s.ctx.Sign(s.sessions[i], make([]byte, 32)); err != nil || len(sig) != 64 {
		b.Errorf("C_Sign: %d bytes, %v", len(sig), err)
	}
}
