package command

import (
	"fmt"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strings"

	"github.com/keyward/keyward/internal/approve"
	"github.com/keyward/keyward/internal/confine"
	"github.com/keyward/keyward/internal/secret"
	"github.com/keyward/keyward/session"
	"github.com/keyward/keyward/socket"
)

// approvalConfig is what the configuration says about approvals.
func (a *agent) approvalConfig() (session.ApprovalConfig, error) {
	c := &a.conf.Approval
	cfg := session.ApprovalConfig{Required: c.Required, Timeout: c.Timeout, OwnVotes: c.OwnVotes}
	if c.Group != "" {
		gid, err := groupID(c.Group)
		if err != nil {
			return cfg, a.placed(err, "approval", "group")
		}
		cfg.Voters = &session.Client{Group: true, ID: gid}
	}
	if c.Hook != "" {
		cfg.Deciders = append(cfg.Deciders, approve.Hook(a.dirs.Path(c.Hook)))
	}
	if c.Callback == "" {
		return cfg, nil
	}
	var key secret.Source
	switch {
	case c.CallbackSecretFile != "":
		key = secret.TokenFromFile(a.dirs.Path(c.CallbackSecretFile))
	case c.CallbackSecretCredential != "":
		key = secret.TokenFromCredential(c.CallbackSecretCredential)
	}
	cfg.Deciders = append(cfg.Deciders, approve.Callback(a.callbackAddress(), key))
	return cfg, nil
}

// callbackAddress is the callback, a relative path of a Unix socket made absolute.
func (a *agent) callbackAddress() string {
	if path, ok := strings.CutPrefix(a.conf.Approval.Callback, "unix:"); ok {
		return "unix:" + a.dirs.Path(path)
	}
	return a.conf.Approval.Callback
}

// groupID is the id of a group that is given by its name or number. One that names nobody in particular, as nogroup, is
// refused.
func groupID(group string) (uint32, error) {
	text := group
	if g, err := user.LookupGroup(group); err == nil {
		text = g.Gid
	}
	client, err := session.ParseClient("gid:" + text)
	if err != nil {
		return 0, fmt.Errorf("group: there is no group %q", group)
	}
	return client.ID, nil
}

// listenApprove makes approve.sock, unless systemd listens on it. It is open to its group, or to the agent's own user
// only.
func (a *agent) listenApprove(inherited net.Listener) (net.Listener, error) {
	c := &a.conf.Approval
	if c.Socket == "" || inherited != nil {
		return inherited, nil
	}
	path, err := a.dirs.Socket(c.Socket)
	if err != nil {
		return nil, err
	}
	l, err := socket.Listen(path, 0o600)
	if err != nil {
		return nil, a.placed(err, "approval", "socket")
	}
	if c.Group == "" {
		return l, nil
	}
	gid, err := groupID(c.Group)
	if err == nil {
		err = os.Chown(path, -1, int(gid))
	}
	if err == nil {
		err = os.Chmod(path, 0o660)
	}
	if err != nil {
		l.Close()
		return nil, a.placed(fmt.Errorf("giving %s to group %s: %w (the agent's user has to be in that group)", path, c.Group,
			err), "approval", "group")
	}
	return l, nil
}

// allowApproval adds what approvals need: the hook, with its interpreter, the callback's secret and its socket.
func (a *agent) allowApproval(r *confine.Rules) error {
	c := &a.conf.Approval
	if c.Socket != "" {
		path, err := a.dirs.Socket(c.Socket)
		if err != nil {
			return err
		}
		r.Sockets = append(r.Sockets, filepath.Dir(path))
	}
	if c.Hook != "" {
		program := a.dirs.Path(c.Hook)
		r.Execute = append(r.Execute, program, confine.Loader(program))
		if shell := interpreter(program); shell != "" {
			r.Execute = append(r.Execute, shell, confine.Loader(shell))
		}
	}
	if c.CallbackSecretFile != "" {
		r.Read = append(r.Read, filepath.Dir(a.dirs.Path(c.CallbackSecretFile)))
	}
	return nil
}

// interpreter is the program that runs a script (execve(2)); "": it is none.
func interpreter(program string) string {
	data, err := os.ReadFile(program)
	if err != nil || len(data) < 2 || string(data[:2]) != "#!" {
		return ""
	}
	line, _, _ := strings.Cut(string(data[2:min(len(data), 256)]), "\n")
	words := strings.Fields(line)
	if len(words) == 0 {
		return ""
	}
	return words[0]
}
