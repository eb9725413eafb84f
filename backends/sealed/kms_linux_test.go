package sealed_test

import (
	"net/http/httptest"
	"path/filepath"
	"testing"

	"github.com/keyward/keyward/backends/awskms"
	"github.com/keyward/keyward/backends/awskms/kmsfake"
	"github.com/keyward/keyward/backends/backendtest"
	"github.com/keyward/keyward/backends/sealed"
)

// With a real SDK as the Wrapper, whose buffers nobody wipes: what passes through them is a file
// key, and the key that signs is nowhere. The fake KMS is in this process and has not seen it either.
func TestNoKeyInMemoryWithKMS(t *testing.T) {
	fake := &kmsfake.Server{}
	server := httptest.NewServer(fake)
	defer server.Close()
	creds := kmsfake.DefaultCredentials
	for name, value := range map[string]string{
		"AWS_ACCESS_KEY_ID": creds.AccessKeyID, "AWS_SECRET_ACCESS_KEY": creds.SecretAccessKey, "AWS_SESSION_TOKEN": "",
		"AWS_PROFILE": "",
		"AWS_REGION":  "us-east-1", "AWS_CONFIG_FILE": "/dev/null", "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
	} {
		t.Setenv(name, value)
	}
	b, err := awskms.OpenSealed(t.Context(), awskms.SealedConfig{
		Config: awskms.Config{Name: "test", Endpoint: server.URL}, Key: fake.NewWrappingKey(),
		Dir: filepath.Join(t.TempDir(), "keys"),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	k := backendtest.Generate(t, b, "keyward-x")
	needle := sealed.MaskedScalar(t, b, k)
	for i := range 20 {
		backendtest.Verify(t, k, [32]byte{byte(i)})
	}
	if found := needle.Search(t); len(found) != 0 {
		t.Errorf("the key is in memory: %q", found)
	}
}
