package config

import (
	"regexp"
	"slices"
	"time"
)

// PIV is a key in the PIV application of a YubiKey, to which session keys are sealed; see package piv.
type PIV struct {
	Attestation string // path of the attestation of the key
	Roots       string // path of the certificates to believe it by; "": Yubico's
	Serial      int    // 0: as attested, like the rest
	Slot        string
	PINPolicy   string
	TouchPolicy string

	PIN     PIN           // none if PINPolicy is "never"
	PINHold time.Duration // 0: for one operation, or until lock if the operator gives it
	KeyHold time.Duration // how long an opened session key stays in locked memory
}

func (c *PIV) fields() []field {
	return slices.Concat([]field{
		{key: "attestation", dst: &c.Attestation, doc: "the card's attestation of the key, a PEM file"},
		{key: "attestation_roots", dst: &c.Roots, doc: "whom to believe an attestation, a PEM file; not given: Yubico"},
		{key: "serial", dst: &c.Serial, serial: true, doc: "the card's serial number, if it is to be checked against the " +
			"attestation"},
		{key: "slot", dst: &c.Slot, doc: "the key's slot likewise: 9d, or 82 to 95"},
		{key: "pin_policy", dst: &c.PINPolicy, one: []string{"never", "once", "always"},
			doc: "the key's PIN policy likewise; it can't be changed"},
		{key: "touch_policy", dst: &c.TouchPolicy, one: []string{"never", "always", "cached"},
			doc: "the key's touch policy likewise; it can't be changed"},
	}, c.PIN.fields(), []field{
		{key: "pin_hold", dst: &c.PINHold, doc: "how long the PIN stays in locked memory; 0: for one operation, or until " +
			"lock if the operator gives it"},
		{key: "key_hold", dst: &c.KeyHold, doc: "how long an opened session key stays in locked memory; 0: while it signs"},
	})
}

// pivSlots are those whose keys decrypt.
var pivSlots = regexp.MustCompile(`^(9d|8[2-9a-f]|9[0-5])$`)

func (c *PIV) validate(d *document, p path) error {
	switch {
	case c.Attestation == "":
		return d.errorf(p, `backend %q has no attestation; add attestation = "FILE"`, p[1])
	case c.Slot != "" && !pivSlots.MatchString(c.Slot):
		return d.errorf(p.in("slot"), "slot: unknown slot %q; want 9d, or 82 to 95", c.Slot)
	case c.PINPolicy == "never":
		return c.PIN.validateNone(d, p)
	case c.PIN == PIN{}:
		return d.errorf(p, `backend %q has no source for its PIN; add pin_file, pin_credential, pin_env or pin_prompt = true, or pin_policy = "never" if its key needs none`, p[1])
	}
	return c.PIN.validate(d, p)
}

func (c *PIV) pin() *PIN { return &c.PIN }

// touched is as the section says, which need not name the policy; what the attestation says counts in the end.
func (c *PIV) touched() bool { return c.TouchPolicy == "always" || c.TouchPolicy == "cached" }
