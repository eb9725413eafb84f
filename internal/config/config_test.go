package config

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keyward/keyward/policy"
)

const minimal = `[backends.hsm]
type = "pkcs11"
module = "/usr/lib/p11.so"
token = "keyward"
pin_file = "pin"
`

func minimalBackend() *Backend {
	return &Backend{Type: "pkcs11", Timeout: 10 * time.Second, Settings: &PKCS11{
		Process: OwnProcess, Class: "resident",
		Module: "/usr/lib/p11.so", Token: "keyward", PIN: PIN{File: "pin"},
	}}
}

func TestParseDefaults(t *testing.T) {
	got, err := Parse([]byte(minimal), "config.toml")
	if err != nil {
		t.Fatal(err)
	}
	want := Defaults()
	want.Backends["hsm"] = minimalBackend()
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("Parse (-want +got):\n%s", d)
	}
}

func TestParseEverything(t *testing.T) {
	const file = `
session.expiry_margin = "90s"
session.key_grace = "0s"
watch = { external_usage = "stop", clock_bound = "0s" }
[agent]
socket = "a.sock"
socket_mode = "0666"
admin_socket = "/run/b.sock"
log_level = "debug"
log_format = "json"
shutdown_timeout = "1s"
[limits]
message_bytes = "2MiB"
batch = 7
[backends.a]
type = "pkcs11"
module = "m"
serial = "1234"
pin_prompt = true
sessions = 3
timeout = "1m"
env = { A = "x", "B C" = "y" }
[chains.mine]
id = 5
rpc = ["https://user:pw@a.example/key", "http://127.0.0.1:8545"]
rpc_timeout = "3s"
rpc_attempts = 2
rpc_rate = 5
rpc_max_bytes = "1MiB"
rpc_log_range = 1000
first_block = 7
confirmations = 4
registry = "0xfD20b9d7A406e2C4f5D6Df71ABE3Ee48B2EccC9F"
[chains.abstract]
validator = "0x00000000000000000000000000000000000000ff"
`
	got, err := Parse([]byte(file), "config.toml")
	if err != nil {
		t.Fatal(err)
	}
	want := Defaults()
	want.Session = Session{ExpiryMargin: 90 * time.Second, WarnAhead: 72 * time.Hour}
	want.Watch.ExternalUsage, want.Watch.ClockBound = "stop", 0
	want.Agent = Agent{Socket: "a.sock", SocketMode: 0o666, AdminSocket: "/run/b.sock", LogLevel: "debug",
		LogFormat: "json", ShutdownTimeout: time.Second}
	want.Limits.MessageBytes, want.Limits.Batch = 2<<20, 7
	want.Backends["a"] = &Backend{
		Type: "pkcs11", Timeout: time.Minute, Settings: &PKCS11{
			Process: OwnProcess, Class: "resident",
			Module: "m", Serial: "1234", PIN: PIN{Prompt: true}, Sessions: 3, Env: map[string]string{"A": "x", "B C": "y"},
		},
	}
	want.Chains["mine"] = &Chain{
		ID: 5, Registry: RegistryOfSDK, RPC: []string{"https://user:pw@a.example/key", "http://127.0.0.1:8545"},
		RPCTimeout: 3 * time.Second, RPCAttempts: 2, RPCRate: 5, RPCMaxBytes: 1 << 20, RPCLogRange: 1000, FirstBlock: 7,
		Confirmations: 4,
	}
	want.Chains["abstract"].Validator = policy.Address{19: 0xff}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("Parse (-want +got):\n%s", d)
	}
}

