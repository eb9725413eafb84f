package policy

import (
	"bytes"
	"unicode/utf16"
	"unicode/utf8"
)

// simpleEscape is the character that a backslash and c stand for.
func simpleEscape(c byte) byte {
	switch c {
	case 'b':
		return '\b'
	case 'f':
		return '\f'
	case 'n':
		return '\n'
	case 'r':
		return '\r'
	case 't':
		return '\t'
	}
	return c // a quote, a slash or a backslash
}

// unescape returns the characters between the quotes of a valid string.
func unescape(inner []byte) []byte {
	out := make([]byte, 0, len(inner))
	for len(inner) > 0 {
		if inner[0] != '\\' {
			n := bytes.IndexByte(inner, '\\')
			if n < 0 {
				n = len(inner)
			}
			out, inner = append(out, inner[:n]...), inner[n:]
			continue
		}
		if inner[1] != 'u' {
			out = append(out, simpleEscape(inner[1]))
			inner = inner[2:]
			continue
		}
		r := codeUnit(inner)
		inner = inner[6:]
		if utf16.IsSurrogate(r) && len(inner) >= 6 && inner[0] == '\\' && inner[1] == 'u' {
			if pair := utf16.DecodeRune(r, codeUnit(inner)); pair != utf8.RuneError {
				r, inner = pair, inner[6:]
			}
		}
		out = utf8.AppendRune(out, r) // half of a pair becomes U+FFFD
	}
	return out
}

// codeUnit returns the UTF-16 code unit of the escape that text begins with.
func codeUnit(text []byte) (r rune) {
	for _, c := range text[2:6] {
		switch {
		case isDigit(c):
			c -= '0'
		case c >= 'a':
			c -= 'a' - 10
		default:
			c -= 'A' - 10
		}
		r = r<<4 | rune(c)
	}
	return r
}
