package policy

import "fmt"

// jsonNode is one value of a small document, with all that is in it.
type jsonNode struct {
	Kind    JSONKind
	Text    string // of a string, unquoted; of a number or boolean, as written
	Members []jsonMember
	Items   []jsonNode
}

// jsonMember is one member of an object.
type jsonMember struct {
	Key   string
	Value jsonNode
}

// Member returns the value at key, or nil.
func (n *jsonNode) Member(key string) *jsonNode {
	for i := range n.Members {
		if n.Members[i].Key == key {
			return &n.Members[i].Value
		}
	}
	return nil
}

// treeBounds of a document that becomes a tree, so that a hostile one costs little.
type treeBounds struct {
	Bytes   int
	Depth   int // of objects and arrays in each other
	Members int // of one object
}

// parseTree reads exactly one document within bounds. No object in it has a key twice. Errors are *[JSONError].
func parseTree(doc []byte, bounds treeBounds) (*jsonNode, error) {
	if len(doc) > bounds.Bytes {
		return nil, &JSONError{Msg: fmt.Sprintf("longer than %d bytes", bounds.Bytes)}
	}
	v, err := ParseJSON(doc)
	if err != nil {
		return nil, err
	}
	t := treeReader{bounds}
	n, err := t.node(v, 0)
	return &n, err
}

type treeReader struct{ treeBounds }

func (t *treeReader) node(v JSONValue, depth int) (n jsonNode, err error) {
	if depth > t.Depth {
		return n, &JSONError{Msg: fmt.Sprintf("nested deeper than %d levels", t.Depth)}
	}
	n.Kind = v.Kind()
	switch n.Kind {
	case KindObject:
		n.Members, err = t.members(v, depth)
	case KindArray:
		n.Items, err = ReadElements(v, func(item JSONValue) (jsonNode, error) { return t.node(item, depth+1) })
	case KindString:
		var text []byte
		text, err = v.Text()
		n.Text = string(text)
	case KindNumber, KindBool:
		n.Text = string(v)
	}
	return n, err
}

func (t *treeReader) members(v JSONValue, depth int) ([]jsonMember, error) {
	var list []jsonMember
	seen := make(map[string]bool)
	inside := v.Inside()
	for {
		name, ok := inside.Next()
		if !ok {
			return list, nil
		}
		text, err := name.Text()
		if err != nil {
			return list, err
		}
		key := string(text)
		member, _ := inside.Next()
		if seen[key] {
			return list, &JSONError{Msg: fmt.Sprintf("key %q is given twice", Shorten(key))}
		}
		if len(list) == t.Members {
			return list, &JSONError{Msg: fmt.Sprintf("an object has more than %d keys", t.Members)}
		}
		seen[key] = true
		value, err := t.node(member, depth+1)
		if err != nil {
			return list, WithinPath(Shorten(key), err)
		}
		list = append(list, jsonMember{key, value})
	}
}
