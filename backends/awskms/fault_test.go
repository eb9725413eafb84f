package awskms

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ethereum/go-ethereum/crypto"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/backends/awskms/kmsfake"
	"github.com/keyward/keyward/backends/backendtest"
	"github.com/keyward/keyward/backends/sealed"
)

// Faults of the call that a signature needs: kms:Sign of a resident key, kms:Decrypt of a
// sealed one. Each has its error, its number of calls, and its advice, and none stays.
func TestFaults(t *testing.T) {
	garble := func([]byte) []byte { return []byte(`{"Signature": "AAAA`) }
	tests := []struct {
		name    string
		fault   kmsfake.Fault
		times   int // -1: every call
		timeout time.Duration
		calls   int     // that are made; 0: any number
		wants   []error // nil: it succeeds
		never   []error
		says    string
	}{
		{name: "throttled twice", fault: kmsfake.Fault{Code: "ThrottlingException"}, times: 2, calls: 3},
		{name: "throttled by status alone", fault: kmsfake.Fault{Code: "TooManyRequestsException", Status: 429}, times: 1,
			calls: 2},
		{name: "throttled until the deadline", fault: kmsfake.Fault{Code: "ThrottlingException"}, times: -1,
			timeout: time.Second,
			wants:   []error{ErrThrottled, backends.ErrUnavailable}, says: "Service Quotas"},
		{name: "slow", fault: kmsfake.Fault{Delay: time.Hour}, times: -1, timeout: time.Second, calls: 1,
			wants: []error{backends.ErrUnavailable, context.DeadlineExceeded}, never: []error{ErrThrottled},
			says: "kms:OPERATION on ARN"},
		{name: "access denied", fault: kmsfake.Fault{Code: "AccessDeniedException"}, times: -1, calls: 1,
			wants: []error{ErrDenied}, never: []error{backends.ErrUnavailable, backends.ErrKeyNotFound},
			says: "allow kms:OPERATION on ARN in the IAM policy"},
		{name: "expired credentials", fault: kmsfake.Fault{Code: "ExpiredTokenException"}, times: -1, calls: 1,
			wants: []error{ErrCredentials}, never: []error{backends.ErrUnavailable}, says: "expired: renew them"},
		{name: "unknown credentials", fault: kmsfake.Fault{Code: "UnrecognizedClientException"}, times: -1, calls: 1,
			wants: []error{ErrCredentials}, says: "does not know the access key"},
		{name: "clock wrong", fault: kmsfake.Fault{Code: "InvalidSignatureException",
			Message: "Signature expired: 20200101T000000Z is now earlier than now"}, times: -1, calls: 1,
			wants: []error{ErrCredentials}, says: "clock"},
		{name: "connection cut after the request", fault: kmsfake.Fault{Cut: true}, times: 1, calls: 2},
		{name: "connection cut before anything was done", fault: kmsfake.Fault{CutHard: true}, times: 1, calls: 2},
		{name: "connection cut each time", fault: kmsfake.Fault{Cut: true}, times: -1, timeout: time.Second,
			wants: []error{backends.ErrUnavailable}, says: "no answer from http://"},
		{name: "garbled once", fault: kmsfake.Fault{Alter: garble}, times: 1, calls: 2},
		{name: "garbled each time", fault: kmsfake.Fault{Alter: garble}, times: -1, timeout: time.Second,
			wants: []error{backends.ErrUnavailable}, says: "http://"},
		{name: "internal error once", fault: kmsfake.Fault{Code: "KMSInternalException", Status: 500}, times: 1, calls: 2},
		{name: "unknown internal error", fault: kmsfake.Fault{Code: "SomethingNew", Status: 503}, times: -1,
			timeout: time.Second, wants: []error{backends.ErrUnavailable}},
		{name: "unknown refusal", fault: kmsfake.Fault{Code: "SomethingNew"}, times: -1, calls: 1, wants: []error{},
			never: []error{backends.ErrUnavailable}, says: "AWS refuses kms:OPERATION on ARN"},
		{name: "not found", fault: kmsfake.Fault{Code: "NotFoundException"}, times: -1, calls: 1,
			wants: []error{backends.ErrKeyNotFound}, says: "has no ARN"},
		{name: "wrong kind of key", fault: kmsfake.Fault{Code: "InvalidKeyUsageException"}, times: -1, calls: 1,
			wants: []error{}, says: "a kind that can't do kms:OPERATION"},
	}
	for _, class := range classes {
		for _, tt := range tests {
			t.Run(class.name+"/"+tt.name, func(t *testing.T) {
				fake := newFake(t)
				cfg := fake.config()
				k, arn := class.newKey(t, fake, cfg)
				ctx := t.Context()
				if tt.timeout != 0 {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, tt.timeout)
					defer cancel()
				}
				fake.Inject(class.operation, tt.times, tt.fault)
				before := fake.Calls(class.operation)
				_, err := k.SignDigest(ctx, [32]byte{1})
				if (err == nil) != (tt.wants == nil) {
					t.Fatalf("SignDigest = %v, want an error: %v", err, tt.wants != nil)
				}
				for _, want := range tt.wants {
					if !errors.Is(err, want) {
						t.Errorf("SignDigest = %v, want %v", err, want)
					}
				}
				for _, never := range tt.never {
					if errors.Is(err, never) {
						t.Errorf("SignDigest = %v, which is %v", err, never)
					}
				}
				says := strings.NewReplacer("OPERATION", class.operation, "ARN", arn).Replace(tt.says)
				if err != nil && !strings.Contains(err.Error(), says) {
					t.Errorf("SignDigest = %v, want %q in it", err, says)
				}
				if n := fake.Calls(class.operation) - before; tt.calls != 0 && n != tt.calls {
					t.Errorf("%d calls of %s, want %d", n, class.operation, tt.calls)
				}
				// The fake is a configured endpoint: what it says of a request that was sent is in doubt. To decrypt is no
				// signature.
				if err != nil && errors.Is(err, backends.ErrNotSigned) != (class.name == "sealed") {
					t.Errorf("SignDigest = %v, certain %v", err, errors.Is(err, backends.ErrNotSigned))
				}
				fake.Clear()
				backendtest.Verify(t, k, [32]byte{1})
			})
		}
	}
}