func TestParseErrors(t *testing.T) {
	for _, tt := range []struct{ name, file, want string }{
		{"no TOML", "[agent\n", "1:7: "},
		{"duplicate key", "[agent]\nsocket = \"a\"\nsocket = \"b\"\n", "3:1: "},
		{"unknown key", "[agent]\n  sokcet = \"a\"\n", `2:3: unknown key "sokcet" in [agent]; did you mean "socket"?`},
		{"unknown key, first of two", "[agent]\nx = 1\ny = 1\n",
			`2:1: unknown key "x" in [agent]; known are socket, socket_mode`},
		{"unknown section", "[agnet]\n", `1:2: unknown key "agnet" in the top level; did you mean "agent"?`},
		{"unknown key of a backend", "[backends.hsm]\nmodul = \"a\"\ntype = \"pkcs11\"\n",
			`2:1: unknown key "modul" in [backends.hsm]; did you mean "module"?`},
		{"unknown key, inline", "agent = { sockett = \"a\" }\n",
			`1:11: unknown key "sockett" in [agent]; did you mean "socket"?`},
		{"other case", "[agent]\nSocket = \"a\"\n", `2:1: unknown key "Socket" in [agent]; did you mean "socket"?`},
		{"section as a value", "agent = 1\n", `1:1: "agent" is a section: write [agent]`},
		{"sections as a value", "backends = []\n", `1:1: "backends" holds sections: write [backends.NAME]`},
		{"array of sections", "[[chains.a]]\nid = 1\n", `1:10: "a" is a section: write [chains.a]`},
		{"integer for a string", "[agent]\nsocket = 1\n", "2:1: socket: want a string, not an integer"},
		{"integer for a duration", "[session]\nexpiry_margin = 60\n",
			`2:1: expiry_margin: want a duration such as "60s", not an integer`},
		{"no unit", "[session]\nexpiry_margin = \"60\"\n", `2:1: expiry_margin: "60" is no duration`},
		{"negative duration", "[session]\nkey_grace = \"-1s\"\n", `2:1: key_grace: "-1s" is negative`},
		{"string for an integer", "[limits]\nbatch = \"1\"\n", "2:1: batch: want an integer, not a string"},
		{"negative integer", "[limits]\nbatch = -1\n", "2:1: batch: -1 is out of range"},
		{"no pause", "[watch]\ninterval = \"0s\"\n", "2:1: interval: must be more than 0"},
		{"external usage", "[watch]\nexternal_usage = \"halt\"\n", `2:1: external_usage: unknown value "halt"`},
		{"zero bound", "[limits]\nbatch = 0\n", "2:1: batch: must be more than 0"},
		{"size", "[limits]\nmessage_bytes = \"1MB\"\n", `2:1: message_bytes: "1MB" is no size`},
		{"size overflows", "[limits]\nmessage_bytes = \"9999999999GiB\"\n", "is no size"},
		{"size of the wrong type", "[limits]\nmessage_bytes = 1.5\n",
			`message_bytes: want an integer or a string such as "1MiB", not a float`},
		{"enum", "[agent]\nlog_level = \"wran\"\n", `2:1: log_level: unknown value "wran"; did you mean "warn"?`},
		{"empty", "[agent]\nsocket = \"\"\n", "2:1: socket: must not be empty; leave the key out instead"},
		{"mode", "[agent]\nsocket_mode = \"0999\"\n", `2:1: socket_mode: "0999" are no permissions`},
		{"small segments", minimal + "[audit]\nsegment_size = \"15KiB\"\n",
			"7:1: segment_size: 15KiB is too small, want at least 16KiB"},
		{"same sockets", minimal + "[agent]\nsocket = \"x\"\nadmin_socket = \"x\"\n",
			`8:1: socket and admin_socket are the same: "x"`},
		{"no backend", "", "1:1: no backend"},
		{"backend type", "[backends.a]\ntype = \"pkcs12\"\n", `2:1: type: unknown value "pkcs12"; did you mean "pkcs11"?`},
		{"no type", "[backends.a]\nmodule = \"m\"\n", `1:11: backend "a" has no type`},
		{"no card", "[backends.a]\ntype = \"openpgp\"\n", `1:11: backend "a" names no card`},
		{"no such slot", "[backends.a]\ntype = \"openpgp\"\nserial = \"1\"\nslots = [\"dec\"]\npin_file = \"p\"\n",
			`4:1: slots: unknown slot "dec"`},
		{"no such touch policy", "[backends.a]\ntype = \"openpgp\"\nserial = \"1\"\ntouch = \"onn\"\n", `did you mean "on"?`},
		{"two admin PINs", "[backends.a]\ntype = \"openpgp\"\nserial = \"1\"\npin_file = \"p\"\nadmin_pin_file = " +
			"\"a\"\nadmin_pin_credential = \"b\"\n", `6:1: backend "a" has two sources for its admin PIN`},
		{"admin PIN twice", "[backends.a]\ntype = \"openpgp\"\nserial = \"1\"\npin_file = \"p\"\nadmin_pin_credential = " +
			"\"b\"\nadmin_pin_prompt = true\n", `6:1: backend "a" has two sources for its admin PIN, admin_pin_credential and admin_pin_prompt`},
		{"no admin PIN credential's name", "[backends.a]\ntype = \"openpgp\"\nserial = \"1\"\npin_file = " +
			"\"p\"\nadmin_pin_credential = \"a:b\"\n", `5:1: admin_pin_credential: "a:b" is no credential's name`},
		{"no PIN credential's name", "[backends.a]\ntype = \"openpgp\"\nserial = \"1\"\npin_credential = \"/run/pin\"\n",
			`4:1: pin_credential: "/run/pin" is no credential's name`},
		{"no module", "[backends.a]\ntype = \"pkcs11\"\n",
			`1:11: backend "a" has no module; add module = "/path/of/the/vendors/pkcs11.so", or if you want no such backend remove [backends.a]`},
		{"no token", "[backends.a]\ntype = \"pkcs11\"\nmodule = \"m\"\n", `1:11: backend "a" names no token`},
		{"no PIN", "[backends.a]\ntype = \"pkcs11\"\nmodule = \"m\"\ntoken = \"t\"\n",
			`1:11: backend "a" has no source for its PIN`},
		{"PIN turned off", "[backends.a]\ntype = \"pkcs11\"\nmodule = \"m\"\ntoken = \"t\"\npin_prompt = false\n",
			"has no source for its PIN"},
		{"two PINs", minimal + "pin_env = \"X\"\n", `6:1: backend "hsm" has two sources for its PIN, pin_file and pin_env; keep one`},
		{"no time", minimal + "timeout = \"0s\"\n", "6:1: timeout: must be more than 0"},
		{"env", minimal + "env = { A = 1 }\n", "6:1: env: A: want a string, not an integer"},
		{"env name", minimal + "env = { \"A=B\" = \"\" }\n", "6:1: env: no name or value of an environment variable"},
		{"backend name", "[backends.\"a b\"]\n", `1:11: name "a b": use lower-case letters`},
		{"chain named like an id", minimal + "[chains.5]\nid = 5\n", `6:9: name "5": a number is no name`},
		{"chain id 0", minimal + "[chains.a]\nid = 0\n", `6:9: chain "a" has no id`},
		{"negative chain id", minimal + "[chains.a]\nid = -1\n", "7:1: id: -1 is out of range"},
		{"chain ids", minimal + "[chains.a]\nid = 2741\n", `6:9: chains "a" and "abstract" have the same id, 2741`},
		{"chain ids, other order", minimal + "[chains.z]\nid = 2741\n",
			`6:9: chains "z" and "abstract" have the same id, 2741`},
		{"validator", minimal + "[chains.a]\nid = 1\nvalidator = \"0x12\"\n", `8:1: validator: "0x12" is no address`},
		{"checksum", minimal + "[chains.a]\nid = 1\nvalidator = \"0x34CA1501FAE231cC2ebc995CE013Dbe882d7d081\"\n",
			"8:1: validator: "},
		{"registry", minimal + "[chains.a]\nid = 1\nregistry = \"0x\"\n", `8:1: registry: "0x" is no address`},
		{"rpc as a string", minimal + "[chains.a]\nid = 1\nrpc = \"https://h\"\n",
			"8:1: rpc: want an array of strings, not a string"},
		{"rpc of numbers", minimal + "[chains.a]\nid = 1\nrpc = [\"https://h\", 8545]\n",
			"8:1: rpc: item 2: want a string, not an integer"},
		{"rpc without time", minimal + "[chains.a]\nid = 1\nrpc_timeout = \"0s\"\n", "8:1: rpc_timeout: must be more than 0"},
		{"rpc without calls", minimal + "[chains.abstract]\nrpc_rate = 0\n", "7:1: rpc_rate: must be more than 0"},
		{"rpc key", minimal + "[chains.a]\nid = 1\nrcp = []\n", `8:1: unknown key "rcp" in [chains.a]; did you mean "rpc"?`},
		{"date", "[agent]\nsocket = 2026-01-01\n", "2:1: socket: want a string, not a date or time"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Parse([]byte(tt.file), "config.toml")
			var e *Error
			if !errors.As(err, &e) {
				t.Fatalf("Parse = %v, want an *Error", err)
			}
			if !strings.HasPrefix(err.Error(), "config.toml:") || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Parse: %v\nwant it to have: %s", err, tt.want)
			}
		})
	}
}

