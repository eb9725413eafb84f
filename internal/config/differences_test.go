package config

import (
	"slices"
	"testing"
	"time"
)

func TestDifferences(t *testing.T) {
	a, b := Defaults(), Defaults()
	if d := Differences(a, b); d != nil {
		t.Errorf("of the same: %v", d)
	}
	b.Agent.LogFormat = "json"
	b.Limits.Depth++
	b.Backends = map[string]*Backend{"new": NewBackend("piv"), "same": NewBackend("piv")}
	a.Backends = map[string]*Backend{"old": NewBackend("piv"), "same": NewBackend("piv")}
	b.Chains["abstract"].RPCTimeout += time.Second
	want := []string{"agent", "backends.new", "backends.old", "chains.abstract", "limits"}
	if d := Differences(a, b); !slices.Equal(d, want) {
		t.Errorf("Differences = %v, want %v", d, want)
	}
}
