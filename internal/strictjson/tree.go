package strictjson

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// Node is one value of a document that was read as a whole.
type Node struct {
	Kind    Kind
	Text    string // of a string, unescaped; of a number or boolean, as written
	Members []NamedNode
	Items   []Node
}

// NamedNode is one member of an object.
type NamedNode struct {
	Name string
	Node Node
}

// Member returns the value of that name, or nil.
func (n *Node) Member(name string) *Node {
	for i := range n.Members {
		if n.Members[i].Name == name {
			return &n.Members[i].Node
		}
	}
	return nil
}

// Limits bounds a document that is read as a whole, so that a hostile one costs little.
type Limits struct {
	Bytes   int
	Depth   int // values nest that deep
	Members int // of one object
}

// TreeError says why a document is refused, and where.
type TreeError struct {
	Path string // e.g. "callPolicies[1].constraints[0].refValue"; "" is the whole document
	Msg  string
}

func (e *TreeError) Error() string {
	if e.Path == "" {
		return e.Msg
	}
	return e.Path + ": " + e.Msg
}

// ReadTree reads exactly one document, in UTF-8, with no name twice in any object.
// The error is a *[TreeError].
func ReadTree(data []byte, limits Limits) (*Node, error) {
	if len(data) > limits.Bytes {
		return nil, &TreeError{"", fmt.Sprintf("longer than %d bytes", limits.Bytes)}
	}
	if !utf8.Valid(data) {
		return nil, &TreeError{"", "not JSON: not UTF-8"}
	}
	const anyDepth = 10_000 // where the nesting is too deep is said below
	v, err := Parse(data, anyDepth)
	if syntax, ok := err.(*SyntaxError); ok {
		return nil, &TreeError{"", fmt.Sprintf("not JSON: %v at byte %d", syntax, syntax.Offset)}
	}
	r := treeReader{limits: limits}
	node := r.read(v, 0)
	if r.err != nil {
		r.err.Path = strings.TrimPrefix(r.err.Path, ".")
		return nil, r.err
	}
	return &node, nil
}

// treeReader keeps the first error; with one it reads nothing more.
type treeReader struct {
	limits Limits
	err    *TreeError
}

func (r *treeReader) read(v Value, depth int) Node {
	n := Node{Kind: v.Kind()}
	if depth > r.limits.Depth {
		r.err = &TreeError{"", fmt.Sprintf("nested deeper than %d levels", r.limits.Depth)}
		return n
	}
	switch n.Kind {
	case Object:
		r.members(v, &n, depth)
	case Array:
		for i, element := range v.Elements() {
			n.Items = append(n.Items, r.read(element, depth+1))
			if r.err != nil {
				r.err.Path = fmt.Sprintf("[%d]%s", i, r.err.Path)
				break
			}
		}
	case Null:
	default:
		n.Text = v.Text()
	}
	return n
}

func (r *treeReader) members(v Value, n *Node, depth int) {
	seen := nameSet{}
	for name, value := range v.All() {
		if !seen.add(name) {
			r.err = &TreeError{"", fmt.Sprintf("key %q is given twice", Shorten(name))}
			return
		}
		if len(n.Members) == r.limits.Members {
			r.err = &TreeError{"", fmt.Sprintf("an object has more than %d keys", r.limits.Members)}
			return
		}
		n.Members = append(n.Members, NamedNode{name, r.read(value, depth+1)})
		if r.err != nil {
			r.err.Path = "." + Shorten(name) + r.err.Path
			return
		}
	}
}

// Shorten cuts input for an error to a length that a person reads.
func Shorten(text string) string {
	if len(text) > 40 {
		return fmt.Sprintf("%.40s...", text)
	}
	return text
}