// classes are the ways to keep keys.
var classes = []struct {
	name      string
	operation string // that a signature needs
	newKey    func(t *testing.T, fake *fakeKMS, cfg Config) (k backends.Key, arn string)
}{
	{"resident", "Sign", func(t *testing.T, _ *fakeKMS, cfg Config) (backends.Key, string) {
		k := backendtest.Generate(t, openResident(t, cfg), "keyward-x")
		return k, k.(*key).arn
	}},
	{"sealed", "Decrypt", func(t *testing.T, fake *fakeKMS, cfg Config) (backends.Key, string) {
		arn := fake.NewWrappingKey()
		return backendtest.Generate(t, openSealed(t, SealedConfig{Config: cfg, Key: arn}), "keyward-x"), arn
	}},
}

// States of the key that a signature needs.
func TestKeyStates(t *testing.T) {
	for _, class := range classes {
		t.Run(class.name, func(t *testing.T) {
			fake := newFake(t)
			k, arn := class.newKey(t, fake, fake.config())
			fake.SetState(arn, kmsfake.Disabled)
			_, err := k.SignDigest(t.Context(), [32]byte{1})
			if !errors.Is(err, ErrDisabled) || errors.Is(err, backends.ErrKeyNotFound) ||
				!strings.Contains(err.Error(), "aws kms enable-key --key-id "+arn) {
				t.Errorf("SignDigest with a disabled key = %v, want ErrDisabled and what to do", err)
			}
			fake.SetState(arn, kmsfake.PendingDeletion)
			for _, denied := range []bool{false, true} { // without kms:DescribeKey the exception's text has to do
				if denied {
					fake.Inject("DescribeKey", -1, kmsfake.Fault{Code: "AccessDeniedException"})
				}
				_, err = k.SignDigest(t.Context(), [32]byte{1})
				if !errors.Is(err, backends.ErrKeyNotFound) || errors.Is(err, ErrDisabled) ||
					!strings.Contains(err.Error(), "cancel-key-deletion") {
					t.Errorf("SignDigest with a key pending deletion = %v, want ErrKeyNotFound and what to do", err)
				}
			}
			fake.SetState(arn, kmsfake.Enabled)
			backendtest.Verify(t, k, [32]byte{1})
		})
	}
}

