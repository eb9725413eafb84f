package config

import (
	"bytes"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/keyward/keyward/policy"
)

// Template is a configuration file for b under the given name, in which every
// other key stands as a comment with its meaning and default.
// Values of b that are not given become comments too, with a word for what goes there.
func Template(name string, b *Backend) []byte {
	c := Defaults()
	var w bytes.Buffer
	w.WriteString("# Keyward's configuration. Lines that start with # show the defaults.\n" +
		"# Relative paths start from this file's directory.\n")
	section(&w, "agent", c.Agent.fields(), nil)
	section(&w, "session", c.Session.fields(), nil)
	section(&w, "watch", c.Watch.fields(), nil)
	section(&w, "limits", c.Limits.fields(), nil)
	section(&w, "metrics", c.Metrics.fields(), nil)
	section(&w, "audit", c.Audit.fields(), nil)
	section(&w, "confine", c.Confine.fields(), nil)
	section(&w, "approval", c.Approval.fields(), nil)
	w.Write(Section(name, b))
	w.WriteString("\n# The chains abstract (2741) and abstract-testnet (11124) are known. With URLs of nodes under rpc " +
		"the\n" +
		"# agent reads a chain; without, it works offline. Another chain has a section of its own, with its id.\n")
	var chain bytes.Buffer
	section(&chain, "chains.abstract", c.Chains["abstract"].fields(), nil)
	for line := range strings.Lines(strings.TrimPrefix(chain.String(), "\n")) {
		w.WriteString("# " + line)
	}
	return w.Bytes()
}

// Section is the section [backends.NAME] of b, to be added to a configuration file. Keys that b does not give
// are comments, as in [Template]. An invalid name is an error when the file is parsed.
func Section(name string, b *Backend) []byte {
	var w bytes.Buffer
	shown, defaults := *b, NewBackend(b.Type)
	if b.Timeout == defaults.Timeout { // not given; the settings may make it longer
		shown.Timeout = b.defaultTimeout()
		defaults.Timeout = shown.Timeout
	}
	section(&w, "backends."+name, shown.fields(), defaults.fields())
	return w.Bytes()
}

// section writes one section. Keys are commented out, except those that differ from defaults,
// if that is not nil.
func section(w *bytes.Buffer, name string, fields, defaults []field) {
	fmt.Fprintf(w, "\n[%s]\n", name)
	for i, f := range fields {
		line := f.key + " = " + literal(f.dst)
		if defaults == nil || f.key != "type" && literal(f.dst) == literal(defaults[i].dst) {
			line = "# " + line
		}
		fmt.Fprintf(w, "%-34s # %s\n", line, f.doc)
	}
}

// literal writes a field's value as TOML.
func literal(dst any) string {
	switch v := dst.(type) {
	case *string:
		return strconv.Quote(*v)
	case *time.Duration:
		return strconv.Quote(shortDuration(*v))
	case *fs.FileMode:
		return fmt.Sprintf(`"%04o"`, *v)
	case *Size:
		return strconv.Quote(v.String())
	case *policy.Address:
		return fmt.Sprintf(`"0x%x"`, v[:])
	case *[]string:
		return array(*v)
	case *map[string]string:
		return inlineTable(*v)
	case *bool:
		return strconv.FormatBool(*v)
	case *int:
		return strconv.Itoa(*v)
	case *uint64:
		return strconv.FormatUint(*v, 10)
	}
	panic(fmt.Sprintf("config: a field of type %T", dst))
}

func array(items []string) string {
	quoted := make([]string, len(items))
	for i, item := range items {
		quoted[i] = strconv.Quote(item)
	}
	return "[" + strings.Join(quoted, ", ") + "]"
}

func inlineTable(m map[string]string) string {
	if len(m) == 0 {
		return "{}"
	}
	var pairs []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		pairs = append(pairs, strconv.Quote(k)+" = "+strconv.Quote(m[k]))
	}
	return "{ " + strings.Join(pairs, ", ") + " }"
}

// shortDuration is d without the zero units that String gives: "24h", not "24h0m0s".
func shortDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
