package awskms

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"testing"

	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/backends/backendtest"
)

// What never reached KMS has signed nothing.
func TestNothingWasSent(t *testing.T) {
	fake := newFake(t)
	cfg := fake.config()
	cfg.Timeout = 500e6
	b := openResident(t, cfg)
	arn := backendtest.Generate(t, b, "keyward-x").(*key).arn
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	nowhere := cfg
	nowhere.Endpoint = "http://127.0.0.1:1" // refuses connections
	noTLS := cfg
	noTLS.Endpoint = "https" + cfg.Endpoint[len("http"):]
	for name, c := range map[string]struct {
		ctx context.Context
		cfg Config
	}{"not begun": {ctx, cfg}, "connection refused": {t.Context(), nowhere}, "no TLS there": {t.Context(), noTLS}} {
		k := &key{c: openResident(t, c.cfg).c, arn: arn}
		if _, err := k.SignDigest(c.ctx, [32]byte{1}); !errors.Is(err, backends.ErrNotSigned) {
			t.Errorf("%s: %v, want ErrNotSigned", name, err)
		}
	}
	if n := fake.Calls("Sign"); n > 1 { // Generate's own
		t.Errorf("%d calls of Sign", n)
	}
}

// Only AWS's own word, over TLS, counts as a refusal.
func TestRefusal(t *testing.T) {
	const own = "https://kms.eu-central-1.amazonaws.com/"
	for _, c := range []struct {
		name   string
		code   string
		status int
		url    string
		id     string
		want   bool
	}{
		{"denied", "AccessDeniedException", 400, own, "1", true},
		{"throttled", "ThrottlingException", 400, own, "1", true},
		{"FIPS in China", "DisabledException", 400, "https://kms-fips.cn-north-1.amazonaws.com.cn", "1", true},
		{"internal", "KMSInternalException", 500, own, "1", false},
		{"timed out", "RequestTimeout", 408, own, "1", false},
		{"no code", "UnknownError", 403, own, "1", false},
		{"not AWS's answer", "AccessDenied", 403, own, "", false},
		{"another endpoint", "AccessDeniedException", 400, "https://localhost:4566", "1", false},
		{"looks like it", "AccessDeniedException", 400, "https://kms.eu-central-1.amazonaws.com.example.org", "1", false},
		{"no TLS", "AccessDeniedException", 400, "http://kms.eu-central-1.amazonaws.com", "1", false},
	} {
		to, err := url.Parse(c.url)
		if err != nil {
			t.Fatal(err)
		}
		err = &awshttp.ResponseError{RequestID: c.id, ResponseError: &smithyhttp.ResponseError{
			Response: &smithyhttp.Response{Response: &http.Response{StatusCode: c.status, Request: &http.Request{URL: to}}},
			Err:      &smithy.GenericAPIError{Code: c.code},
		}}
		if got := refusal(err); got != c.want {
			t.Errorf("%s: refusal = %v, want %v", c.name, got, c.want)
		}
	}
	if refusal(errors.New("connection reset")) {
		t.Error("no answer is a refusal")
	}
}
