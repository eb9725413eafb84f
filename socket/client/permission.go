package client

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"

	"github.com/keyward/keyward/internal/userdb"
)

// explain adds to an error of connecting to the socket at path what a user whom it keeps out can do.
func explain(path string, err error) error {
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("%w: this user may not use the socket: %s", err, advice(path))
	}
	return err
}

// advice says whom to ask for what. A directory on the way may hide the socket and its group.
func advice(path string) string {
	info, err := os.Stat(path)
	if err != nil {
		return "ask the agent's operator which group may, and to add this user to it"
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case !ok:
		return "ask the agent's operator to add this user to its group"
	case info.Mode().Perm()&0o020 == 0:
		return "only its owner, " + userdb.User(stat.Uid) + ", may; apps use the agent's other socket"
	case stat.Gid == 0: // nobody is added to that one
		return "ask the agent's operator to give the socket to a group that this user is in"
	}
	return fmt.Sprintf("ask the agent's operator to add this user to its group, %s; then start this process again",
		userdb.Group(stat.Gid))
}
