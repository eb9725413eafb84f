package awskms

import (
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/backends/awskms/kmsfake"
	"github.com/keyward/keyward/backends/backendtest"
)

func TestSuiteResident(t *testing.T) {
	cfg := target(t)
	n := 0
	backendtest.Run(t, backendtest.Options{}, func(t *testing.T) backends.Backend {
		n++
		cfg := cfg
		cfg.Host += strings.Repeat("x", n) // an empty backend each time
		return openResident(t, cfg)
	})
}

func TestSuiteSealed(t *testing.T) {
	cfg := target(t)
	key := wrappingKey(t, cfg)
	backendtest.Run(t, backendtest.Options{}, func(t *testing.T) backends.Backend {
		return openSealed(t, SealedConfig{Config: cfg, Key: key})
	})
}

func TestSuiteSealedCached(t *testing.T) {
	cfg := target(t)
	key := wrappingKey(t, cfg)
	backendtest.Run(t, backendtest.Options{}, func(t *testing.T) backends.Backend {
		return openSealed(t, SealedConfig{Config: cfg, Key: key, CacheFor: time.Hour})
	})
}

// The suite runs against any endpoint that the environment names: here a fake that only its
// address is known of, as an emulator's would be.
func TestSuiteAtEndpoint(t *testing.T) {
	if os.Getenv(endpointVariable) != "" {
		return // this is the run below, or one by hand
	}
	fake := &kmsfake.Server{}
	server := httptest.NewServer(fake)
	defer server.Close()
	cmd := exec.Command(os.Args[0], "-test.run", "^TestSuite", "-test.v")
	cmd.Env = append(os.Environ(), endpointVariable+"="+server.URL)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, test := range []string{"--- PASS: TestSuiteResident/SignParallel", "--- PASS: TestSuiteSealed/SignParallel"} {
		if !strings.Contains(string(out), test) {
			t.Errorf("the output lacks %q:\n%s", test, out)
		}
	}
	if fake.Calls("Sign") < 100 || fake.Calls("Decrypt") < 100 {
		t.Errorf("the endpoint saw %d and %d calls", fake.Calls("Sign"), fake.Calls("Decrypt"))
	}
}
