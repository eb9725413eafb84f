//go:build vault

package transit

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/backends/backendtest"
)

// realVault is a Vault that scripts/vault has built.
type realVault struct {
	Address, Token, Unseal string
}

// startVault starts a Vault with a transit engine, a transit key, a policy for it, and AppRole logins.
func startVault(t *testing.T) *realVault {
	t.Helper()
	cmd := exec.Command(os.Getenv("KEYWARD_VAULT"))
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatalf("%v: this test is run by scripts/vault", err)
	}
	t.Cleanup(func() { stdin.Close(); cmd.Wait() })
	v := new(realVault)
	if err := json.NewDecoder(stdout).Decode(v); err != nil {
		t.Fatal(err)
	}
	v.call(t, "POST", "sys/mounts/transit", `{"type": "transit"}`)
	v.call(t, "POST", "transit/keys/keyward", `{"type": "aes256-gcm96", "derived": true}`)
	v.call(t, "PUT", "sys/policies/acl/keyward", `{"policy": "path \"transit/keys/+\" { capabilities = [\"read\"] }\n`+
		`path \"transit/encrypt/+\" { capabilities = [\"update\"] }\npath \"transit/decrypt/+\" { capabilities = [\"update\"] }"}`)
	v.call(t, "POST", "sys/auth/approle", `{"type": "approle"}`)
	v.call(t, "POST", "auth/approle/role/keyward", `{"token_policies": "keyward", "token_ttl": "3s", "token_max_ttl": "9s"}`)
	return v
}

// call calls Vault with the root token and returns the answer's "data".
func (v *realVault) call(t *testing.T, method, path, body string) map[string]any {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, v.Address+"/v1/"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Vault-Token", v.Token)
	answer, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	content, _ := io.ReadAll(answer.Body)
	if answer.StatusCode >= 300 {
		t.Fatalf("%s %s: %s: %s", method, path, answer.Status, content)
	}
	var out struct{ Data map[string]any }
	if len(content) > 0 {
		if err := json.Unmarshal(content, &out); err != nil {
			t.Fatal(err)
		}
	}
	return out.Data
}

// config logs in by AppRole. Tokens live for 3 s, and 9 s at most.
func (v *realVault) config(t *testing.T) Config {
	t.Helper()
	role := v.call(t, "GET", "auth/approle/role/keyward/role-id", "")["role_id"].(string)
	secretID := v.call(t, "POST", "auth/approle/role/keyward/secret-id", "{}")["secret_id"].(string)
	return Config{
		Name: "vault", Address: v.Address, Key: "keyward", Timeout: 10 * time.Second,
		Auth: Auth{Method: "approle", Role: role, Secret: given(secretID)},
	}
}

func TestVaultSuite(t *testing.T) {
	cfg := startVault(t).config(t)
	backendtest.Run(t, backendtest.Options{}, func(t *testing.T) backends.Backend { return open(t, cfg) })
}

// Keys sign while their token is renewed, ends, and is revoked.
func TestVaultTokens(t *testing.T) {
	v := startVault(t)
	k := backendtest.Generate(t, open(t, v.config(t)), "keyward-x")
	for began := time.Now(); time.Since(began) < 12*time.Second; time.Sleep(200 * time.Millisecond) {
		backendtest.Verify(t, k, [32]byte{1})
	}
	v.call(t, "POST", "sys/leases/revoke-prefix/auth/approle/login", "{}")
	backendtest.Verify(t, k, [32]byte{1})
}

func TestVaultRewrap(t *testing.T) {
	v := startVault(t)
	b := open(t, v.config(t))
	k, left := backendtest.Generate(t, b, "keyward-x"), backendtest.Generate(t, b, "keyward-y")
	for i, want := range []bool{false, true, false} {
		if i == 1 {
			v.call(t, "POST", "transit/keys/keyward/rotate", "{}")
		}
		if done, err := b.Rewrap(t.Context(), k.URI()); done != want || err != nil {
			t.Errorf("Rewrap = %v, %v, want %v", done, err, want)
		}
		backendtest.Verify(t, k, [32]byte{1})
	}
	v.call(t, "POST", "transit/keys/keyward/config", `{"min_decryption_version": 2}`)
	backendtest.Verify(t, k, [32]byte{1})
	if _, err := left.SignDigest(t.Context(), [32]byte{1}); !errors.Is(err, backends.ErrRefused) ||
		!strings.Contains(err.Error(), "min_decryption_version") {
		t.Errorf("SignDigest below min_decryption_version = %v", err)
	}
}

