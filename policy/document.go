package policy

import (
	"errors"
	"fmt"

	"github.com/keyward/keyward/internal/strictjson"
)

// Bounds of a document, so that a hostile one costs little.
const (
	maxDepth           = 16   // a spec has 6 levels, a case 8
	maxMembers         = 64   // keys of one object; the largest has 14
	maxRegistryMembers = 8192 // a list of a registry's answers has a key for each
)

// SpecError is malformed input: where, and what is wrong with it.
type SpecError struct {
	Path string // e.g. "callPolicies[1].constraints[0].refValue"; "" is the whole document
	Msg  string
}

func (e *SpecError) Error() string {
	if e.Path == "" {
		return e.Msg
	}
	return e.Path + ": " + e.Msg
}

// parseJSON reads exactly one document of at most maxBytes, with at most maxMembers keys
// in an object. The error is a *[SpecError].
func parseJSON(data []byte, maxBytes, maxMembers int) (*strictjson.Node, error) {
	node, err := strictjson.ReadTree(data, strictjson.Limits{Bytes: maxBytes, Depth: maxDepth, Members: maxMembers})
	if refused := new(strictjson.TreeError); errors.As(err, &refused) {
		return nil, (*SpecError)(refused)
	}
	return node, err
}

// quoted shows input in an error, cut to a length that a person reads.
func quoted(text string) string { return fmt.Sprintf("%q", strictjson.Shorten(text)) }
