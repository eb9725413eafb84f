package userdb

import (
	"os/user"
	"testing"
)

func TestNames(t *testing.T) {
	root, err := user.LookupId("0")
	if err != nil {
		t.Fatal(err)
	}
	const nobodyHas = 4_200_000_123
	for _, c := range []struct{ got, want string }{
		{User(0), root.Username},
		{User(nobodyHas), "uid 4200000123"},
		{Group(nobodyHas), "gid 4200000123"},
	} {
		if c.got != c.want {
			t.Errorf("%q, want %q", c.got, c.want)
		}
	}
	group, err := user.LookupGroupId(root.Gid)
	if err != nil {
		t.Fatal(err)
	}
	if got := Group(0); got != group.Name {
		t.Errorf("%q, want %q", got, group.Name)
	}
}
