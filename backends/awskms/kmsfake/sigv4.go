package kmsfake

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
)

const maxSkew = 5 * time.Minute // as AWS has it

// authenticate checks a request's signature (AWS Signature Version 4).
func (s *Server) authenticate(r *http.Request, body []byte) error {
	creds := s.credentials()
	header := r.Header.Get("Authorization")
	if header == "" {
		return fail("MissingAuthenticationTokenException", "Missing Authentication Token")
	}
	fields, err := parseAuthorization(header)
	if err != nil {
		return err
	}
	scope := strings.Split(fields["Credential"], "/")
	if len(scope) != 5 || scope[3] != "kms" || scope[4] != "aws4_request" {
		return fail("IncompleteSignatureException", "Credential must have exactly 5 slash-delimited elements")
	}
	switch token := r.Header.Get("X-Amz-Security-Token"); {
	case scope[0] != creds.AccessKeyID, token != creds.SessionToken:
		return fail("UnrecognizedClientException", "The security token included in the request is invalid.")
	case scope[2] != s.region():
		return fail("InvalidSignatureException", "Credential should be scoped to a valid region. ")
	}
	if err := checkTime(r, scope[1]); err != nil {
		return err
	}
	signed := strings.Split(fields["SignedHeaders"], ";")
	for _, must := range []string{"host", "x-amz-date", "x-amz-target", "content-type"} {
		if !slices.Contains(signed, must) {
			return fail("InvalidSignatureException", "header %s is not signed", must)
		}
	}
	if creds.SessionToken != "" && !slices.Contains(signed, "x-amz-security-token") {
		return fail("InvalidSignatureException", "the session token is not signed")
	}
	want := sign(creds.SecretAccessKey, scope, r, signed, body)
	if !hmac.Equal([]byte(want), []byte(fields["Signature"])) {
		return fail("InvalidSignatureException", "The request signature we calculated does not match the signature you "+
			"provided. "+
			"Check your AWS Secret Access Key and signing method. Consult the service documentation for details.")
	}
	return nil
}

// parseAuthorization reads "AWS4-HMAC-SHA256 Credential=…, SignedHeaders=…, Signature=…".
func parseAuthorization(header string) (map[string]string, error) {
	rest, ok := strings.CutPrefix(header, "AWS4-HMAC-SHA256 ")
	if !ok {
		return nil, fail("IncompleteSignatureException", "Authorization header is not of AWS4-HMAC-SHA256")
	}
	fields := map[string]string{}
	for part := range strings.SplitSeq(rest, ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(part), "=")
		fields[name] = value
	}
	for _, name := range []string{"Credential", "SignedHeaders", "Signature"} {
		if fields[name] == "" {
			return nil, fail("IncompleteSignatureException", "Authorization header requires '%s' parameter", name)
		}
	}
	return fields, nil
}

// checkTime refuses requests that were not signed about now.
func checkTime(r *http.Request, day string) error {
	at, err := time.Parse("20060102T150405Z", r.Header.Get("X-Amz-Date"))
	if err != nil || at.Format("20060102") != day {
		return fail("IncompleteSignatureException", "Date must be in ISO-8601 'basic format'")
	}
	if skew := time.Since(at); skew.Abs() > maxSkew {
		return fail("InvalidSignatureException", "Signature expired: %s is now earlier than %s",
			at.Format("20060102T150405Z"), time.Now().UTC().Add(-maxSkew).Format("20060102T150405Z"))
	}
	return nil
}

// sign computes the signature, step by step as AWS describes it.
func sign(secret string, scope []string, r *http.Request, signed []string, body []byte) string {
	var canonical strings.Builder
	fmt.Fprintf(&canonical, "%s\n%s\n%s\n", r.Method, r.URL.EscapedPath(), r.URL.RawQuery)
	for _, name := range signed {
		value := strings.Join(r.Header.Values(name), ",")
		switch name {
		case "host":
			value = r.Host
		case "content-length":
			value = fmt.Sprint(r.ContentLength)
		}
		fmt.Fprintf(&canonical, "%s:%s\n", name, strings.Join(strings.Fields(value), " "))
	}
	fmt.Fprintf(&canonical, "\n%s\n%s", strings.Join(signed, ";"), hexSHA256(body))

	toSign := strings.Join([]string{
		"AWS4-HMAC-SHA256", r.Header.Get("X-Amz-Date"), strings.Join(scope[1:], "/"), hexSHA256([]byte(canonical.String())),
	}, "\n")
	key := []byte("AWS4" + secret)
	for _, part := range scope[1:] {
		key = mac(key, part)
	}
	return hex.EncodeToString(mac(key, toSign))
}

func mac(key []byte, data string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(data))
	return h.Sum(nil)
}

func hexSHA256(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}
