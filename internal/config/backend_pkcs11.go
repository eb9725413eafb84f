package config

import "slices"

// PKCS11 is a token of a PKCS#11 module; see package pkcs11.
type PKCS11 struct {
	Module string // path of the library
	Token  string // the token's label
	Serial string // the token's serial number
	Slot   string // the slot's description; "*": any
	PIN    PIN

	Sessions int               // p11 sessions to sign with; 0: as many as the backend finds good
	Env      map[string]string // set in the environment before the module is loaded

	Process string // where the module is loaded: OwnProcess or AgentProcess

	Class string // "resident" or "wrapped"
	// Of class wrapped.
	KEK     string // label of the key-encryption key
	Objects int    // unwrapped keys that the token has at a time; 0: as many as the backend finds good
}

// Values of PKCS11.Process.
const (
	OwnProcess   = "own"
	AgentProcess = "agent"
)

func newPKCS11() Settings { return &PKCS11{Process: OwnProcess, Class: "resident"} }

func (c *PKCS11) fields() []field {
	return slices.Concat([]field{
		{key: "module", dst: &c.Module, doc: "the vendor's PKCS#11 library"},
		{key: "token", dst: &c.Token, doc: "the token's label; slot numbers move, so they are not used"},
		{key: "serial", dst: &c.Serial, doc: "the token's serial number, instead of its label or beside it"},
		{key: "slot", dst: &c.Slot, doc: `the description of the token's slot, for a token without label and serial; "*": the module's only token`},
	}, c.PIN.fields(), []field{
		{key: "sessions", dst: &c.Sessions, doc: "p11 sessions to sign with; 0 leaves it to the agent"},
		{key: "env", dst: &c.Env, doc: "environment variables for the PKCS#11 library"},
		{key: "process", dst: &c.Process, one: []string{OwnProcess, AgentProcess},
			doc: "where the library runs: in a process of its own, which may crash or hang alone, or in the agent's"},
		{key: "class", dst: &c.Class, one: []string{"resident", "wrapped"},
			doc: "resident: keys are objects in the token; wrapped: keys in files, encrypted by a key in the token"},
		{key: "kek", dst: &c.KEK, doc: "wrapped: label of the key-encryption key; keyward pkcs11 wrap-key makes one"},
		{key: "objects", dst: &c.Objects, doc: "wrapped: unwrapped keys that the token has at a time, less than it has " +
			"room for; 0 leaves it to the agent"},
	})
}

func (c *PKCS11) validate(d *document, p path) error {
	switch {
	case c.Module == "":
		return d.errorf(p, `backend %q has no module; add module = "/path/of/the/vendors/pkcs11.so", or if you want no such backend remove %s`, p[1], p)
	case c.Token == "" && c.Serial == "" && c.Slot == "":
		return d.errorf(p, "backend %q names no token; add token = (its label) or serial =", p[1])
	case c.Class == "wrapped" && c.KEK == "":
		return d.errorf(p, `backend %q wraps with no key; add kek = (the label of a key-encryption key); keyward pkcs11 wrap-key makes one`, p[1])
	case c.Class == "resident" && (c.KEK != "" || c.Objects != 0):
		return d.errorf(p, `backend %q: kek and objects are for class = "wrapped"`, p[1])
	}
	return c.PIN.validate(d, p)
}

func (c *PKCS11) pin() *PIN { return &c.PIN }
