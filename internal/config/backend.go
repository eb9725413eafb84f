package config

import (
	"slices"
	"strings"
	"time"

	"github.com/keyward/keyward/internal/suggest"
)

// Backend is one place that keeps keys.
type Backend struct {
	Type     string
	Timeout  time.Duration // for one operation of the device
	Settings               // of its type: *PKCS11, …
}

// Settings are the keys of one type of backend.
type Settings interface {
	fields() []field
	// validate finds what no single key can be blamed for by its type; p is the backend's section.
	validate(d *document, p path) error
}

// backendTypes are the types of backend that there are; each has a file of its own here and in internal/command.
var backendTypes = []struct {
	name string
	new  func() Settings // with defaults
}{
	{"openpgp", newOpenPGP},
	{"awskms", newAWSKMS},
	{"azurekv", newAzureKV},
	{"gcpkms", newGCPKMS},
	{"pkcs11", newPKCS11},
	{"piv", func() Settings { return &PIV{} }},
	{"tpm", newTPM},
	{"transit", newTransit},
}

// BackendTypes are the names of all types of backend.
func BackendTypes() []string {
	var names []string
	for _, t := range backendTypes {
		names = append(names, t.name)
	}
	return names
}

// NewBackend is a backend of that type whose section says nothing else. The type must be a known one.
func NewBackend(typ string) *Backend {
	for _, t := range backendTypes {
		if t.name == typ {
			b := &Backend{Type: typ, Settings: t.new()}
			b.Timeout = b.defaultTimeout()
			return b
		}
	}
	panic("config: no backend type " + typ)
}

// TouchTimeout leaves time for two touches, of which a YubiKey waits for each 15 s: one of a request before this one.
const TouchTimeout = 35 * time.Second

// defaultTimeout is the timeout of a backend with those settings.
func (b *Backend) defaultTimeout() time.Duration {
	if s, ok := b.Settings.(interface{ touched() bool }); ok && s.touched() {
		return TouchTimeout
	}
	return 10 * time.Second
}

// PIN is where the backend's PIN comes from; nil if its type has none.
func (b *Backend) PIN() *PIN {
	if s, ok := b.Settings.(interface{ pin() *PIN }); ok {
		return s.pin()
	}
	return nil
}

func (b *Backend) fields() []field {
	own := []field{
		{key: "type", dst: &b.Type, one: BackendTypes(), doc: "what keeps the keys"},
		{key: "timeout", dst: &b.Timeout, doc: "for one operation of the device"},
	}
	return slices.Concat(own[:1], b.Settings.fields(), own[1:])
}

// backend reads the section of one backend. Its type says which keys there are, so it is read
// first, wherever it stands.
func (d *document) backend(v any, p path) (*Backend, error) {
	table, ok := v.(map[string]any)
	if !ok {
		return nil, d.errorf(p, "%q is a section: write %s", p[len(p)-1], p)
	}
	typ := field{key: "type", dst: new(string), one: BackendTypes()}
	given, ok := table[typ.key]
	if !ok {
		return nil, d.errorf(p, `backend %q has no type; add type = "pkcs11"%s`, p[1], suggest.DidYouMean("", typ.one))
	}
	if err := d.assign(given, p.in(typ.key), typ); err != nil {
		return nil, err
	}
	b := NewBackend(*typ.dst.(*string))
	err := d.section(table, p, b.fields())
	if _, given := table["timeout"]; !given {
		b.Timeout = b.defaultTimeout()
	}
	return b, err
}

func (d *document) validateBackend(p path, b *Backend) error {
	if b.Timeout == 0 {
		return d.errorf(p.in("timeout"), "timeout: must be more than 0")
	}
	return b.Settings.validate(d, p)
}

// PIN says where a device's PIN comes from; exactly one is set.
type PIN struct {
	File       string // a file
	Credential string // a systemd credential's name
	Env        string // an environment variable's name
	Prompt     bool   // keyward unlock asks the operator
}

func (pin *PIN) fields() []field {
	return []field{
		{key: "pin_file", dst: &pin.File, doc: "the PIN is in this file, which only the agent's user can read"},
		{key: "pin_credential", dst: &pin.Credential, doc: "the PIN is this systemd credential"},
		{key: "pin_env", dst: &pin.Env, doc: "the PIN is in this environment variable"},
		{key: "pin_prompt", dst: &pin.Prompt, doc: "the operator gives the PIN: keyward unlock"},
	}
}

// validate wants exactly one source, so that it is never in doubt which PIN is tried.
func (pin *PIN) validate(d *document, p path) error {
	switch given := set(pin.fields()); len(given) {
	case 1:
		return d.checkCredential(p.in("pin_credential"), pin.Credential)
	case 0:
		return d.errorf(p, "backend %q has no source for its PIN; add pin_file, pin_credential, pin_env or pin_prompt = true",
			p[1])
	default:
		return d.errorf(p.in(given[1]), "backend %q has two sources for its PIN, %s and %s; keep one", p[1], given[0],
			given[1])
	}
}

// validateNone wants no source, for a key that needs no PIN: one that is given would never be used.
func (pin *PIN) validateNone(d *document, p path) error {
	if given := set(pin.fields()); len(given) > 0 {
		return d.errorf(p.in(given[0]), "%s: backend %q needs no PIN, as its pin_policy is never; remove one of the two",
			given[0], p[1])
	}
	return nil
}

// checkCredential refuses what systemd takes for no credential's name: systemd.exec(5), LoadCredential=. Found when
// the PIN is needed, it would be found late.
func (d *document) checkCredential(p path, name string) error {
	if strings.ContainsAny(name, "/:") || name == "." || name == ".." {
		return d.errorf(p, "%s: %q is no credential's name: the one that the systemd unit's LoadCredential= gives it, not "+
			"a path", p[len(p)-1], name)
	}
	return nil
}

// set returns the keys of the fields that are not zero.
func set(fields []field) (keys []string) {
	for _, f := range fields {
		if !isZero(f.dst) {
			keys = append(keys, f.key)
		}
	}
	return keys
}
