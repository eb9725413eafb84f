package kmsfake

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// TestSignatureVector is AWS's own example "get-vanilla" of Signature Version 4.
func TestSignatureVector(t *testing.T) {
	r := httptest.NewRequest("GET", "http://example.amazonaws.com/", nil)
	r.Header.Set("X-Amz-Date", "20150830T123600Z")
	scope := []string{"AKIDEXAMPLE", "20150830", "us-east-1", "service", "aws4_request"}
	got := sign("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", scope, r, []string{"host", "x-amz-date"}, nil)
	if want := "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"; got != want {
		t.Errorf("signature = %s, want %s", got, want)
	}
}

// A request that was signed and then changed in any way is refused, and does nothing.
func TestSignaturesAreChecked(t *testing.T) {
	fake := &Server{}
	server := httptest.NewServer(fake)
	defer server.Close()
	tests := []struct {
		name   string
		change func(r *http.Request)
		want   string // exception; "": accepted
	}{
		{"as signed", func(*http.Request) {}, ""},
		{"no signature", func(r *http.Request) { r.Header.Del("Authorization") }, "MissingAuthenticationTokenException"},
		{"garbage", func(r *http.Request) { r.Header.Set("Authorization", "Basic eA==") }, "IncompleteSignatureException"},
		{"other body", func(r *http.Request) { r.Body = io.NopCloser(strings.NewReader(`{ }`)); r.ContentLength = 3 },
			"InvalidSignatureException"},
		{"other operation", func(r *http.Request) { r.Header.Set("X-Amz-Target", "TrentService.ListKeys") },
			"InvalidSignatureException"},
		{"other time", func(r *http.Request) {
			r.Header.Set("X-Amz-Date", time.Now().UTC().Add(time.Minute).Format("20060102T150405Z"))
		}, "InvalidSignatureException"},
		{"other access key", replaceInAuth(DefaultCredentials.AccessKeyID, "AKIAOTHER"), "UnrecognizedClientException"},
		{"other region", replaceInAuth("us-east-1", "us-west-2"), "InvalidSignatureException"},
		{"other service", replaceInAuth("/kms/", "/sts/"), "IncompleteSignatureException"},
		{"target not signed", replaceInAuth(";x-amz-target", ""), "InvalidSignatureException"},
		{"other signature", func(r *http.Request) {
			a := r.Header.Get("Authorization")
			r.Header.Set("Authorization", a[:len(a)-1]+map[bool]string{true: "1", false: "0"}[a[len(a)-1] == '0'])
		}, "InvalidSignatureException"},
		{"a token that is not expected", func(r *http.Request) { r.Header.Set("X-Amz-Security-Token", "x") },
			"UnrecognizedClientException"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := signedRequest(t, server.URL, time.Now())
			tt.change(r)
			expect(t, r, tt.want)
		})
	}
	t.Run("old", func(t *testing.T) {
		expect(t, signedRequest(t, server.URL, time.Now().Add(-time.Hour)), "InvalidSignatureException")
	})
	if n := len(fake.KeyIDs()); n != 1 {
		t.Errorf("%d keys were made, want 1, of the request as it was signed", n)
	}
}

func replaceInAuth(old, new string) func(*http.Request) {
	return func(r *http.Request) {
		r.Header.Set("Authorization", strings.Replace(r.Header.Get("Authorization"), old, new, 1))
	}
}

// signedRequest is a CreateKey that is right in every way.
func signedRequest(t *testing.T, url string, at time.Time) *http.Request {
	t.Helper()
	r, err := http.NewRequest("POST", url+"/", strings.NewReader(`{}`))
	if err != nil {
		t.Fatal(err)
	}
	stamp := at.UTC().Format("20060102T150405Z")
	r.Header.Set("Content-Type", "application/x-amz-json-1.1")
	r.Header.Set("X-Amz-Target", "TrentService.CreateKey")
	r.Header.Set("X-Amz-Date", stamp)
	scope := []string{DefaultCredentials.AccessKeyID, stamp[:8], "us-east-1", "kms", "aws4_request"}
	signed := []string{"content-type", "host", "x-amz-date", "x-amz-target"}
	r.Header.Set("Authorization", fmt.Sprintf("AWS4-HMAC-SHA256 Credential=%s, SignedHeaders=%s, Signature=%s",
		strings.Join(scope, "/"), strings.Join(signed, ";"),
		sign(DefaultCredentials.SecretAccessKey, scope, r, signed, []byte(`{}`))))
	return r
}

func expect(t *testing.T, r *http.Request, want string) {
	t.Helper()
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if want == "" && resp.StatusCode != http.StatusOK || want != "" &&
		!strings.Contains(string(body), fmt.Sprintf(`"__type":%q`, want)) {
		t.Errorf("answer %d %s, want %q", resp.StatusCode, body, want)
	}
}