// Errors of a real Vault have the classes that those of the fake have.
func TestVaultErrors(t *testing.T) {
	v := startVault(t)
	for name, body := range map[string]string{
		"plain": `{}`, "exportable": `{"derived": true, "exportable": true}`,
		"backup": `{"derived": true, "allow_plaintext_backup": true}`, "signs": `{"type": "ed25519"}`,
	} {
		v.call(t, "POST", "transit/keys/"+name, body)
		cfg := v.config(t)
		cfg.Key = name
		if _, err := open(t, cfg).Generate(t.Context(), backends.KeyAttributes{Label: "keyward-x"}); !errors.Is(err,
			ErrUnsafeKey) {
			t.Errorf("%s: Generate = %v, want ErrUnsafeKey", name, err)
		}
	}
	cfg := v.config(t)
	cfg.Key = "none"
	if _, err := open(t, cfg).Generate(t.Context(), backends.KeyAttributes{Label: "keyward-x"}); !errors.Is(err,
		backends.ErrKeyNotFound) {
		t.Errorf("no such key: %v, want ErrKeyNotFound", err)
	}
	cfg = v.config(t)
	cfg.Mount = "elsewhere"
	if _, err := open(t, cfg).Generate(t.Context(), backends.KeyAttributes{Label: "keyward-x"}); !errors.Is(err,
		backends.ErrRefused) {
		t.Errorf("no such mount: %v, want ErrRefused", err)
	}
	cfg = v.config(t)
	cfg.Auth.Secret = given("0e0e0e0e-wrong")
	if _, err := open(t, cfg).Generate(t.Context(), backends.KeyAttributes{Label: "keyward-x"}); !errors.Is(err,
		ErrLogin) || strings.Contains(err.Error(), "0e0e") {
		t.Errorf("a wrong secret ID: %v, want ErrLogin without it", err)
	}
	cfg = v.config(t)
	cfg.Timeout = 3 * time.Second
	cfg.Dir = filepath.Join(t.TempDir(), "keys")
	b := open(t, cfg)
	k, other := backendtest.Generate(t, b, "keyward-x"), backendtest.Generate(t, b, "keyward-y")
	exchange(t, cfg.Dir, k, other)
	if _, err := k.SignDigest(t.Context(), [32]byte{1}); !errors.Is(err, backends.ErrKeyDamaged) {
		t.Errorf("another session's ciphertext: %v, want ErrKeyDamaged", err)
	}
	v.call(t, "PUT", "sys/policies/acl/keyward", `{"policy": "path \"transit/keys/+\" { capabilities = [\"read\"] }"}`)
	if _, err := other.SignDigest(t.Context(), [32]byte{1}); !errors.Is(err, ErrDenied) ||
		!strings.Contains(err.Error(), "transit/decrypt/keyward") {
		t.Errorf("without the capability: %v, want ErrDenied and the path", err)
	}
	v.call(t, "PUT", "sys/seal", "{}")
	if _, err := other.SignDigest(t.Context(), [32]byte{1}); !errors.Is(err, ErrSealed) ||
		!errors.Is(err, backends.ErrNotSigned) {
		t.Errorf("a sealed Vault: %v, want ErrSealed and ErrNotSigned", err)
	}
	if st := b.Status(t.Context()); st.State != "unavailable" || !strings.Contains(st.Detail, "sealed") {
		t.Errorf("Status of a sealed Vault = %+v", st)
	}
}

// exchange puts what Vault made of the file key of k's session and that of other's into one another's files.
func exchange(t *testing.T, dir string, k, other backends.Key) {
	t.Helper()
	var files [2]string
	var lines [2][]string
	for i, key := range []backends.Key{k, other} {
		files[i] = filepath.Join(dir, strings.TrimPrefix(key.URI(), "sealed:signer=")+".key")
		data, err := os.ReadFile(files[i])
		if err != nil {
			t.Fatal(err)
		}
		lines[i] = strings.Split(string(data), "\n")
	}
	lines[0][6] = lines[1][6]
	if err := os.WriteFile(files[0], []byte(strings.Join(lines[0], "\n")), 0o600); err != nil {
		t.Fatal(err)
	}
}

// A login with the token of a service account, which Vault has an API server review.
func TestVaultKubernetes(t *testing.T) {
	v := startVault(t)
	api := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/apis/authentication.k8s.io/v1/tokenreviews" {
			http.NotFound(w, r)
			return
		}
		fmt.Fprint(w, `{"kind": "TokenReview", "apiVersion": "authentication.k8s.io/v1", "status": {"authenticated": true,
			"user": {"username": "system:serviceaccount:default:keyward", "uid": "u-1", "groups": ["system:serviceaccounts"]}}}`)
	}))
	defer api.Close()
	v.call(t, "POST", "sys/auth/kubernetes", `{"type": "kubernetes"}`)
	v.call(t, "POST", "auth/kubernetes/config", fmt.Sprintf(`{"kubernetes_host": %q, "kubernetes_ca_cert": %q, "disable_local_ca_jwt": true}`, api.URL,
		pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: api.Certificate().Raw})))
	v.call(t, "POST", "auth/kubernetes/role/keyward",
		`{"bound_service_account_names": "keyward", "bound_service_account_namespaces": "default", "token_policies": "keyward"}`)
	cfg := v.config(t)
	cfg.Auth = Auth{Method: "kubernetes", Role: "keyward", Secret: given(serviceAccountToken(t, "keyward"))}
	k := backendtest.Generate(t, open(t, cfg), "keyward-x")
	backendtest.Verify(t, k, [32]byte{1})
	cfg.Auth.Secret = given(serviceAccountToken(t, "another"))
	if _, err := open(t, cfg).Generate(t.Context(), backends.KeyAttributes{Label: "keyward-x"}); !errors.Is(err,
		ErrLogin) {
		t.Errorf("another service account: %v, want ErrLogin", err)
	}
}

// serviceAccountToken is a JWT as Kubernetes makes them, by a key of nobody's.
func serviceAccountToken(t *testing.T, account string) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	claims := fmt.Sprintf(`{"iss": "kubernetes/serviceaccount", "kubernetes.io/serviceaccount/namespace": "default", "kubernetes.io/serviceaccount/service-account.name": %q,
		"kubernetes.io/serviceaccount/service-account.uid": "u-1", "sub": "system:serviceaccount:default:%s"}`, account, account)
	b64 := base64.RawURLEncoding.EncodeToString
	signed := b64([]byte(`{"alg": "ES256", "typ": "JWT"}`)) + "." + b64([]byte(claims))
	digest := sha256.Sum256([]byte(signed))
	r, s, err := ecdsa.Sign(rand.Reader, key, digest[:])
	if err != nil {
		t.Fatal(err)
	}
	return signed + "." + b64(append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...))
}
