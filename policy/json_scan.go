package policy

import (
	"fmt"
	"unicode/utf8"
)

// jsonScanner holds a text to the grammar of RFC 8259. Its methods take the position of the
// first byte of something and return the position behind it.
type jsonScanner struct {
	data     []byte
	maxDepth int
}

// space returns the position of the next byte that is not white space.
func (s *jsonScanner) space(i int) int {
	for i < len(s.data) && isSpace(s.data[i]) {
		i++
	}
	return i
}

// isSpace reports whether c is white space (RFC 8259, section 2).
func isSpace(c byte) bool { return c == ' ' || c == '\n' || c == '\r' || c == '\t' }

// unexpected is the error of the byte at i, or of the end of the text, in the words of encoding/json. The place is
// how many bytes were read when the error was certain.
func (s *jsonScanner) unexpected(i int, where string) error {
	if i >= len(s.data) {
		return &JSONError{Msg: fmt.Sprintf("not JSON: unexpected end of JSON input at byte %d", len(s.data))}
	}
	r, _ := utf8.DecodeRune(s.data[i:])
	return &JSONError{Msg: fmt.Sprintf("not JSON: invalid character %q %s at byte %d", r, where, i+1)}
}

// value scans a value, in which arrays and objects nest s.maxDepth-depth levels at most.
func (s *jsonScanner) value(i, depth int) (int, error) {
	if i >= len(s.data) {
		return i, s.unexpected(i, "")
	}
	switch c := s.data[i]; {
	case c == '"':
		return s.string(i)
	case c == '{' || c == '[':
		if depth == s.maxDepth {
			return i, s.unexpected(i, "exceeded max depth")
		}
		if c == '{' {
			return s.object(i, depth+1)
		}
		return s.array(i, depth+1)
	case c == 't':
		return s.word(i, "true")
	case c == 'f':
		return s.word(i, "false")
	case c == 'n':
		return s.word(i, "null")
	case c == '-' || isDigit(c):
		return s.number(i)
	}
	return i, s.unexpected(i, "looking for beginning of value")
}

func (s *jsonScanner) array(i, depth int) (int, error) {
	i = s.space(i + 1)
	if s.at(i) == ']' {
		return i + 1, nil
	}
	for {
		var err error
		if i, err = s.value(i, depth); err != nil {
			return i, err
		}
		switch i = s.space(i); s.at(i) {
		case ',':
			i = s.space(i + 1)
		case ']':
			return i + 1, nil
		default:
			return i, s.unexpected(i, "after array element")
		}
	}
}

func (s *jsonScanner) object(i, depth int) (int, error) {
	i = s.space(i + 1)
	if s.at(i) == '}' {
		return i + 1, nil
	}
	for {
		var err error
		if _, i, err = s.member(i, depth); err != nil {
			return i, err
		}
		switch i = s.space(i); s.at(i) {
		case ',':
			i = s.space(i + 1)
		case '}':
			return i + 1, nil
		default:
			return i, s.unexpected(i, "after object key:value pair")
		}
	}
}

// member scans a name, a colon and a value. It also returns the value's position.
func (s *jsonScanner) member(i, depth int) (value, end int, err error) {
	if s.at(i) != '"' {
		return i, i, s.unexpected(i, "looking for beginning of object key string")
	}
	if i, err = s.string(i); err != nil {
		return i, i, err
	}
	if i = s.space(i); s.at(i) != ':' {
		return i, i, s.unexpected(i, "after object key")
	}
	value = s.space(i + 1)
	end, err = s.value(value, depth)
	return value, end, err
}

// at returns the byte at i, or 0 behind the end: JSON has no such byte outside strings.
func (s *jsonScanner) at(i int) byte {
	if i >= len(s.data) {
		return 0
	}
	return s.data[i]
}

func (s *jsonScanner) string(i int) (int, error) {
	data := s.data
	for i++; i < len(data); i++ {
		switch c := data[i]; {
		case c > '\\' || '"' < c && c < '\\': // most
		case c == '"':
			return i + 1, nil
		case c == '\\':
			var err error
			if i, err = s.escape(i + 1); err != nil {
				return i, err
			}
		case c < ' ':
			return i, s.unexpected(i, "in string literal")
		}
	}
	return i, s.unexpected(i, "")
}

// escape scans what follows a backslash, up to its last byte.
func (s *jsonScanner) escape(i int) (int, error) {
	switch s.at(i) {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return i, nil
	case 'u':
		for range 4 {
			if i++; !isHexDigit(s.at(i)) {
				return i, s.unexpected(i, `in \u hexadecimal character escape`)
			}
		}
		return i, nil
	}
	return i, s.unexpected(i, "in string escape code")
}

func (s *jsonScanner) word(i int, word string) (int, error) {
	for j := range len(word) {
		if s.at(i+j) != word[j] {
			return i, s.unexpected(i+j, fmt.Sprintf("in literal %s (expecting %q)", word, word[j]))
		}
	}
	return i + len(word), nil
}

func (s *jsonScanner) number(i int) (int, error) {
	if s.at(i) == '-' {
		i++
	}
	switch {
	case s.at(i) == '0':
		i++
	case isDigit(s.at(i)):
		i = s.digits(i)
	default:
		return i, s.unexpected(i, "in numeric literal")
	}
	if s.at(i) == '.' {
		if i++; !isDigit(s.at(i)) {
			return i, s.unexpected(i, "after decimal point in numeric literal")
		}
		i = s.digits(i)
	}
	if c := s.at(i); c == 'e' || c == 'E' {
		if i++; s.at(i) == '+' || s.at(i) == '-' {
			i++
		}
		if !isDigit(s.at(i)) {
			return i, s.unexpected(i, "in exponent of numeric literal")
		}
		i = s.digits(i)
	}
	return i, nil
}

func (s *jsonScanner) digits(i int) int {
	for isDigit(s.at(i)) {
		i++
	}
	return i
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

func isHexDigit(c byte) bool {
	return isDigit(c) || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F'
}
