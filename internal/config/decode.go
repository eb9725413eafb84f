package config

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"

	"github.com/keyward/keyward/internal/suggest"
	"github.com/keyward/keyward/policy"
)

// Parse reads a configuration; file is its name in errors, which are *[Error] all.
func Parse(data []byte, file string) (*Config, error) {
	// Two passes: the decoder finds what is no TOML and gives the values, the parser
	// gives the position of every key, for the errors in what is TOML but not ours.
	var tree map[string]any
	if err := toml.Unmarshal(data, &tree); err != nil {
		return nil, syntaxError(file, err)
	}
	d := &document{file: file, at: positions(data)}
	c := Defaults()
	if err := d.config(tree, c); err != nil {
		return nil, err
	}
	if err := d.validate(c); err != nil {
		return nil, err
	}
	return c, nil
}

func syntaxError(file string, err error) *Error {
	e := &Error{File: file, Line: 1, Column: 1, Msg: strings.TrimPrefix(err.Error(), "toml: ")}
	var de *toml.DecodeError
	if errors.As(err, &de) {
		e.Line, e.Column = de.Position()
	}
	return e
}

// A document is a file while it is being read: it says where each key stands.
type document struct {
	file string
	at   map[string]unstable.Position // by path, see [path.id]
}

// A path is a key with the sections that it is in, outermost first.
type path []string

func (p path) id() string { return strings.Join(p, "\x00") }

func (p path) in(key string) path { return append(slices.Clip(p), key) }

func (p path) String() string {
	if len(p) == 0 {
		return "the top level"
	}
	return "[" + strings.Join(p, ".") + "]"
}

// errorf makes an error at p, or at the innermost section around it that the file has.
func (d *document) errorf(p path, format string, args ...any) *Error {
	e := &Error{File: d.file, Line: 1, Column: 1, Msg: fmt.Sprintf(format, args...)}
	for ; len(p) > 0; p = p[:len(p)-1] {
		if pos, ok := d.at[p.id()]; ok {
			e.Line, e.Column = pos.Line, pos.Column
			break
		}
	}
	return e
}

// positions finds where each key of a well-formed document stands first.
func positions(data []byte) map[string]unstable.Position {
	at := map[string]unstable.Position{}
	var p unstable.Parser
	p.Reset(data)
	var section path
	items := map[string]int{} // of each list of sections, so far
	for p.NextExpression() {
		switch e := p.Expression(); e.Kind {
		case unstable.Table:
			section = mark(at, &p, nil, e.Key())
		case unstable.ArrayTable: // its items are numbered
			section = mark(at, &p, nil, e.Key())
			name := section.id()
			section = section.in(strconv.Itoa(items[name]))
			items[name]++
			for key := e.Key(); key.Next(); {
				at[section.id()] = p.Shape(key.Node().Raw).Start
			}
		case unstable.KeyValue:
			markValue(at, &p, section, e)
		}
	}
	return at
}

// mark notes the parts of a dotted key in section, and returns its path.
func mark(at map[string]unstable.Position, p *unstable.Parser, section path, key unstable.Iterator) path {
	for key.Next() {
		section = section.in(string(key.Node().Data))
		if _, ok := at[section.id()]; !ok {
			at[section.id()] = p.Shape(key.Node().Raw).Start
		}
	}
	return section
}

// markValue notes a key with its value, into inline tables.
func markValue(at map[string]unstable.Position, p *unstable.Parser, section path, kv *unstable.Node) {
	section = mark(at, p, section, kv.Key())
	if kv.Value().Kind != unstable.InlineTable {
		return
	}
	for inner := kv.Value().Children(); inner.Next(); {
		markValue(at, p, section, inner.Node())
	}
}

