package command

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/keyward/keyward/socket/api"
)

func TestWholeID(t *testing.T) {
	list := func(context.Context) ([]*api.Session, error) {
		var sessions []*api.Session
		for _, id := range []string{"0123456789abcdef", "0123456789abcde0", "02aaaaaaaaaaaaaa", "fa00000000000001",
			"fa00000000000002",
			"fa00000000000003", "fa00000000000004", "fa00000000000005", "fa00000000000006"} {
			sessions = append(sessions, &api.Session{ID: id})
		}
		return sessions, nil
	}
	for _, c := range []struct{ name, want, err string }{
		{"0123456789abcdef", "0123456789abcdef", ""},
		{"0123456789abcde", "", `session "0123456789abcde": 2 ids begin so: 0123456789abcdef, 0123456789abcde0`},
		{"02", "02aaaaaaaaaaaaaa", ""},
		{"03", "03", ""}, // which the agent does not know
		{"0", "", "3 ids begin so"},
		{"f", "", "6 ids begin so: fa00000000000001, fa00000000000002, fa00000000000003, fa00000000000004, " +
			"fa00000000000005 and 1 more"},
		{"", "", ""},
		{"02A", "02A", ""},
		{"0x52908400098527886E0F7030069857D2E4169EE7", "0x52908400098527886E0F7030069857D2E4169EE7", ""},
	} {
		got, err := wholeID(t.Context(), list, c.name)
		if got != c.want || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("wholeID(%q) = %q, %v; want %q, %q", c.name, got, err, c.want, c.err)
		}
	}
	failed := errors.New("no agent")
	if _, err := wholeID(t.Context(), func(context.Context) ([]*api.Session, error) { return nil, failed },
		"02"); !errors.Is(err, failed) {
		t.Errorf("a list that fails: %v", err)
	}
}
