package awskms

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/backends/awskms/kmsfake"
	"github.com/keyward/keyward/backends/backendtest"
)

// latency is how long the simulated KMS takes for an answer.
const latency = 20 * time.Millisecond

// BenchmarkSign has many sessions sign at a KMS that takes 20 ms for each call, which is a
// process of its own, as it would be. Run it with make bench. Metrics:
//
//	sig/s        signatures
//	p50-ms       of one signature
//	overhead-µs  of one signature over one bare call of the SDK, at the median, beside each other
//
// With more sessions than calls in flight (the last rows of each kind), sig/s stays at the
// bound, in_flight / 20 ms, and a signature waits for its turn. Overhead is measured where none waits.
func BenchmarkSign(b *testing.B) {
	url := serveFake(b)
	for _, class := range []string{"resident", "sealed", "sealed, cached"} {
		for _, bm := range []struct{ sessions, inFlight int }{{1, 32}, {8, 32}, {32, 32}, {128, 32}, {128, 8}} {
			b.Run(fmt.Sprintf("class=%s/sessions=%d/in_flight=%d", class, bm.sessions, bm.inFlight), func(b *testing.B) {
				backend := benchBackend(b, class, Config{Name: "bench", Endpoint: url, InFlight: bm.inFlight, Timeout: time.Minute,
					Host: "bench"})
				keys := make([]backends.Key, bm.sessions)
				var wg sync.WaitGroup
				for i := range keys {
					wg.Go(func() {
						k, err := backend.Generate(b.Context(), backends.KeyAttributes{Label: fmt.Sprint("keyward-", i)})
						if err != nil {
							b.Error(err)
							return
						}
						keys[i] = k
						_, _ = k.SignDigest(b.Context(), [32]byte{1}) // warm up; an error shows below
					})
				}
				wg.Wait()
				if b.Failed() {
					return
				}
				var took []time.Duration
				var elapsed time.Duration
				for b.Loop() {
					start := time.Now()
					took = append(took, signAll(b, keys)...)
					elapsed += time.Since(start)
				}
				b.ReportMetric(float64(len(took))/elapsed.Seconds(), "sig/s")
				b.ReportMetric(float64(median(took).Microseconds())/1000, "p50-ms")
				if bm.sessions == 1 && class != "sealed, cached" {
					b.ReportMetric(float64(overhead(b, url, class, keys[0]).Nanoseconds())/1000, "overhead-µs")
				}
				b.ReportMetric(0, "ns/op") // says nothing here
			})
		}
	}
}

const signaturesEach = 20

// signAll has every key sign some digests, all keys at once, and returns how long each took.
func signAll(b *testing.B, keys []backends.Key) []time.Duration {
	took := make([]time.Duration, len(keys)*signaturesEach)
	var wg sync.WaitGroup
	for i, k := range keys {
		wg.Go(func() {
			for j := range signaturesEach {
				start := time.Now()
				if _, err := k.SignDigest(b.Context(), [32]byte{byte(j)}); err != nil {
					b.Error(err)
				}
				took[i*signaturesEach+j] = time.Since(start)
			}
		})
	}
	wg.Wait()
	return took
}

// overhead is what a signature takes over the one call to KMS in it, made with the SDK as its
// documentation says. Both take turns, so that they see the same machine.
func overhead(b *testing.B, url, class string, k backends.Key) time.Duration {
	loaded, err := config.LoadDefaultConfig(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	api := kms.NewFromConfig(loaded, func(o *kms.Options) { o.BaseEndpoint = &url })
	bare := bareCall(b, api, class)
	var ours, theirs []time.Duration
	for range 200 {
		start := time.Now()
		if err := bare(b.Context()); err != nil {
			b.Fatal(err)
		}
		theirs = append(theirs, time.Since(start))
		start = time.Now()
		if _, err := k.SignDigest(b.Context(), [32]byte{1}); err != nil {
			b.Fatal(err)
		}
		ours = append(ours, time.Since(start))
	}
	return median(ours) - median(theirs)
}

// bareCall is the call that a signature of class needs.
func bareCall(b *testing.B, api *kms.Client, class string) func(context.Context) error {
	in := &kms.CreateKeyInput{}
	if class == "resident" {
		in.KeySpec, in.KeyUsage = types.KeySpecEccSecgP256k1, types.KeyUsageTypeSignVerify
	}
	made, err := api.CreateKey(b.Context(), in)
	if err != nil {
		b.Fatal(err)
	}
	arn := made.KeyMetadata.Arn
	if class == "resident" {
		return func(ctx context.Context) error {
			_, err := api.Sign(ctx, &kms.SignInput{
				KeyId: arn, Message: make([]byte, 32), MessageType: types.MessageTypeDigest,
				SigningAlgorithm: types.SigningAlgorithmSpecEcdsaSha256,
			})
			return err
		}
	}
	sealed, err := api.Encrypt(b.Context(), &kms.EncryptInput{KeyId: arn, Plaintext: make([]byte, 32)})
	if err != nil {
		b.Fatal(err)
	}
	return func(ctx context.Context) error {
		_, err := api.Decrypt(ctx, &kms.DecryptInput{KeyId: arn, CiphertextBlob: sealed.CiphertextBlob})
		return err
	}
}

func benchBackend(b *testing.B, class string, cfg Config) backends.Backend {
	if class == "resident" {
		return openResident(b, cfg)
	}
	loaded, err := config.LoadDefaultConfig(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	made, err := kms.NewFromConfig(loaded, func(o *kms.Options) { o.BaseEndpoint = &cfg.Endpoint }).CreateKey(b.Context(),
		&kms.CreateKeyInput{Description: aws.String("bench")})
	if err != nil {
		b.Fatal(err)
	}
	sealedConfig := SealedConfig{Config: cfg, Key: *made.KeyMetadata.Arn}
	if class == "sealed, cached" {
		sealedConfig.CacheFor = time.Hour
	}
	return openSealed(b, sealedConfig)
}

func median(d []time.Duration) time.Duration {
	slices.Sort(d)
	return d[len(d)/2]
}

// serveFake runs the fake as a process of its own and returns its URL.
func serveFake(tb testing.TB) string {
	tb.Helper()
	bin := filepath.Join(tb.TempDir(), "serve")
	if out, err := exec.Command("go", "build", "-o", bin, "./kmsfake/serve").CombinedOutput(); err != nil {
		tb.Fatalf("%v\n%s", err, out)
	}
	cmd := exec.Command(bin, "-latency", latency.String())
	out, err := cmd.StdoutPipe()
	if err != nil {
		tb.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait() // reports the signal
	})
	var url string
	if _, err := fmt.Fscanln(out, &url); err != nil || !strings.HasPrefix(url, "http://") {
		tb.Fatalf("the fake printed %q, %v", url, err)
	}
	setEnv(tb, kmsfake.DefaultCredentials)
	return url
}

// The fake as a program serves as it does in tests.
func TestFakeAsProgram(t *testing.T) {
	url := serveFake(t)
	b := openResident(t, Config{Name: "test", Endpoint: url, Timeout: 30 * time.Second, Host: "host-1"})
	backendtest.Verify(t, backendtest.Generate(t, b, "keyward-x"), [32]byte{1})
}
