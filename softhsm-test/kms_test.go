package softhsmtest

import (
	"errors"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/crypto"
	"github.com/holiman/uint256"

	"github.com/keyward/keyward/backends/awskms/kmsfake"
	"github.com/keyward/keyward/internal/testbin"
	"github.com/keyward/keyward/socket/api"
	"github.com/keyward/keyward/socket/client"
)

// kmsAgent is an agent whose keys are in a fake KMS, over HTTP.
type kmsAgent struct {
	*Agent
	fake      *kmsfake.Server
	operation string // that a signature needs
	sealKey   string // ARN; class sealed
}

// newKMSAgent starts an agent with one backend of a class. Keys of ended sessions are destroyed at once.
func newKMSAgent(t *testing.T, class string) *kmsAgent {
	t.Helper()
	a := &kmsAgent{fake: &kmsfake.Server{}, operation: "Sign"}
	server := httptest.NewServer(a.fake)
	t.Cleanup(server.Close)
	creds := kmsfake.DefaultCredentials
	for name, value := range map[string]string{
		"AWS_ACCESS_KEY_ID": creds.AccessKeyID, "AWS_SECRET_ACCESS_KEY": creds.SecretAccessKey, "AWS_SESSION_TOKEN": "",
		"AWS_REGION": "us-east-1", "AWS_PROFILE": "", "AWS_CONFIG_FILE": "/dev/null",
		"AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
	} {
		t.Setenv(name, value)
	}
	conf := fmt.Sprintf("session.key_grace = \"0s\"\n[backends.kms]\ntype = \"awskms\"\nclass = %q\nendpoint = %q\n",
		class, server.URL)
	if class == "sealed" {
		a.operation, a.sealKey = "Decrypt", a.fake.NewWrappingKey()
		conf += fmt.Sprintf("key = %q\n", a.sealKey)
	} else {
		conf += "host = \"web-1\"\ndeletion_days = 7\n"
	}
	a.Agent = newConfiguredAgent(t, conf)
	return a
}

