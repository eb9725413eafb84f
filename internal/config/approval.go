package config

import (
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/keyward/keyward/rules"
)

// Approval is who decides on what guard rules want approved.
type Approval struct {
	Socket   string        // for operators that vote; "": none
	Group    string        // that may vote: a name or a number; "": the agent's own user may
	Required int           // yes votes
	Timeout  time.Duration // that a request waits
	OwnVotes bool          // a user may vote on requests of its own programs

	Hook string // a program that votes; "": none

	Callback                 string // an HTTP server that votes; "": none
	CallbackSecretFile       string
	CallbackSecretCredential string // a systemd credential's name
}

func (a *Approval) fields() []field {
	return []field{
		{key: "socket", dst: &a.Socket, doc: `Unix socket for operators that vote (keyward approve), such as "approve.sock"`},
		{key: "group", dst: &a.Group, doc: "users in this group may vote, besides root; if left out, the agent's own user"},
		{key: "required", dst: &a.Required, doc: "votes of different operators that approve a request; one that denies it " +
			"is enough"},
		{key: "timeout", dst: &a.Timeout, doc: "deny a request that nobody approves for so long; a decision is kept as " +
			"long for the same request"},
		{key: "own_votes", dst: &a.OwnVotes, doc: "let a user vote on requests of its own programs"},
		{key: "hook", dst: &a.Hook, doc: "program that votes: it gets the request as JSON on stdin, and exits with 0 to " +
			"approve and 1 to deny"},
		{key: "callback", dst: &a.Callback, doc: "HTTP server that votes: unix:PATH, or a URL with a secret below"},
		{key: "callback_secret_file", dst: &a.CallbackSecretFile,
			doc: "the secret that the server and the agent prove themselves with is in this file, which only the agent's " +
				"user can read"},
		{key: "callback_secret_credential", dst: &a.CallbackSecretCredential, doc: "that secret is this systemd credential"},
	}
}

// maxApprovalTimeout bounds how long a request may wait for people.
const maxApprovalTimeout = 24 * time.Hour

func (d *document) validateApproval(c *Config) error {
	a, p := &c.Approval, path{"approval"}
	switch {
	case a.Required < 1 || a.Required > 64:
		return d.errorf(p.in("required"), "required: %d is not 1 to 64", a.Required)
	case a.Timeout < time.Second || a.Timeout > maxApprovalTimeout:
		return d.errorf(p.in("timeout"), "timeout: %v is not 1s to %v", a.Timeout, maxApprovalTimeout)
	case a.Socket != "" && (a.Socket == c.Agent.Socket || a.Socket == c.Agent.AdminSocket):
		return d.errorf(p.in("socket"), "socket: %q is another of the agent's sockets", a.Socket)
	case a.CallbackSecretFile != "" && a.CallbackSecretCredential != "":
		return d.errorf(p.in("callback_secret_file"), "give callback_secret_file or callback_secret_credential, not both")
	}
	if a.Callback != "" {
		if err := a.checkCallback(); err != "" {
			return d.errorf(p.in("callback"), "callback: %s", err)
		}
	}
	for i := range c.Rules {
		if c.Rules[i].Then == rules.Approve && a.Socket == "" && a.Hook == "" && a.Callback == "" {
			return d.errorf(path{"rules", strconv.Itoa(i), "then"},
				"rule %q wants an approval, and nobody can give one: add a section [approval] with socket, hook or callback",
				c.Rules[i].Name)
		}
	}
	return nil
}

// checkCallback says what is wrong with the callback; "": nothing. Any user can take a port of the loopback interface,
// so only a Unix socket goes without a secret.
func (a *Approval) checkCallback() string {
	if file, ok := strings.CutPrefix(a.Callback, "unix:"); ok {
		if file == "" {
			return "the path of the Unix socket is missing"
		}
		return ""
	}
	u, err := url.Parse(a.Callback)
	if err != nil || u.Host == "" || u.User != nil || u.Scheme != "http" && u.Scheme != "https" {
		return strconv.Quote(a.Callback) + ` is neither unix:PATH nor a URL such as http://127.0.0.1:8090/approve`
	}
	if u.Scheme == "http" && !loopback(u.Hostname()) {
		return "http:// is for loopback addresses: use https:// for " + u.Host
	}
	if a.CallbackSecretFile == "" && a.CallbackSecretCredential == "" {
		return "a URL needs callback_secret_file or callback_secret_credential: any user could listen at " +
			net.JoinHostPort(u.Hostname(), u.Port())
	}
	return ""
}

func loopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}
