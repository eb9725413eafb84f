package command

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/keyward/keyward/internal/owned"
	"github.com/keyward/keyward/internal/userdb"
	"github.com/keyward/keyward/socket/api"
)

// checkPlace says which agent this is about.
func (x *examination) checkPlace() {
	d := x.place.dirs
	if d.Hidden != "" {
		x.add("directory", warning, "keyward doctor --dir "+d.Hidden, "%s (%s); the system's agent, in %s, is another one",
			d.Config, d.Rule, d.Hidden)
		return
	}
	x.add("directory", fine, "", "%s (%s)", d.Config, d.Rule)
}

// checkAgent asks the running agent how it is. Its state is a finding of its own.
func (x *examination) checkAgent() {
	cl, err := x.place.dial(x.c.Context, x.place.agent().AdminSocket)
	if err == nil {
		defer cl.Close()
		x.status, err = cl.Status(x.c.Context)
	}
	switch {
	case errors.Is(err, fs.ErrPermission):
		x.add("agent", skipped, "sudo keyward doctor", "%v", err)
		return
	case err != nil:
		_, hint := verdictOn(err)
		x.add("agent", wrong, hint, "%v", err)
		return
	}
	do := map[string]string{
		api.StateLocked: "keyward unlock", api.StateHalted: "keyward status, then repair the disk and start the agent again",
		api.StateDegraded: "see the lines below",
	}[x.status.State]
	v := fine
	switch x.status.State {
	case api.StateDegraded:
		v = warning
	case api.StateLocked, api.StateHalted:
		v = wrong
	}
	x.add("agent", v, do, "%s, pid %d", joined(x.status.State, x.status.Detail), x.status.PID)
	if x.status.Version == version() {
		x.add("version", fine, "", "%s", version())
	} else {
		x.add("version", warning, restartCommand(x.place.dirs.System()), "the agent runs %s, and this command is %s",
			x.status.Version, version())
	}
	if sessions, err := cl.AllSessions(x.c.Context); err == nil {
		x.clients = append(x.clients, clientsOf(sessions)...)
		slices.Sort(x.clients)
		x.clients = slices.Compact(x.clients)
	}
}

func restartCommand(system bool) string {
	if system {
		return "systemctl restart keyward"
	}
	return "stop the agent and start it again"
}

// checkConfig reports whether there is a configuration to go on with.
func (x *examination) checkConfig() bool {
	p := x.place
	file := p.dirs.ConfigFile()
	if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
		x.add("configuration", wrong, "keyward init --dir "+p.dirs.Config, "%s does not exist", file)
		return false
	}
	if p.fault != nil {
		x.add("configuration", wrong, "correct that line of the file", "%v", p.fault)
		return false
	}
	if p.conf == nil {
		x.add("configuration", skipped, "sudo keyward doctor", "%s can't be read by this user", file)
		return false
	}
	if err := x.ownedByAgent(file); err != nil {
		x.addOwned("configuration", err)
		return true
	}
	x.add("configuration", fine, "", "%s", file)
	return true
}

// ownedByAgent is owned.Check for the agent's user, whom the state belongs to.
func (x *examination) ownedByAgent(path string) error {
	info, err := os.Stat(x.place.dirs.State)
	if err != nil {
		return owned.Check(path)
	}
	return owned.CheckFor(path, info.Sys().(*syscall.Stat_t).Uid)
}

// addOwned reports an error of [owned.Check], which ends with the command to type.
func (x *examination) addOwned(check string, err error) {
	what, do, _ := strings.Cut(err.Error(), ": type: ")
	x.add(check, wrong, do, "%s", what)
}

// checkSockets says whether the sockets are there, for the right users, and whether clients reach the apps'.
func (x *examination) checkSockets() {
	a := x.place.agent()
	for _, s := range []struct{ check, path string }{{"app socket", a.Socket}, {"admin socket", a.AdminSocket}} {
		path, err := x.place.dirs.Socket(s.path)
		if err != nil {
			x.add(s.check, wrong, "set socket and admin_socket in [agent]", "%v", err)
			continue
		}
		info, err := os.Stat(path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			x.add(s.check, wrong, startCommand(x.place.dirs), "%s does not exist", path)
			continue
		case err != nil:
			x.add(s.check, skipped, "", "%v", err)
			continue
		case info.Mode().Type() != fs.ModeSocket:
			x.add(s.check, wrong, "move it away, and start the agent again", "%s is no socket", path)
			continue
		}
		stat := info.Sys().(*syscall.Stat_t)
		facts := fmt.Sprintf("%s, mode %04o, owner %s, group %s", path, info.Mode().Perm(), userdb.User(stat.Uid),
			userdb.Group(stat.Gid))
		if s.check == "admin socket" && info.Mode().Perm()&0o077 != 0 {
			x.add(s.check, wrong, "chmod 0600 "+path, "%s: others can reach it", facts)
			continue
		}
		x.add(s.check, fine, "", "%s", facts)
		if s.check == "app socket" {
			x.checkClients(path)
		}
	}
}

