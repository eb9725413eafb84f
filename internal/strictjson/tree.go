package strictjson

import "fmt"

// Node is one value of a small document, with all that is in it.
type Node struct {
	Kind    Kind
	Text    string // of a string, unquoted; of a number or boolean, as written
	Members []Member
	Items   []Node
}

// Member is one member of an object.
type Member struct {
	Key   string
	Value Node
}

// Member returns the value at key, or nil.
func (n *Node) Member(key string) *Node {
	for i := range n.Members {
		if n.Members[i].Key == key {
			return &n.Members[i].Value
		}
	}
	return nil
}

// Bounds of a document that becomes a tree, so that a hostile one costs little.
type Bounds struct {
	Bytes   int
	Depth   int // of objects and arrays in each other
	Members int // of one object
}

// ParseTree reads exactly one document within bounds. No object in it has a key twice. Errors are *[Error].
func ParseTree(doc []byte, bounds Bounds) (*Node, error) {
	if len(doc) > bounds.Bytes {
		return nil, &Error{Msg: fmt.Sprintf("longer than %d bytes", bounds.Bytes)}
	}
	v, err := Parse(doc)
	if err != nil {
		return nil, err
	}
	t := tree{bounds}
	n, err := t.node(v, 0)
	return &n, err
}

type tree struct{ Bounds }

func (t *tree) node(v Value, depth int) (n Node, err error) {
	if depth > t.Depth {
		return n, &Error{Msg: fmt.Sprintf("nested deeper than %d levels", t.Depth)}
	}
	n.Kind = v.Kind()
	switch n.Kind {
	case KindObject:
		n.Members, err = t.members(v, depth)
	case KindArray:
		n.Items, err = Elements(v, func(item Value) (Node, error) { return t.node(item, depth+1) })
	case KindString:
		var text []byte
		text, err = v.Text()
		n.Text = string(text)
	case KindNumber, KindBool:
		n.Text = string(v)
	}
	return n, err
}

func (t *tree) members(v Value, depth int) ([]Member, error) {
	var list []Member
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
			return list, &Error{Msg: fmt.Sprintf("key %q is given twice", Shorten(key))}
		}
		if len(list) == t.Members {
			return list, &Error{Msg: fmt.Sprintf("an object has more than %d keys", t.Members)}
		}
		seen[key] = true
		value, err := t.node(member, depth+1)
		if err != nil {
			return list, Within(Shorten(key), err)
		}
		list = append(list, Member{key, value})
	}
}
