// Package userdb names users and groups for a person, by the system's user database.
package userdb

import (
	"os/user"
	"strconv"
)

// User returns the user's name, or "uid N" if it has none.
func User(uid uint32) string {
	id := strconv.FormatUint(uint64(uid), 10)
	if u, err := user.LookupId(id); err == nil {
		return u.Username
	}
	return "uid " + id
}

// Group returns the group's name, or "gid N" if it has none.
func Group(gid uint32) string {
	id := strconv.FormatUint(uint64(gid), 10)
	if g, err := user.LookupGroupId(id); err == nil {
		return g.Name
	}
	return "gid " + id
}
