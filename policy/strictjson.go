package policy

import (
	"fmt"

	"github.com/keyward/keyward/internal/strictjson"
)

// Bounds of a document, so that a hostile one costs little.
const (
	maxDepth   = 16 // a spec has 6 levels, a case 8
	maxMembers = 64 // keys of one object; the largest has 14
	// A list of a registry's answers has a key for each.
	maxRegistryMembers = 8192
)

// SpecError is malformed input: where, e.g. "callPolicies[1].constraints[0].refValue", and what is wrong with it.
type SpecError = strictjson.Error

// parseJSON reads exactly one document of at most maxBytes, with at most maxMembers keys in an object.
func parseJSON(data []byte, maxBytes, maxMembers int) (*strictjson.Node, error) {
	return strictjson.ParseTree(data, strictjson.Bounds{Bytes: maxBytes, Depth: maxDepth, Members: maxMembers})
}

// bounded cuts input for an error to a length that a person reads.
func bounded(text string) string { return strictjson.Shorten(text) }

func quoted(text string) string { return fmt.Sprintf("%q", bounded(text)) }