// config reads the top level.
func (d *document) config(tree map[string]any, c *Config) error {
	sections := []string{"agent", "session", "watch", "limits", "metrics", "audit", "confine", "approval", "backends",
		"chains", "rules"}
	for _, key := range d.order(tree, nil) {
		var err error
		switch p := (path{key}); key {
		case "agent":
			err = d.section(tree[key], p, c.Agent.fields())
		case "session":
			err = d.section(tree[key], p, c.Session.fields())
		case "watch":
			err = d.section(tree[key], p, c.Watch.fields())
		case "limits":
			err = d.section(tree[key], p, c.Limits.fields())
		case "metrics":
			err = d.section(tree[key], p, c.Metrics.fields())
		case "audit":
			err = d.audit(tree[key], p, &c.Audit)
		case "confine":
			err = d.section(tree[key], p, c.Confine.fields())
		case "approval":
			err = d.section(tree[key], p, c.Approval.fields())
		case "backends":
			err = d.named(tree[key], p, func(name string, v any) (err error) {
				c.Backends[name], err = d.backend(v, p.in(name))
				return err
			})
		case "chains":
			err = d.named(tree[key], p, func(name string, v any) error {
				if c.Chains[name] == nil {
					c.Chains[name] = defaultChain()
				}
				return d.section(v, p.in(name), c.Chains[name].fields())
			})
		case "rules":
			err = d.rules(tree[key], p, c)
		default:
			err = d.unknown(p, sections)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// audit reads the section of that name.
func (d *document) audit(v any, p path, a *Audit) error {
	if err := d.section(v, p, a.fields()); err != nil {
		return err
	}
	if a.SegmentSize < minSegment {
		return d.errorf(p.in("segment_size"), "segment_size: %v is too small, want at least %v", a.SegmentSize, minSegment)
	}
	return nil
}

// minSegment keeps a segment's first record, which may be large, from being a segment of its own.
const minSegment = Size(16 << 10)

// order returns the table's keys as they stand in the file, so that the first thing
// wrong is the one reported.
func (d *document) order(table map[string]any, p path) []string {
	keys := make([]string, 0, len(table))
	for k := range table {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b string) int {
		at, bt := d.at[p.in(a).id()], d.at[p.in(b).id()]
		return cmp.Or(cmp.Compare(at.Offset, bt.Offset), cmp.Compare(a, b))
	})
	return keys
}

func (d *document) unknown(p path, known []string) *Error {
	key := p[len(p)-1]
	return d.errorf(p, "unknown key %q in %s%s", key, p[:len(p)-1], suggest.DidYouMean(key, known))
}

// section reads one table of known keys.
func (d *document) section(v any, p path, fields []field) error {
	table, ok := v.(map[string]any)
	if !ok {
		return d.errorf(p, "%q is a section: write %s", p[len(p)-1], p)
	}
	for _, key := range d.order(table, p) {
		i := slices.IndexFunc(fields, func(f field) bool { return f.key == key })
		if i < 0 {
			return d.unknown(p.in(key), keysOf(fields))
		}
		if err := d.assign(table[key], p.in(key), fields[i]); err != nil {
			return err
		}
	}
	return nil
}

func keysOf(fields []field) []string {
	keys := make([]string, len(fields))
	for i, f := range fields {
		keys[i] = f.key
	}
	return keys
}

var validName = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,62}$`)

// CheckName refuses what can't be the name of a backend or a chain.
func CheckName(name string) error {
	if !validName.MatchString(name) {
		return fmt.Errorf("name %q: use lower-case letters, digits, - and _", name)
	}
	// A chain's name must not look like a chain id: commands take either.
	if _, err := strconv.ParseUint(name, 10, 64); err == nil {
		return fmt.Errorf("name %q: a number is no name", name)
	}
	return nil
}

// named reads a table of sections that the operator names.
func (d *document) named(v any, p path, read func(name string, v any) error) error {
	table, ok := v.(map[string]any)
	if !ok {
		return d.errorf(p, "%q holds sections: write [%s.NAME]", p[0], p[0])
	}
	for _, name := range d.order(table, p) {
		if err := CheckName(name); err != nil {
			return d.errorf(p.in(name), "%v", err)
		}
		if err := read(name, table[name]); err != nil {
			return err
		}
	}
	return nil
}

// assign stores v, as the decoder gives it, in f.dst.
func (d *document) assign(v any, p path, f field) error {
	var want string
	var err error
	if f.serial {
		v = serial(f.dst, v)
	}
	if text, ok := v.(string); ok && f.single {
		v = []any{text}
	}
	switch dst := f.dst.(type) {
	case *bool:
		want, err = setBool(dst, v)
	case *int:
		want, err = setInt(dst, v)
	case *uint64:
		want, err = setUint64(dst, v)
	case *string:
		want, err = setText(dst, v, "a string", func(s string) (string, error) { return s, oneOf(s, f.one) })
	case *time.Duration:
		want, err = setText(dst, v, `a duration such as "60s"`, parseDuration)
	case *fs.FileMode:
		want, err = setText(dst, v, `permissions such as "0660"`, parseMode)
	case *policy.Address:
		want, err = setText(dst, v, "an address", parseAddress)
	case *Size:
		want, err = setSize(dst, v)
	case *[]string:
		want, err = setStrings(dst, v)
	case *map[string]string:
		want, err = setMap(dst, v)
	}
	switch {
	case want != "":
		return d.errorf(p, "%s: want %s, not %s", f.key, want, typeName(v))
	case err != nil:
		return d.errorf(p, "%s: %v", f.key, err)
	}
	return nil
}

// oneOf refuses what is not in allowed, unless allowed is nil, and the empty string.
func oneOf(s string, allowed []string) error {
	switch {
	case s == "":
		return errors.New("must not be empty; leave the key out instead")
	case allowed != nil && !slices.Contains(allowed, s):
		return fmt.Errorf("unknown value %q%s", s, suggest.DidYouMean(s, allowed))
	}
	return nil
}

// typeName is what TOML calls the type of a decoded value.
func typeName(v any) string {
	switch v.(type) {
	case string:
		return "a string"
	case int64:
		return "an integer"
	case float64:
		return "a float"
	case bool:
		return "a boolean"
	case []any:
		return "an array"
	case map[string]any:
		return "a table"
	}
	return "a date or time"
}
