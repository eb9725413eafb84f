package config

import (
	"slices"
	"time"
)

// OpenPGP is the OpenPGP application of a YubiKey or another card; see package openpgp.
type OpenPGP struct {
	Serial    string   // as printed on the YubiKey, or shown by gpg --card-status
	Slots     []string // "sig" and "aut"; nil: both
	Touch     string   // policy for new keys; "": as the card has it
	Overwrite []string // fingerprints of keys that are not Keyward's and may be overwritten

	PIN      PIN
	PINHold  time.Duration // how long the PIN stays in memory; 0: until keyward lock
	AdminPIN AdminPIN
}

// AdminPIN says where the PIN comes from that generating and destroying keys takes; at most one is set.
type AdminPIN struct {
	File       string // a file
	Credential string // a systemd credential's name
	Prompt     bool   // keyward unlock --admin-pin asks the operator
}

func (pin *AdminPIN) fields() []field {
	return []field{
		{key: "admin_pin_file", dst: &pin.File, doc: "the admin PIN, needed to generate and destroy keys, is in this file"},
		{key: "admin_pin_credential", dst: &pin.Credential, doc: "the admin PIN is this systemd credential"},
		{key: "admin_pin_prompt", dst: &pin.Prompt, doc: "the operator gives the admin PIN for one key at a time: keyward " +
			"unlock --admin-pin"},
	}
}

func newOpenPGP() Settings { return &OpenPGP{} }

func (c *OpenPGP) fields() []field {
	return slices.Concat([]field{
		{key: "serial", dst: &c.Serial, serial: true, doc: "the card's serial number: printed on a YubiKey, shown by gpg " +
			"--card-status"},
		{key: "slots", dst: &c.Slots, doc: `the keys of the card that may be generated: "sig" and "aut"; empty: both`},
		{key: "touch", dst: &c.Touch, one: []string{"off", "on", "fixed", "cached", "cached-fixed"},
			doc: "touch policy given to a new key; fixed can't be changed back; not set: as the card has it"},
		{key: "overwrite", dst: &c.Overwrite, doc: "fingerprints of keys on the card that are not Keyward's and may be " +
			"overwritten"},
	}, c.PIN.fields(), []field{
		{key: "pin_hold", dst: &c.PINHold, doc: "how long the PIN stays in locked memory; 0: until keyward lock"},
	}, c.AdminPIN.fields())
}

func (c *OpenPGP) validate(d *document, p path) error {
	if c.Serial == "" {
		return d.errorf(p, "backend %q names no card; add serial = (the number printed on it)", p[1])
	}
	for _, slot := range c.Slots {
		if slot != "sig" && slot != "aut" {
			return d.errorf(p.in("slots"), `slots: unknown slot %q, want "sig" or "aut"`, slot)
		}
	}
	if given := set(c.AdminPIN.fields()); len(given) > 1 {
		return d.errorf(p.in(given[1]), "backend %q has two sources for its admin PIN, %s and %s; keep one", p[1], given[0],
			given[1])
	}
	if err := d.checkCredential(p.in("admin_pin_credential"), c.AdminPIN.Credential); err != nil {
		return err
	}
	return c.PIN.validate(d, p)
}

func (c *OpenPGP) pin() *PIN { return &c.PIN }

// touched: whatever Touch says, the card may have the policy already.
func (c *OpenPGP) touched() bool { return true }
