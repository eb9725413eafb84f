package config

import (
	"maps"
	"reflect"
	"slices"
)

// Differences names the sections that are not the same in two configurations, sorted: "limits", "backends.hsm".
func Differences(a, b *Config) []string {
	x, y := a.sections(), b.sections()
	names := map[string]bool{}
	for _, of := range []map[string]any{x, y} {
		for name := range of {
			if !reflect.DeepEqual(x[name], y[name]) {
				names[name] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(names))
}

func (c *Config) sections() map[string]any {
	s := map[string]any{"agent": c.Agent, "session": c.Session, "watch": c.Watch, "limits": c.Limits, "metrics": c.Metrics,
		"audit":   c.Audit,
		"confine": c.Confine, "approval": c.Approval, "rules": c.Rules}
	for name, b := range c.Backends {
		s["backends."+name] = b
	}
	for name, chain := range c.Chains {
		s["chains."+name] = chain
	}
	return s
}
