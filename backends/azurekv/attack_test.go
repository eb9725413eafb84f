package azurekv

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/backends/azurekv/kvfake"
	"github.com/keyward/keyward/backends/backendtest"
)

const listOp = "NewListKeyPropertiesPager"

// A page that fails or does not come in time is asked for again, with another pager: the library's
// is no good any more, and repeats its error.
func TestPageFails(t *testing.T) {
	for name, fault := range map[string]kvfake.Fault{
		"throttled": {Times: 2, Status: http.StatusTooManyRequests, Header: map[string]string{"Retry-After": "0"}},
		"slow":      {Times: 1, Delay: time.Minute},
		"cut":       {Times: 1, Cut: true},
		"garbled":   {Times: 1, Change: func([]byte) []byte { return []byte("<html>") }},
	} {
		for _, after := range []int{0, 2} { // pages
			b, s := start(t, vaultHost, Config{OpTimeout: 3 * time.Second})
			for range 5 { // three pages
				generate(t, b, "keyward-1")
			}
			at, err := position{}, error(nil)
			for range after {
				if at, err = b.nextPage(t.Context(), at); err != nil {
					t.Fatal(err)
				}
			}
			f := fault
			s.Fault(listOp, &f)
			if at, err = b.nextPage(t.Context(), at); err != nil {
				t.Errorf("%s after %d pages: %v", name, after, err)
			}
			if at.pages != after+1 || len(at.page.Value) != []int{2, 2, 1}[after] {
				t.Errorf("%s: page %d with %d keys", name, at.pages, len(at.page.Value))
			}
		}
	}
}

// The token goes to the vault and nowhere else, whatever the vault's answers say.
func TestPageElsewhere(t *testing.T) {
	b, s := start(t, vaultHost, Config{OpTimeout: 2 * time.Second})
	for range 4 {
		generate(t, b, "keyward-1")
	}
	s.Fault(listOp, &kvfake.Fault{Change: edit("nextLink", "https://evil.vault.azure.net/keys")})
	if _, err := b.Keys(t.Context(), ""); !errors.Is(err, errGarbled) {
		t.Errorf("error %v, want errGarbled", err)
	}
}

// Challenges that would have the token's request made elsewhere, or the library panic.
func TestChallenges(t *testing.T) {
	for _, challenge := range []string{
		`Bearer authorization="https://login", resource="https://vault.azure.net"`, // azkeys panics
		`Bearer authorization="https://login.microsoftonline.com/t", resource="https://evil.net"`,
		`Bearer`, `Basic realm="x"`, ` `,
	} {
		b, s := start(t, vaultHost, Config{OpTimeout: 300 * time.Millisecond})
		s.SetChallenge(challenge)
		if _, err := b.Generate(t.Context(), backends.KeyAttributes{Label: "keyward-1"}); err == nil {
			t.Errorf("a key was made after challenge %q", challenge)
		}
		if names := s.Names(); len(names) != 0 {
			t.Errorf("keys %v after challenge %q", names, challenge)
		}
	}
}

// change changes an answer.
func change(f func(answer map[string]any)) func([]byte) []byte {
	return func(body []byte) []byte {
		var answer map[string]any
		if err := json.Unmarshal(body, &answer); err != nil {
			panic(err)
		}
		f(answer)
		out, err := json.Marshal(answer)
		if err != nil {
			panic(err)
		}
		return out
	}
}

// editKey changes a member of the JWK in an answer.
func editKey(name string, value any) func(map[string]any) {
	return func(answer map[string]any) { answer["key"].(map[string]any)[name] = value }
}

