package command

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"github.com/keyward/keyward/internal/userdb"
)

// warnUnreachable says which of a session's clients can't connect to the apps' socket, as its file and the
// directories on the way to it are now. What it can't see it does not judge.
func (t *tool) warnUnreachable(c *cli.Context, clients []string) {
	p, err := findAgent(c)
	if err != nil {
		return
	}
	path, err := p.dirs.Socket(p.agent().Socket)
	if err != nil {
		return
	}
	for _, client := range clients {
		who, err := identityOf(client)
		if err != nil {
			t.note("warning: %s: %v: whether that client can reach %s is not known", client, err, path)
			continue
		}
		if why := who.obstacle(path); why != "" {
			t.note("warning: %s can't reach %s: %s", who.name, path, why)
		}
	}
}

// identity is what the kernel compares with a file's owner, group and mode.
type identity struct {
	name   string
	uid    uint32
	groups []uint32
	// anyUser is whoever is in the groups.
	anyUser bool
}

// identityOf returns the identity of "uid:N" with the groups that the user database gives it, or of "gid:N".
func identityOf(client string) (*identity, error) {
	kind, number, _ := strings.Cut(client, ":")
	id, err := parseID(number)
	if err != nil {
		return nil, err
	}
	if kind == "gid" {
		name := client
		if g, err := user.LookupGroupId(number); err == nil {
			name += " (" + g.Name + ")"
		}
		return &identity{name: name, groups: []uint32{id}, anyUser: true}, nil
	}
	u, err := user.LookupId(number)
	if unknown := user.UnknownUserIdError(0); errors.As(err, &unknown) {
		return &identity{name: client + " (not in the user database, so no groups of it are known)", uid: id}, nil
	} else if err != nil {
		return nil, err
	}
	who := &identity{name: client + " (" + u.Username + ")", uid: id}
	groups, err := u.GroupIds()
	if err != nil {
		return nil, err
	}
	for _, text := range append(groups, u.Gid) {
		gid, err := parseID(text)
		if err != nil {
			return nil, err
		}
		who.groups = append(who.groups, gid)
	}
	return who, nil
}

func parseID(text string) (uint32, error) {
	id, err := strconv.ParseUint(text, 10, 32)
	return uint32(id), err
}

// obstacle says what keeps who from connecting to the socket at path: search permission on each directory, write
// permission on the socket (path_resolution(7), unix(7)). "" if nothing does, or that can't be seen from here.
func (who *identity) obstacle(path string) string {
	if !who.anyUser && who.uid == 0 {
		return ""
	}
	const maxLinks = 40 // as the kernel's (path_resolution(7))
	at, rest := "/", split(path)
	for links := 0; len(rest) > 0; {
		if why := who.without(at, unix.X_OK); why != "" {
			return why
		}
		step := rest[0]
		rest = rest[1:]
		if step == ".." {
			at = filepath.Dir(at)
			continue
		}
		next := filepath.Join(at, step)
		if target, err := os.Readlink(next); err == nil {
			if links++; links > maxLinks {
				return ""
			}
			if filepath.IsAbs(target) {
				at = "/"
			}
			rest = append(split(target), rest...)
			continue
		}
		at = next
	}
	return who.without(at, unix.W_OK)
}

func split(path string) []string {
	return slices.DeleteFunc(strings.Split(path, "/"), func(s string) bool { return s == "" || s == "." })
}

// without says why who has not the permission, [unix.X_OK] on a directory or [unix.W_OK] on the socket.
func (who *identity) without(path string, permission uint32) string {
	info, err := os.Stat(path)
	if err != nil || hasACL(path) {
		return ""
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return ""
	}
	perm := uint32(info.Mode().Perm())
	inGroup := slices.Contains(who.groups, stat.Gid)
	switch { // the first that fits decides, also where a later one would give more
	case !who.anyUser && who.uid == stat.Uid:
		perm >>= 6
	case inGroup:
		perm >>= 3
	}
	if perm&permission != 0 {
		return ""
	}
	what := "the socket"
	if info.IsDir() {
		what = "the directory " + path
	}
	facts := fmt.Sprintf("%s has the mode %04o, owner %s and group %s", what, info.Mode().Perm(), userdb.User(stat.Uid),
		userdb.Group(stat.Gid))
	groupMay := uint32(info.Mode().Perm())>>3&permission != 0
	if groupMay && !inGroup && (who.anyUser || who.uid != stat.Uid) && stat.Gid != 0 {
		return fmt.Sprintf("%s: add the user to the group %s, or change the group", facts, userdb.Group(stat.Gid))
	}
	return facts + ": give a group of the client's that permission, or move the socket (socket in [agent])"
}

// hasACL reports whether more than the mode decides (acl(5)).
func hasACL(path string) bool {
	n, err := unix.Getxattr(path, "system.posix_acl_access", nil)
	return err == nil && n > 0
}