// Answers that are well formed and wrong.
func TestWrongAnswers(t *testing.T) {
	replace := func(old, new string) func([]byte) []byte {
		return func(body []byte) []byte { return bytes.ReplaceAll(body, []byte(old), []byte(new)) }
	}
	fake := newFake(t)
	b := openResident(t, fake.config())
	k, other := backendtest.Generate(t, b, "keyward-x"), backendtest.Generate(t, b, "keyward-y")
	for name, fault := range map[string]kmsfake.Fault{
		"no DER": {Alter: func([]byte) []byte {
			return fmt.Appendf(nil, `{"KeyId":%q,"Signature":"AAAA"}`,
				k.(*key).arn)
		}},
		"no signature":        {Alter: func([]byte) []byte { return fmt.Appendf(nil, `{"KeyId":%q}`, k.(*key).arn) }},
		"another key, openly": {Alter: replace(k.(*key).arn, other.(*key).arn)},
		"an empty object":     {Alter: func([]byte) []byte { return []byte(`{}`) }},
	} {
		fake.Inject("Sign", 1, fault)
		if _, err := k.SignDigest(t.Context(), [32]byte{1}); !errors.Is(err, backends.ErrBadSignature) {
			t.Errorf("%s: SignDigest = %v, want ErrBadSignature", name, err)
		}
	}
	// What looks right in every way is found out by the check that every signature goes through.
	fake.Inject("Sign", 1, kmsfake.Fault{OtherKey: true})
	sig, err := k.SignDigest(t.Context(), [32]byte{1})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := backends.Recoverable(crypto.FromECDSAPub(k.Public()), [32]byte{1}, sig); !errors.Is(err,
		backends.ErrBadSignature) {
		t.Errorf("a signature of another key: %v, want ErrBadSignature", err)
	}
	for name, fault := range map[string]kmsfake.Fault{
		"P-256":      {Alter: replace("ECC_SECG_P256K1", "ECC_NIST_P256")},
		"other ARN":  {Alter: replace(k.(*key).arn, other.(*key).arn)},
		"no key":     {Alter: replace(`"PublicKey":"MFY`, `"PublicKey":"MFZ`)},
		"encryption": {Alter: replace("SIGN_VERIFY", "ENCRYPT_DECRYPT")},
	} {
		fake.Inject("GetPublicKey", 1, fault)
		if _, err := b.Key(t.Context(), k.URI()); err == nil {
			t.Errorf("%s: Key succeeded", name)
		}
	}
}

// Decrypt that gives another key, or what another key gave.
func TestWrongDecrypt(t *testing.T) {
	fake := newFake(t)
	b := openSealed(t, SealedConfig{Config: fake.config(), Key: fake.NewWrappingKey()})
	k := backendtest.Generate(t, b, "keyward-x")
	for name, alter := range map[string]func([]byte) []byte{
		"another KMS key": func(body []byte) []byte { return bytes.Replace(body, []byte(":key/"), []byte(":key/0"), 1) },
		"another plaintext": func(body []byte) []byte {
			i := bytes.Index(body, []byte(`"Plaintext":"`)) + len(`"Plaintext":"`)
			other := byte('A') // still base64: an answer that can't be read would be asked for again
			if body[i] == other {
				other = 'B'
			}
			body[i] = other
			return body
		},
	} {
		fake.Inject("Decrypt", 1, kmsfake.Fault{Alter: alter})
		if _, err := k.SignDigest(t.Context(), [32]byte{1}); err == nil {
			t.Errorf("%s: SignDigest succeeded", name)
		}
	}
	backendtest.Verify(t, k, [32]byte{1})
}

