package awskms

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/backends/awskms/kmsfake"
	"github.com/keyward/keyward/backends/backendtest"
)

// Credentials that are replaced where the chain finds them are used without a restart.
func TestCredentialsAreReplaced(t *testing.T) {
	fake := newFake(t)
	setEnv(t, kmsfake.Credentials{})
	file := filepath.Join(t.TempDir(), "credentials")
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", file)
	write := func(creds kmsfake.Credentials) {
		t.Helper()
		content := fmt.Sprintf("[agent]\naws_access_key_id = %s\naws_secret_access_key = %s\n", creds.AccessKeyID,
			creds.SecretAccessKey)
		if creds.SessionToken != "" {
			content += "aws_session_token = " + creds.SessionToken + "\n"
		}
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(kmsfake.DefaultCredentials)
	cfg := fake.config()
	cfg.Profile = "agent"
	k := backendtest.Generate(t, openResident(t, cfg), "keyward-x")

	next := kmsfake.Credentials{AccessKeyID: "ASIAIOSFODNN7EXAMPLE", SecretAccessKey: "another/secret",
		SessionToken: "a token"}
	fake.SetCredentials(next)
	for range 2 {
		before := fake.Calls("Sign")
		if _, err := k.SignDigest(t.Context(), [32]byte{1}); !errors.Is(err, ErrCredentials) {
			t.Errorf("SignDigest with credentials that AWS does not know = %v, want ErrCredentials", err)
		}
		if n := fake.Calls("Sign") - before; n != 1 {
			t.Errorf("%d calls with them, want 1", n)
		}
	}
	write(next)
	backendtest.Verify(t, k, [32]byte{1})
	next.SecretAccessKey = "a third one"
	fake.SetCredentials(next)
	if _, err := k.SignDigest(t.Context(), [32]byte{1}); !errors.Is(err, ErrCredentials) ||
		!strings.Contains(err.Error(), "secret access key") {
		t.Errorf("SignDigest with a wrong secret = %v, want ErrCredentials", err)
	}
}

func TestNoCredentials(t *testing.T) {
	fake := newFake(t)
	setEnv(t, kmsfake.Credentials{})
	b := openResident(t, fake.config())
	if _, err := b.Generate(t.Context(), backends.KeyAttributes{Label: "keyward-x"}); !errors.Is(err, ErrCredentials) {
		t.Errorf("Generate without credentials = %v, want ErrCredentials", err)
	}
	if st := b.Status(t.Context()); st.State != "unavailable" || !strings.Contains(st.Detail, "credentials") {
		t.Errorf("Status without credentials = %+v", st)
	}
	if n := fake.Calls(""); n != 0 {
		t.Errorf("%d calls without credentials", n)
	}
}

// Nobody listens: as when the network is down.
func TestNoNetwork(t *testing.T) {
	fake := newFake(t)
	cfg := fake.config()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cfg.Endpoint, cfg.Timeout = "http://"+l.Addr().String(), time.Second
	l.Close()
	b := openResident(t, cfg)
	uri := "awskms:arn:aws:kms:us-east-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
	if _, err := b.Key(t.Context(), uri); !errors.Is(err, backends.ErrUnavailable) ||
		errors.Is(err, backends.ErrKeyNotFound) {
		t.Errorf("Key = %v, want ErrUnavailable", err)
	}
	if st := b.Status(t.Context()); st.State != "unavailable" {
		t.Errorf("Status = %+v", st)
	}
}
