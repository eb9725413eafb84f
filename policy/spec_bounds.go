package policy

import "fmt"

// Bounds of a document, so that a hostile one costs little.
const (
	maxDepth   = 16 // a spec has 6 levels, a case 8
	maxMembers = 64 // keys of one object; the largest has 14
	// A list of a registry's answers has a key for each.
	maxRegistryMembers = 8192
)

// parseJSON reads exactly one document of at most maxBytes, with at most maxMembers keys in an object.
func parseJSON(data []byte, maxBytes, maxMembers int) (*jsonNode, error) {
	return parseTree(data, treeBounds{Bytes: maxBytes, Depth: maxDepth, Members: maxMembers})
}

func quoted(text string) string { return fmt.Sprintf("%q", Shorten(text)) }