func (x *examination) checkClients(path string) {
	for _, client := range x.clients {
		who, err := identityOf(client)
		if err != nil {
			x.add("client "+client, skipped, "", "%v", err)
			continue
		}
		if why := who.obstacle(path); why != "" {
			x.add("client "+client, wrong, x.letIn(path, client, why), "%s can't reach %s: %s", who.name, path, why)
			continue
		}
		x.add("client "+client, fine, "", "%s can reach %s", who.name, path)
	}
}

// letIn is what lets a client past the obstacle why, whose last part says it in words: a command if the socket's group
// is all that is missing.
func (x *examination) letIn(path, client, why string) string {
	info, err := os.Stat(path)
	number, isUser := strings.CutPrefix(client, "uid:")
	uid, parseErr := parseID(number)
	if err != nil || !isUser || parseErr != nil || !strings.Contains(why, "add the user to the group") {
		return why[strings.LastIndex(why, ": ")+2:]
	}
	return fmt.Sprintf("usermod -aG %s %s; then start the client again", userdb.Group(info.Sys().(*syscall.Stat_t).Gid),
		userdb.User(uid))
}

// checkLimits looks at what the process may have: of the running agent, or else of a process started from here.
func (x *examination) checkLimits() {
	pid := 0
	if x.status != nil {
		pid = x.status.PID
	}
	var files, locked unix.Rlimit
	err := errors.Join(unix.Prlimit(pid, unix.RLIMIT_NOFILE, nil, &files),
		unix.Prlimit(pid, unix.RLIMIT_MEMLOCK, nil, &locked))
	if errors.Is(err, unix.EPERM) {
		x.add("limits", skipped, "sudo keyward doctor", "the agent's limits can't be read by this user")
		return
	}
	if err != nil {
		x.add("limits", skipped, "", "%v", err)
		return
	}
	const lockedNeeded = 64 << 10 // a PIN takes a page, and a backend keeps a few
	need := uint64(descriptorsBesides)
	if x.place.conf != nil {
		need += uint64(x.place.conf.Limits.Connections)
	}
	switch {
	case files.Cur < need:
		x.add("limits", warning, fmt.Sprintf("LimitNOFILE=%d in the unit, ulimit -n %d, or fewer connections in [limits]",
			need, need),
			"%d descriptors, and connections in [limits] wants %d", files.Cur, need)
	case locked.Cur < lockedNeeded:
		x.add("limits", warning, "LimitMEMLOCK=64M in the unit, or ulimit -l 65536",
			"%d bytes of locked memory, which PINs need", locked.Cur)
	default:
		x.add("limits", fine, "", "%d descriptors, %s of locked memory", files.Cur, bytesOrAll(locked.Cur))
	}
}

// descriptorsBesides is how many descriptors an agent has besides connections, with room: state, devices, nodes.
const descriptorsBesides = 256

func bytesOrAll(n uint64) string {
	if n == unix.RLIM_INFINITY {
		return "any amount"
	}
	return fmt.Sprintf("%d KiB", n>>10)
}

// checkUnit looks at the service of the system's agent.
func (x *examination) checkUnit() {
	if !x.place.dirs.System() {
		return
	}
	if _, err := os.Stat("/run/systemd/system"); err != nil {
		x.add("unit", skipped, "", "this machine has no systemd")
		return
	}
	for _, unit := range []string{"keyward.service", "keyward.socket", "keyward-admin.socket"} {
		out, err := exec.CommandContext(x.c.Context, "systemctl", "show", "-p",
			"LoadState,ActiveState,UnitFileState,NeedDaemonReload", unit).Output()
		if err != nil {
			x.add("unit "+unit, skipped, "", "systemctl show: %v", err)
			continue
		}
		x.judgeUnit(unit, string(out))
	}
}

// judgeUnit judges what systemctl show printed.
func (x *examination) judgeUnit(unit, shown string) {
	has := func(property string) bool {
		return slices.Contains(strings.Split(strings.TrimSpace(shown), "\n"), property)
	}
	switch {
	case has("LoadState=not-found"):
		x.add("unit "+unit, wrong, "install the package keyward", "there is no such unit")
	case has("NeedDaemonReload=yes"):
		x.add("unit "+unit, warning, "systemctl daemon-reload", "its file has changed")
	case !has("ActiveState=active"):
		x.add("unit "+unit, wrong, "systemctl start "+unit, "not running")
	case !has("UnitFileState=enabled"):
		x.add("unit "+unit, warning, "systemctl enable "+unit, "does not start with the machine")
	default:
		x.add("unit "+unit, fine, "", "running, and starts with the machine")
	}
}
