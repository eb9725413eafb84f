package config

import (
	"fmt"
	"strings"
	"testing"
)

// A URL may hold a credential: what is wrong with it is said without it.
func TestRPCErrors(t *testing.T) {
	const secret = "hunter2"
	for _, tt := range []struct{ urls, want string }{
		{`"wss://a.example/hunter2"`, `9:1: rpc: URL 1 is neither https nor http`},
		{`"https://ok.example", "a.example/hunter2"`, `9:1: rpc: URL 2 is none; write "https://HOST/PATH"`},
		{`"https:///hunter2"`, "rpc: URL 1 is none"},
		{`"https://a.example/%zzhunter2"`, "rpc: URL 1 is none"},
		{`""`, "rpc: URL 1 is none"},
		{`"https://a.example/#hunter2"`, "rpc: URL 1 has a fragment"},
		{`"https://a.example/hunter2", "https://b.example", "https://a.example/hunter2"`, "rpc: URL 3 is given twice"},
	} {
		file := minimal + "[chains.a]\nid = 1\n\nrpc = [" + tt.urls + "]\n"
		_, err := Parse([]byte(file), "config.toml")
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("rpc = [%s]: %v\nwant it to have: %s", tt.urls, err, tt.want)
			continue
		}
		if strings.Contains(err.Error(), secret) {
			t.Errorf("rpc = [%s]: the error shows the URL: %v", tt.urls, err)
		}
	}
}

// What is built in: both chains offline, and the two registries that public sources name.
func TestBuiltInChains(t *testing.T) {
	c := Defaults()
	for name, want := range map[string]struct {
		id                             uint64
		validator, registry, multicall string
	}{
		"abstract": {2741, "0x34ca1501FAE231cC2ebc995CE013Dbe882d7d081", "0xA146c7118A46b32aBD0e1ACA41DF4e61061b6b93",
			"0xAa4De41dba0Ca5dCBb288b7cC6b708F3aaC759E7"},
		"abstract-testnet": {11124, "0x34ca1501FAE231cC2ebc995CE013Dbe882d7d081",
			"0x0000000000000000000000000000000000000000",
			"0xF9cda624FBC7e059355ce98a31693d299FACd963"},
	} {
		got := c.Chains[name]
		if got.ID != want.id || got.Validator.String() != want.validator || got.Registry.String() != want.registry ||
			got.Multicall.String() != want.multicall || len(got.RPC) != 0 {
			t.Errorf("%s: %+v, want %+v and no rpc", name, got, want)
		}
		if url := PublicRPC[want.id]; checkURL(url) != nil {
			t.Errorf("%s: the public URL %q is none", name, url)
		}
	}
	if got := fmt.Sprint(RegistryOfSDK); got != "0xfD20b9d7A406e2C4f5D6Df71ABE3Ee48B2EccC9F" {
		t.Errorf("RegistryOfSDK = %s", got)
	}
}
