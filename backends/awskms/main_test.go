package awskms

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/kms"

	"github.com/keyward/keyward/backends/awskms/kmsfake"
	"github.com/keyward/keyward/backends/sealed"
)

// endpointVariable names a KMS for the suite to run against, instead of the fake.
const endpointVariable = "KEYWARD_TEST_AWS_ENDPOINT"

// fakeKMS is a fake that is being served.
type fakeKMS struct {
	*kmsfake.Server
	url string
}

// newFake serves a fake, with the environment of a process that may use it.
func newFake(t testing.TB) *fakeKMS {
	t.Helper()
	f := &fakeKMS{Server: &kmsfake.Server{}}
	server := httptest.NewServer(f.Server)
	t.Cleanup(server.Close)
	f.url = server.URL
	setEnv(t, kmsfake.DefaultCredentials)
	return f
}

// setEnv sets what the SDK's chain looks at first, and hides the rest of it.
func setEnv(t testing.TB, creds kmsfake.Credentials) {
	t.Helper()
	none := filepath.Join(t.TempDir(), "none")
	for name, value := range map[string]string{
		"AWS_ACCESS_KEY_ID": creds.AccessKeyID, "AWS_SECRET_ACCESS_KEY": creds.SecretAccessKey,
		"AWS_SESSION_TOKEN": creds.SessionToken,
		"AWS_REGION":        "us-east-1", "AWS_PROFILE": "", "AWS_EC2_METADATA_DISABLED": "true",
		"AWS_CONFIG_FILE": none, "AWS_SHARED_CREDENTIALS_FILE": none,
	} {
		t.Setenv(name, value)
	}
}

func (f *fakeKMS) config() Config {
	return Config{Name: "test", Endpoint: f.url, Timeout: 30 * time.Second, Host: "host-1"}
}

func openResident(t testing.TB, cfg Config) *Backend {
	t.Helper()
	b, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

func openSealed(t testing.TB, cfg SealedConfig) *sealed.Backend {
	t.Helper()
	if cfg.Dir == "" {
		cfg.Dir = filepath.Join(t.TempDir(), "keys")
	}
	b, err := OpenSealed(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

// target is the KMS that the suite runs against: the fake, or the one that the environment names.
func target(t *testing.T) Config {
	t.Helper()
	url := os.Getenv(endpointVariable)
	if url == "" {
		return newFake(t).config()
	}
	if os.Getenv("AWS_ACCESS_KEY_ID") == "" {
		setEnv(t, kmsfake.DefaultCredentials) // emulators take any
	}
	// Keys of other tests, and of runs before, are another host's.
	var id [8]byte
	rand.Read(id[:])
	return Config{Name: "test", Endpoint: url, Timeout: 30 * time.Second, Host: fmt.Sprintf("test-%x", id)}
}

// wrappingKey makes a KMS key to seal with, at any KMS, and returns its ARN.
func wrappingKey(t *testing.T, cfg Config) string {
	t.Helper()
	loaded, err := config.LoadDefaultConfig(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	api := kms.NewFromConfig(loaded, func(o *kms.Options) { o.BaseEndpoint = &cfg.Endpoint })
	out, err := api.CreateKey(t.Context(), &kms.CreateKeyInput{Description: aws.String("test")})
	if err != nil {
		t.Fatal(err)
	}
	return *out.KeyMetadata.Arn
}
