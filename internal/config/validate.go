package config

import (
	"maps"
	"reflect"
	"slices"
)

// validate finds what no single key can be blamed for by its type.
func (d *document) validate(c *Config) error {
	if err := d.validateLimits(&c.Limits); err != nil {
		return err
	}
	if err := d.validateWatch(&c.Watch); err != nil {
		return err
	}
	if err := d.validateMetrics(&c.Metrics); err != nil {
		return err
	}
	if c.Agent.Socket == c.Agent.AdminSocket {
		return d.errorf(path{"agent", "admin_socket"}, "socket and admin_socket are the same: %q", c.Agent.Socket)
	}
	if len(c.Backends) == 0 {
		return d.errorf(path{"backends"}, "no backend: the agent needs a place to keep keys; add a section [backends.NAME]")
	}
	for _, name := range slices.Sorted(maps.Keys(c.Backends)) {
		if err := d.validateBackend(path{"backends", name}, c.Backends[name]); err != nil {
			return err
		}
	}
	if err := d.validateRules(c); err != nil {
		return err
	}
	if err := d.validateApproval(c); err != nil {
		return err
	}
	return d.validateChains(c.Chains)
}

// validateLimits refuses a bound of zero, which would admit nothing.
func (d *document) validateLimits(l *Limits) error {
	for _, f := range l.fields() {
		if isZero(f.dst) {
			return d.errorf(path{"limits", f.key}, "%s: must be more than 0", f.key)
		}
	}
	return nil
}

// isZero reports whether a field holds its type's zero value.
func isZero(dst any) bool { return reflect.ValueOf(dst).Elem().IsZero() }
