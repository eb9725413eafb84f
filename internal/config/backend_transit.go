package config

import (
	"net"
	"net/url"
	"regexp"
	"time"
)

// Transit is a transit key of HashiCorp Vault or OpenBao, which seals session keys; see package transit.
type Transit struct {
	Address   string // URL
	Namespace string
	CAFile    string
	Mount     string // of the transit engine
	Key       string // the transit key's name

	Auth      string // "token", "approle" or "kubernetes"
	AuthMount string
	Role      string // AppRole's role ID, or the Kubernetes role's name
	// Where the token, the secret ID, or the service account's token is.
	SecretFile       string
	SecretCredential string // a systemd credential's name

	InFlight int
	CacheFor time.Duration
}

func newTransit() Settings { return &Transit{Mount: "transit", InFlight: 32} }

func (c *Transit) fields() []field {
	return []field{
		{key: "address", dst: &c.Address, doc: "URL of Vault, such as https://vault.example:8200"},
		{key: "namespace", dst: &c.Namespace, doc: "Vault's namespace; the root namespace if left out"},
		{key: "ca_file", dst: &c.CAFile, doc: "certificates in PEM that Vault's is checked with; the system's if left out"},
		{key: "mount", dst: &c.Mount, doc: "where the transit engine is mounted"},
		{key: "key", dst: &c.Key, doc: "name of the transit key that seals; it must be derived, and not exportable"},
		{key: "auth", dst: &c.Auth, one: []string{"token", "approle", "kubernetes"}, doc: "how the agent logs in"},
		{key: "auth_mount", dst: &c.AuthMount, doc: "where the auth method is mounted; its name if left out"},
		{key: "role", dst: &c.Role, doc: "approle: the role ID; kubernetes: the role"},
		{key: "secret_file", dst: &c.SecretFile, doc: "the token, or AppRole's secret ID, is in this file, which only the " +
			"agent's user can read; kubernetes: the service account's token, if not at the usual place"},
		{key: "secret_credential", dst: &c.SecretCredential,
			doc: "the token, or AppRole's secret ID, is this systemd credential"},
		{key: "in_flight", dst: &c.InFlight, doc: "calls to Vault at a time"},
		{key: "cache_for", dst: &c.CacheFor, doc: "keep an opened key in locked memory for so long; 0s asks Vault for " +
			"each signature"},
	}
}

var transitKey = regexp.MustCompile(`^[A-Za-z0-9_-][A-Za-z0-9_.-]{0,127}$`)

func (c *Transit) validate(d *document, p path) error {
	sources := set([]field{{key: "secret_file", dst: &c.SecretFile}, {key: "secret_credential", dst: &c.SecretCredential}})
	switch {
	case c.Address == "":
		return d.errorf(p, `backend %q has no address; add address = "https://vault.example:8200"`, p[1])
	case !transitAddress(c.Address):
		return d.errorf(p.in("address"), "address: %q is no URL such as https://vault.example:8200; http:// is for "+
			"loopback addresses, as the token and keys would cross the network in the clear", c.Address)
	case c.Key == "":
		return d.errorf(p, `backend %q seals with no transit key; add key = (its name); vault write -f transit/keys/keyward derived=true makes one`, p[1])
	case !transitKey.MatchString(c.Key):
		return d.errorf(p.in("key"), `key: %q is no transit key's name: up to 128 letters, digits and any of "_.-", no dot first`, c.Key)
	case c.Auth == "":
		return d.errorf(p, `backend %q has no auth; add auth = "approle", "kubernetes" or "token"`, p[1])
	case c.Auth == "token" && (c.Role != "" || c.AuthMount != ""):
		return d.errorf(p, `backend %q: role and auth_mount are for auth = "approle" and "kubernetes"`, p[1])
	case c.Auth != "token" && c.Role == "":
		return d.errorf(p, `backend %q has no role; add role = (AppRole's role ID, or the Kubernetes role)`, p[1])
	case len(sources) == 2:
		return d.errorf(p.in(sources[1]), "backend %q has two sources for its secret, secret_file and secret_credential; "+
			"keep one", p[1])
	case len(sources) == 0 && c.Auth != "kubernetes":
		return d.errorf(p, "backend %q has no source for its secret; add secret_file or secret_credential", p[1])
	case c.InFlight == 0:
		return d.errorf(p.in("in_flight"), "in_flight: must be more than 0")
	}
	return d.checkCredential(p.in("secret_credential"), c.SecretCredential)
}

// transitAddress reports whether s is a URL of a server, with TLS unless the server is on this machine.
func transitAddress(s string) bool {
	u, err := url.Parse(s)
	if err != nil || u.Hostname() == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.Path != "" &&
		u.Path != "/" {
		return false
	}
	ip := net.ParseIP(u.Hostname())
	local := u.Hostname() == "localhost" || ip != nil && ip.IsLoopback()
	return u.Scheme == "https" || u.Scheme == "http" && local
}