func TestLoad(t *testing.T) {
	file := filepath.Join(t.TempDir(), "config.toml")
	if _, err := Load(file); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Load of no file: %v, want ErrNotExist", err)
	}
	if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(file); err == nil || !strings.HasPrefix(err.Error(), file+":1:") {
		t.Errorf("Load: %v, want an error that starts with the file's path and line", err)
	}
}

// What init writes must be read as what init meant.
func TestTemplate(t *testing.T) {
	b := minimalBackend()
	settings := b.Settings.(*PKCS11)
	settings.Module, settings.Env = `/a "b"/c\d.so`, map[string]string{"SOFTHSM2_CONF": "/x y", "A": ""}
	data := Template("hsm", b)
	got, err := Parse(data, "config.toml")
	if err != nil {
		t.Fatalf("%v in\n%s", err, data)
	}
	want := Defaults()
	want.Backends["hsm"] = b
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("Parse(Template) (-want +got):\n%s", d)
	}
}

// The commented lines of the template are the defaults, so turning them all into
// settings must change nothing.
func TestTemplateShowsDefaults(t *testing.T) {
	var lines []string
	for _, line := range strings.Split(string(Template("hsm", minimalBackend())), "\n") {
		setting, isComment := strings.CutPrefix(line, "# ")
		if isComment && strings.Contains(setting, " = ") && !strings.Contains(setting, "= \"\"") {
			line = setting
		}
		lines = append(lines, line)
	}
	got, err := Parse([]byte(strings.Join(lines, "\n")), "config.toml")
	if err != nil {
		t.Fatal(err)
	}
	want := Defaults()
	want.Backends["hsm"] = minimalBackend()
	want.Backends["hsm"].Settings.(*PKCS11).Env = map[string]string{}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

func TestChainNamed(t *testing.T) {
	c := Defaults()
	for _, tt := range []struct{ in, name, err string }{
		{"abstract", "abstract", ""},
		{"2741", "abstract", ""},
		{"11124", "abstract-testnet", ""},
		{"abstrct", "", `unknown chain "abstrct"; did you mean "abstract"?`},
		{"02741", "", `unknown chain "02741"; known are abstract, abstract-testnet`},
	} {
		name, chain, err := c.ChainNamed(tt.in)
		if tt.err != "" {
			if err == nil || err.Error() != tt.err {
				t.Errorf("ChainNamed(%q): %v, want %s", tt.in, err, tt.err)
			}
			continue
		}
		if err != nil || name != tt.name || chain != c.Chains[tt.name] {
			t.Errorf("ChainNamed(%q) = %q, %v, %v", tt.in, name, chain, err)
		}
	}
}

func FuzzLoad(f *testing.F) {
	f.Add([]byte(minimal))
	f.Add(Template("hsm", minimalBackend()))
	f.Add([]byte("[backends.a]\nenv = { A = 1, B = { C = [1, 2] } }\n"))
	f.Add([]byte("[[agent]]\nsocket = 1979-05-27\n"))
	f.Add([]byte("agent.socket.x = 1e400\n"))
	f.Add([]byte("[limits]\nmessage_bytes = \"9223372036854775807GiB\"\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := Parse(data, "f")
		if err == nil {
			if len(c.Backends) == 0 {
				t.Error("accepted a configuration without a backend")
			}
			return
		}
		var e *Error
		if !errors.As(err, &e) {
			t.Fatalf("error without a position: %v", err)
		}
		if lines := strings.Count(string(data), "\n") + 1; e.Line < 1 || e.Column < 1 || e.Line > lines+1 {
			t.Errorf("%v: no such place in a file of %d lines", err, lines)
		}
	})
}
