package pkcs11

import (
	"fmt"
	"slices"
	"strings"
)

// URI names a token or an object in one (RFC 7512). Empty fields match anything.
type URI struct {
	Token        string // CK_TOKEN_INFO label
	Manufacturer string
	Model        string
	Serial       string
	ID           []byte // CKA_ID
	Object       string // CKA_LABEL
	Type         string // "private", "public", "cert", "secret-key" or "data"
}

// objectTypes are the values of the attribute type (RFC 7512, section 2.3).
var objectTypes = []string{"private", "public", "cert", "secret-key", "data"}

// scheme begins each URI (RFC 7512, section 2.3).
const scheme = "pkcs11:"

// ParseURI reads a PKCS#11 URI, strictly: an attribute that is unknown, repeated or empty is an
// error, and so is a query, which would bring a PIN or choose a module.
func ParseURI(s string) (URI, error) {
	rest, ok := strings.CutPrefix(s, scheme)
	if !ok {
		return URI{}, fmt.Errorf("key URI does not begin with %q", scheme)
	}
	// Errors don't quote values: a PIN may be among them.
	path, query, has := strings.Cut(rest, "?")
	if strings.Contains(rest, "pin-value") || strings.Contains(rest, "pin-source") {
		return URI{}, fmt.Errorf("key URI has a PIN, which belongs into the configuration")
	}
	if has {
		name, _, _ := strings.Cut(query, "=")
		return URI{}, fmt.Errorf("key URI: query attribute %q is not supported", name)
	}
	var u URI
	seen := map[string]bool{}
	for attr := range strings.SplitSeq(path, ";") {
		name, value, ok := strings.Cut(attr, "=")
		if !ok || seen[name] {
			return URI{}, fmt.Errorf("key URI: attribute %q has no value or comes twice", name)
		}
		seen[name] = true
		if err := u.set(name, value); err != nil {
			return URI{}, fmt.Errorf("key URI: attribute %q: %w", name, err)
		}
	}
	return u, nil
}

// set stores the percent-encoded value of an attribute.
func (u *URI) set(name, value string) error {
	v, err := unescape(value)
	if err != nil {
		return err
	}
	if name == "id" {
		u.ID = v
		return nil
	}
	// RFC 7512 wants UTF-8. Tokens have labels that are not, and what String wrote is read.
	switch name {
	case "token":
		u.Token = string(v)
	case "manufacturer":
		u.Manufacturer = string(v)
	case "model":
		u.Model = string(v)
	case "serial":
		u.Serial = string(v)
	case "object":
		u.Object = string(v)
	case "type":
		if !slices.Contains(objectTypes, string(v)) {
			return fmt.Errorf("%q is not one of %v", v, objectTypes)
		}
		u.Type = string(v)
	default:
		return fmt.Errorf("it is unknown")
	}
	return nil
}

// String gives the URI in one fixed form: attributes in the order of the fields, every byte
// of an id escaped, as RFC 7512 recommends, elsewhere only what must be.
func (u URI) String() string {
	var attrs []string
	add := func(name, value string) {
		if value != "" {
			attrs = append(attrs, name+"="+value)
		}
	}
	add("token", escape(u.Token))
	add("manufacturer", escape(u.Manufacturer))
	add("model", escape(u.Model))
	add("serial", escape(u.Serial))
	var id strings.Builder
	for _, c := range u.ID {
		fmt.Fprintf(&id, "%%%02X", c)
	}
	add("id", id.String())
	add("object", escape(u.Object))
	add("type", escape(u.Type))
	return scheme + strings.Join(attrs, ";")
}

// plain reports whether c stands for itself in a path attribute: unreserved (RFC 3986, 2.3) or
// pk11-res-avail or "&" (RFC 7512, 2.3).
func plain(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' ||
		strings.IndexByte("-._~"+":[]@!$'()*+,="+"&", c) >= 0
}

func escape(s string) string {
	var b strings.Builder
	for i := range len(s) {
		if plain(s[i]) {
			b.WriteByte(s[i])
		} else {
			fmt.Fprintf(&b, "%%%02X", s[i])
		}
	}
	return b.String()
}

// unescape decodes a value that is not empty.
func unescape(s string) ([]byte, error) {
	if s == "" {
		return nil, fmt.Errorf("it is empty")
	}
	var out []byte
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c == '%' {
			hi, lo := hexDigit(s, i+1), hexDigit(s, i+2)
			if hi < 0 || lo < 0 {
				return nil, fmt.Errorf("%% is not followed by two hex digits")
			}
			c = byte(hi<<4 | lo)
			i += 2
		} else if !plain(c) {
			return nil, fmt.Errorf("%q has to be percent-encoded", string(rune(c)))
		}
		out = append(out, c)
	}
	return out, nil
}

// hexDigit is the value of s[i], or -1.
func hexDigit(s string, i int) int {
	if i >= len(s) {
		return -1
	}
	switch c := s[i]; {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c >= 'A' && c <= 'F':
		return int(c-'A') + 10
	case c >= 'a' && c <= 'f':
		return int(c-'a') + 10
	}
	return -1
}