// newConfiguredAgent starts an agent with that configuration file.
func newConfiguredAgent(t *testing.T, conf string) *Agent {
	t.Helper()
	a := newAgent(t, testbin.Race, tempDir(t))
	if err := os.Mkdir(a.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(a.Dir, "config.toml"), []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	a.Start()
	t.Cleanup(a.finish)
	return a
}

// From socket to signature with keys in KMS: create, activate, sign, be denied, meet each fault,
// start again, destroy.
func TestKMS(t *testing.T) {
	for _, class := range []string{"resident", "sealed"} {
		t.Run(class, func(t *testing.T) {
			a := newKMSAgent(t, class)
			sess := a.ActiveSession(transferSpec(100), userAccount)
			if sess.Protection != class {
				t.Errorf("protection = %q, want %q", sess.Protection, class)
			}
			c := a.Client()
			a.signs(t, c, sess, 0)
			denied := transferTx(sess.ID, 1)
			denied["value"] = "2"
			calls := a.fake.Calls(a.operation)
			if _, err := c.SignTransaction(t.Context(), denied); reason(err) == "" || code(err) != api.CodeDenied {
				t.Errorf("a transfer of too much: %v, want a denial", err)
			}
			if a.fake.Calls(a.operation) != calls {
				t.Error("KMS was asked about a transaction that the policy denies")
			}
			a.meetFaults(t, c, sess)
			a.Stop()
			a.Start()
			a.signs(t, a.Client(), sess, 90)
			a.destroys(t, sess)
		})
	}
}

// meetFaults signs transactions that KMS makes trouble about. What an app sees is a reason and
// whether to try again. The same transaction signed again, after the trouble, costs nothing more.
func (a *kmsAgent) meetFaults(t *testing.T, c *client.Client, sess *api.Session) {
	t.Helper()
	faults := []struct {
		name      string
		fault     kmsfake.Fault
		times     int
		reason    string // "": it is signed
		retryable bool
	}{
		{"throttled", kmsfake.Fault{Code: "ThrottlingException"}, 2, "", false},
		{"cut after the request", kmsfake.Fault{Cut: true}, 1, "", false},
		{"access denied", kmsfake.Fault{Code: "AccessDeniedException"}, -1, "deviceRefused", false},
		{"expired credentials", kmsfake.Fault{Code: "ExpiredTokenException"}, -1, "deviceRefused", false},
		{"disabled", kmsfake.Fault{}, 0, "deviceRefused", false},
		{"not found", kmsfake.Fault{Code: "NotFoundException"}, -1, "keyNotFound", false},
	}
	for i, f := range faults {
		nonce := uint64(10 + i)
		if f.name == "disabled" {
			a.fake.SetState(a.kmsKey(sess), kmsfake.Disabled)
		} else {
			a.fake.Inject(a.operation, f.times, f.fault)
		}
		before := used(t, c, sess)
		if f.reason == "" {
			a.signs(t, c, sess, nonce)
		} else if _, err := c.SignTransaction(t.Context(), transferTx(sess.ID, nonce)); reason(err) != f.reason ||
			retryable(err) != f.retryable {
			t.Errorf("%s: %v with reason %q, retryable %v, want %q, %v", f.name, err, reason(err), retryable(err), f.reason,
				f.retryable)
		} else if strings.Contains(err.Error(), "arn:") {
			t.Errorf("%s: the app is told of KMS: %v", f.name, err)
		}
		a.fake.Clear()
		a.fake.SetState(a.kmsKey(sess), kmsfake.Enabled)
		a.signs(t, c, sess, nonce)
		if n := used(t, c, sess) - before; n != 1 {
			t.Errorf("%s: one transaction is charged %d times", f.name, n)
		}
	}
	if a.sealKey == "" {
		a.fake.Inject("Sign", 1, kmsfake.Fault{OtherKey: true})
		if signed, err := c.SignTransaction(t.Context(), transferTx(sess.ID, 50)); err == nil {
			t.Errorf("a signature by another key was released: %x", signed.Signature)
		}
		a.signs(t, c, sess, 50)
	}
}

// signs signs a transfer and checks the signature.
func (a *kmsAgent) signs(t *testing.T, c *client.Client, sess *api.Session, nonce uint64) {
	t.Helper()
	signed, err := c.SignTransaction(t.Context(), transferTx(sess.ID, nonce))
	if err != nil {
		t.Fatalf("nonce %d: %v\n%s", nonce, err, a.log)
	}
	sig := append([]byte{}, signed.Signature...)
	sig[64] -= 27
	pub, err := crypto.SigToPub(signed.Digest[:], sig)
	if err != nil || crypto.PubkeyToAddress(*pub) != common.Address(sess.Signer) {
		t.Errorf("nonce %d: the signature is not the signer's (%v)", nonce, err)
	}
}

// kmsKey is the KMS key that the session's signatures need.
func (a *kmsAgent) kmsKey(sess *api.Session) string {
	if a.sealKey != "" {
		return a.sealKey
	}
	return strings.TrimPrefix(sess.KeyURI, "awskms:")
}

// destroys revokes the session and waits for its key to be gone.
func (a *kmsAgent) destroys(t *testing.T, sess *api.Session) {
	t.Helper()
	file := filepath.Join(a.Dir, "state", "keys", "kms", strings.TrimPrefix(sess.KeyURI, "sealed:signer=")+".key")
	if _, err := os.Stat(file); (err == nil) != (a.sealKey != "") {
		t.Errorf("key file %s: %v", file, err)
	}
	a.Keyward("session", "revoke", sess.ID)
	waitFor(t, "the key to be destroyed", func() bool {
		if a.sealKey != "" {
			_, err := os.Stat(file)
			return errors.Is(err, os.ErrNotExist)
		}
		return a.fake.State(a.kmsKey(sess)) == kmsfake.PendingDeletion
	})
	if a.sealKey != "" {
		return
	}
	if left := time.Until(a.fake.Deletion(a.kmsKey(sess))).Round(time.Hour); left != 7*24*time.Hour {
		t.Errorf("AWS deletes the key in %v, want 7 days", left)
	}
}

// A key whose making got no answer is found by its tags and destroyed, since no session has it.
func TestKMSKeyWithoutSession(t *testing.T) {
	a := newKMSAgent(t, "resident")
	spec := filepath.Join(t.TempDir(), "spec.json")
	if err := os.WriteFile(spec, []byte(transferSpec(1)), 0o600); err != nil {
		t.Fatal(err)
	}
	a.fake.Inject("CreateKey", 1, kmsfake.Fault{Cut: true})
	if out, err := a.try("session", "create", "--spec", spec, "--account", userAccount, "--chain",
		"abstract-testnet"); err == nil {
		t.Fatalf("session create succeeded: %s", out)
	}
	ids := a.fake.KeyIDs()
	if len(ids) != 1 {
		t.Fatalf("%d keys, want the one that was made", len(ids))
	}
	waitFor(t, "the key to be destroyed", func() bool { return a.fake.State(ids[0]) == kmsfake.PendingDeletion })
}

func waitFor(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !done(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited a minute for %s", what)
		}
	}
}

// used is how much of the session's transfer limit is used, in wei, which is once for each transfer.
func used(t *testing.T, c *client.Client, sess *api.Session) int {
	t.Helper()
	s, err := c.Session(t.Context(), sess.ID)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range s.Limits {
		limit, n := uint256.Int(l.Limit), uint256.Int(l.Used)
		if limit.Eq(uint256.NewInt(100)) {
			return int(n.Uint64())
		}
	}
	t.Fatalf("no limit of transfers among %+v", s.Limits)
	return 0
}

func code(err error) int {
	var e *client.Error
	if errors.As(err, &e) {
		return e.Code
	}
	return 0
}

func reason(err error) string {
	var e *client.Error
	if errors.As(err, &e) {
		return e.Details().Reason
	}
	return ""
}

func retryable(err error) bool {
	var e *client.Error
	return errors.As(err, &e) && e.Details().Retryable
}