// KMS itself refuses what was sealed for something else.
func TestEncryptionContext(t *testing.T) {
	fake := newFake(t)
	c, err := newClient(t.Context(), fake.config())
	if err != nil {
		t.Fatal(err)
	}
	w := &wrapper{c: c, key: fake.NewWrappingKey()}
	bind := sealed.Binding{Label: "keyward-x", Signer: [20]byte{1}, Account: "0x36615Cf349d7F6344891B1e7CA7C72883F5dc049",
		ChainID: 2741}
	key := take(t, bytes.Repeat([]byte{7}, 32))
	wrapped, err := w.Wrap(t.Context(), key, bind)
	if err != nil {
		t.Fatal(err)
	}
	opened, err := w.Unwrap(t.Context(), wrapped, bind)
	if err != nil || !opened.Equal(key) {
		t.Fatalf("Unwrap = %v", err)
	}
	opened.Close()
	for _, change := range []func(*sealed.Binding, *sealed.Wrapped){
		func(b *sealed.Binding, _ *sealed.Wrapped) { b.Label = "keyward-y" },
		func(b *sealed.Binding, _ *sealed.Wrapped) { b.Label = "x" },
		func(b *sealed.Binding, _ *sealed.Wrapped) { b.Signer[19] ^= 1 },
		func(b *sealed.Binding, _ *sealed.Wrapped) { b.Account = "" },
		func(b *sealed.Binding, _ *sealed.Wrapped) { b.ChainID++ },
		func(_ *sealed.Binding, w *sealed.Wrapped) { w.Key = fake.NewWrappingKey() },
		func(_ *sealed.Binding, w *sealed.Wrapped) { w.Blob = append(bytes.Clone(w.Blob), 0) },
		func(_ *sealed.Binding, w *sealed.Wrapped) { w.Blob = w.Blob[:10] },
	} {
		other, altered := bind, wrapped
		change(&other, &altered)
		if _, err := w.Unwrap(t.Context(), altered, other); !errors.Is(err, sealed.ErrDamaged) {
			t.Errorf("Unwrap(%+v, %+v) = %v, want ErrDamaged", altered, other, err)
		}
	}
}

// Callers that are throttled repeat while there is time, and give up together when that has lasted: then each is
// one call.
func TestRetryBudget(t *testing.T) {
	fake := newFake(t)
	cfg := fake.config()
	cfg.Timeout = 500 * time.Millisecond
	k := backendtest.Generate(t, openResident(t, cfg), "keyward-x")
	fake.Inject("Sign", -1, kmsfake.Fault{Code: "ThrottlingException"})
	const callers = 100
	together := func() int {
		before := fake.Calls("Sign")
		var wg sync.WaitGroup
		for range callers {
			wg.Go(func() {
				if _, err := k.SignDigest(t.Context(), [32]byte{1}); !errors.Is(err, backends.ErrUnavailable) {
					t.Errorf("SignDigest = %v, want ErrUnavailable", err)
				}
			})
		}
		wg.Wait()
		return fake.Calls("Sign") - before
	}
	for began := time.Now(); time.Since(began) < 2*time.Second; { // longer than twice the timeout
		together()
	}
	if n := together(); n > callers {
		t.Errorf("%d calls for %d signatures in a long overload, want one for each at most", n, callers)
	}
	fake.Clear()
	backendtest.Verify(t, k, [32]byte{1})
}

// One call in five is throttled, and a KMS comes back after a second: no signature fails.
func TestShortTrouble(t *testing.T) {
	fake := newFake(t)
	k := backendtest.Generate(t, openResident(t, fake.config()), "keyward-x")
	all := func(what string, callers, times int) {
		t.Helper()
		var wg sync.WaitGroup
		for range callers {
			wg.Go(func() {
				for range times {
					if _, err := k.SignDigest(t.Context(), [32]byte{1}); err != nil {
						t.Errorf("%s: %v", what, err)
					}
				}
			})
		}
		wg.Wait()
	}
	for range 40 { // 200 tries, every fifth of them throttled
		fake.Inject("Sign", 1, kmsfake.Fault{Code: "ThrottlingException"})
		fake.Inject("Sign", 4, kmsfake.Fault{})
	}
	all("one in five throttled", 8, 20)
	fake.Clear()
	fake.Inject("Sign", -1, kmsfake.Fault{CutHard: true})
	back := time.AfterFunc(time.Second, fake.Clear)
	defer back.Stop()
	all("down for a second", 60, 1)
}
