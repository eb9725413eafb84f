package config

import (
	"regexp"
	"slices"
	"time"
)

// TPM is a storage key in the machine's TPM, to which session keys are sealed; see package tpm.
type TPM struct {
	Device string
	Handle string // of the storage key
	Key    string // the storage key's name, in hex
	PCRs   string // numbers with commas between

	PIN     PIN           // none if the storage key has none
	PINHold time.Duration // 0: until lock
	KeyHold time.Duration // how long an opened session key stays in locked memory
}

func newTPM() Settings { return &TPM{Device: "/dev/tpmrm0"} }

func (c *TPM) fields() []field {
	return slices.Concat([]field{
		{key: "device", dst: &c.Device, doc: "the TPM's device node, or a TPM emulator's Unix socket"},
		{key: "handle", dst: &c.Handle, doc: "the persistent handle of the storage key; keyward tpm setup makes one"},
		{key: "key", dst: &c.Key, doc: "the storage key's name, by which it is known for certain"},
		{key: "pcrs", dst: &c.PCRs, doc: `new keys open only while these PCRs have the values of now, such as "7"; not given: any values`},
	}, c.PIN.fields(), []field{
		{key: "pin_hold", dst: &c.PINHold, doc: "how long the PIN stays in locked memory; 0: until keyward lock"},
		{key: "key_hold", dst: &c.KeyHold, doc: "how long an opened session key stays in locked memory; 0: while it signs"},
	})
}

// Forms of what names a storage key. The package tpm reads them more strictly.
var (
	tpmHandle = regexp.MustCompile(`^0x81[0-7][0-9a-f]{5}$`)
	tpmName   = regexp.MustCompile(`^000b[0-9a-f]{64}$`)
	tpmPCRs   = regexp.MustCompile(`^((1?[0-9]|2[0-3])(,|$))*$`)
)

func (c *TPM) validate(d *document, p path) error {
	switch {
	case c.Handle == "" || c.Key == "":
		return d.errorf(p, "backend %q names no storage key by handle and key; make one with: keyward tpm setup", p[1])
	case !tpmHandle.MatchString(c.Handle):
		return d.errorf(p.in("handle"), "handle: %q is no persistent handle of the owner, 0x81000000 to 0x817fffff; "+
			"keyward tpm status shows those in use", c.Handle)
	case !tpmName.MatchString(c.Key):
		return d.errorf(p.in("key"), "key: %q is no name of a TPM key, 000b and 64 hex digits; keyward tpm status shows "+
			"those that there are", c.Key)
	case !tpmPCRs.MatchString(c.PCRs):
		return d.errorf(p.in("pcrs"), `pcrs: %q: want numbers from 0 to 23, in ascending order with commas between, such as "7,14"`, c.PCRs)
	case c.PIN == (PIN{}):
		return nil
	}
	return c.PIN.validate(d, p)
}

func (c *TPM) pin() *PIN { return &c.PIN }
