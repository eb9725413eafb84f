package policy

import (
	"errors"
	"strconv"
	"strings"
	"unicode/utf8"
)

// JSONError is malformed input: where, and what is wrong with it.
type JSONError struct {
	Path string // e.g. "callPolicies[1].constraints[0].refValue"; "": the document as a whole
	Msg  string

	Err error // what Msg is the text of, for errors.Is; nil: nothing else
}

func (e *JSONError) Error() string {
	if e.Path == "" {
		return e.Msg
	}
	return e.Path + ": " + e.Msg
}

// Unwrap returns Err.
func (e *JSONError) Unwrap() error { return e.Err }

// WithinPath returns err as the error of what path names. If err is about a part of that, the part's path is
// joined to it.
func WithinPath(path string, err error) error {
	var part *JSONError
	if !errors.As(err, &part) {
		return &JSONError{Path: path, Msg: err.Error(), Err: err}
	}
	if part.Path != "" && path != "" && !strings.HasPrefix(part.Path, "[") {
		path += "."
	}
	return &JSONError{Path: path + part.Path, Msg: part.Msg, Err: part.Err}
}

// pathElement returns a name that a client made up in a form fit for an error's path.
func pathElement(name string) string {
	if name == "" || len(name) > shownLength || strings.Trim(name, pathLetters) != "" {
		return strconv.QuoteToASCII(Shorten(name))
	}
	return Shorten(name)
}

// Shorten cuts input for an error to a length that a person reads.
func Shorten(text string) string { return Cut(text, shownLength) }

// Cut cuts text to its first whole characters of at most that many bytes, and marks that it did.
func Cut(text string, most int) string {
	if len(text) <= most {
		return text
	}
	for most > 0 && !utf8.RuneStart(text[most]) {
		most--
	}
	return text[:most] + "…"
}

const (
	shownLength = 40 // bytes
	pathLetters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_"
)