func TestPublicKeyIsChecked(t *testing.T) {
	b64 := base64.RawURLEncoding.EncodeToString
	for name, test := range map[string]struct {
		change func(map[string]any)
		want   error
	}{
		"off the curve": {editKey("y", b64(make([]byte, 32))), errKey},
		"31 bytes":      {editKey("x", b64(make([]byte, 31))), errKey},
		"33 bytes":      {editKey("x", b64(make([]byte, 33))), errKey},
		"no coordinate": {editKey("x", nil), errKey},
		"P-256":         {editKey("crv", "P-256"), errKey},
		"software":      {editKey("kty", "EC"), errKey},
		"private":       {editKey("d", b64(make([]byte, 32))), errKey},
		"another key's": {editKey("kid", "https://"+vaultHost+"/keys/other/0123456789abcdef0123456789abcdef"),
			errGarbled},
		"another vault's": {editKey("kid", "https://evil.vault.azure.net/keys/other/0123456789abcdef0123456789abcdef"),
			errGarbled},
		"no name":            {editKey("kid", nil), errGarbled},
		"no key":             {func(a map[string]any) { delete(a, "key") }, errGarbled},
		"no attributes":      {func(a map[string]any) { delete(a, "attributes") }, errGarbled},
		"disabled":           {func(a map[string]any) { a["attributes"] = map[string]any{"enabled": false} }, errDisabled},
		"no JSON of a vault": {func(a map[string]any) { a["key"] = 5 }, backends.ErrUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			b, s := start(t, vaultHost, Config{OpTimeout: 400 * time.Millisecond})
			k := generate(t, b, "keyward-1")
			s.Fault("GetKey", &kvfake.Fault{Change: change(test.change)})
			if _, err := b.Key(t.Context(), k.URI()); !errors.Is(err, test.want) {
				t.Errorf("Key: %v, want %v", err, test.want)
			}
			s.Fault("DeleteKey", nil) // counts anew
			s.Fault("CreateKey", &kvfake.Fault{Change: change(test.change)})
			if _, err := b.Generate(t.Context(), backends.KeyAttributes{Label: "keyward-2"}); err == nil {
				t.Error("Generate succeeded")
			}
			if names := s.Names(); len(names) != 1 || s.Calls("DeleteKey") != 1 {
				t.Errorf("keys %v after %d deletions, want 1 and 1: what was made is undone", names, s.Calls("DeleteKey"))
			}
		})
	}
}

// Each refusal names the permission that is missing, as the vault or the Managed HSM calls it.
func TestPermissions(t *testing.T) {
	for _, host := range []string{vaultHost, hsmHost} {
		b, s := start(t, host, Config{})
		k := generate(t, b, "keyward-1")
		calls := map[string]func() error{
			"CreateKey": func() error {
				_, err := b.Generate(t.Context(), backends.KeyAttributes{Label: "keyward-2"})
				return err
			},
			"GetKey":    func() error { _, err := b.Key(t.Context(), k.URI()); return err },
			"Sign":      func() error { _, err := k.SignDigest(t.Context(), [32]byte{1}); return err },
			"DeleteKey": func() error { return b.Destroy(t.Context(), k.URI()) },
			listOp:      func() error { _, err := b.Keys(t.Context(), ""); return err },
		}
		want := map[string]string{
			"CreateKey": "vaults/keys/create/action", "GetKey": "vaults/keys/read", "Sign": "vaults/keys/sign/action",
			"DeleteKey": "vaults/keys/delete", listOp: "vaults/keys/read",
		}
		if host == hsmHost {
			want = map[string]string{
				"CreateKey": "managedHsm/keys/create", "GetKey": "managedHsm/keys/read/action",
				"Sign":      "managedHsm/keys/sign/action",
				"DeleteKey": "managedHsm/keys/delete", listOp: "managedHsm/keys/read/action",
			}
		}
		for method, call := range calls {
			s.Fault(method, &kvfake.Fault{Status: http.StatusForbidden, Code: "ForbiddenByRbac"})
			err := call()
			n := s.Calls(method)
			s.Fault(method, nil)
			if !errors.Is(err, backends.ErrRefused) || !strings.Contains(err.Error(), "Microsoft.KeyVault/"+want[method]+
				" is missing on https://"+host) {
				t.Errorf("%s: %v, want that %s is missing", method, err, want[method])
			}
			if n != 1 {
				t.Errorf("%s was called %d times, want once", method, n)
			}
		}
		backendtest.Verify(t, k, [32]byte{1})
	}
}

func TestStatusCostsNoCall(t *testing.T) {
	b, s := start(t, vaultHost, Config{})
	for range 3 {
		if st := b.Status(t.Context()); st.State != "ready" {
			t.Errorf("Status = %+v, want ready", st)
		}
	}
	for _, operation := range []string{"token", "CreateKey", "GetKey", "Sign", listOp} {
		if n := s.Calls(operation); n != 0 {
			t.Errorf("%d calls of %s", n, operation)
		}
	}
}

func TestListPages(t *testing.T) {
	b, s := start(t, vaultHost, Config{})
	for range 7 {
		generate(t, b, "keyward-1")
	}
	keys, err := b.Keys(t.Context(), "keyward-1")
	if err != nil || len(keys) != 7 {
		t.Errorf("%d keys, %v, want 7", len(keys), err)
	}
	if n := s.Calls(listOp); n != 4 {
		t.Errorf("%d pages, want 4", n)
	}
}

// A connection that hangs costs one try, not the signature.
func TestSlowOnce(t *testing.T) {
	b, s := start(t, vaultHost, Config{OpTimeout: 4 * time.Second})
	k := generate(t, b, "keyward-1")
	s.Fault("Sign", &kvfake.Fault{Times: 1, Delay: time.Minute})
	backendtest.Verify(t, k, [32]byte{1})
	if n := s.Calls("Sign"); n != 2 {
		t.Errorf("%d calls, want 2", n)
	}
}
