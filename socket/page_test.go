package socket

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"

	"github.com/keyward/keyward/session"
	"github.com/keyward/keyward/socket/api"
	goclient "github.com/keyward/keyward/socket/client"
)

// pageOf asks for a list, or a page of it, and returns the sessions' ids; or the error's code and reason.
func pageOf(t *testing.T, c *goclient.Client, method string, params ...any) string {
	t.Helper()
	var list []api.Session
	if err := c.Call(t.Context(), &list, method, params...); err != nil {
		reply := goclient.Details(err)
		if reply == nil {
			t.Fatal(err)
		}
		return fmt.Sprintf("%d %s", reply.Code, reply.Details().Reason)
	}
	ids := []string{}
	for _, sess := range list {
		ids = append(ids, sess.ID)
	}
	return fmt.Sprint(ids)
}

func TestPages(t *testing.T) {
	a := startAgent(t)
	if got := pageOf(t, a.app, "session_list", api.Page{Limit: 1}); got != "[]" {
		t.Errorf("a page of nothing: %s", got)
	}
	var ours, all []string
	var sessions []*session.Session
	for i := range 7 {
		client := us
		if i%3 == 2 {
			client = them
		}
		sess := a.active(forClients(client))
		sessions, all = append(sessions, sess), append(all, string(sess.ID))
		if client == us {
			ours = append(ours, string(sess.ID))
		}
	}
	theirs := sessions[2]
	for _, list := range []struct {
		client *goclient.Client
		method string
		ids    []string
	}{{a.app, "session_list", ours}, {a.operator, "admin_listSessions", all}} {
		for _, tt := range []struct {
			name   string
			params []any
			want   string
		}{
			{"no parameter", nil, fmt.Sprint(list.ids)},
			{"the whole as a page", []any{map[string]any{}}, fmt.Sprint(list.ids)},
			{"nulls", []any{map[string]any{"after": nil, "limit": nil}}, fmt.Sprint(list.ids)},
			{"the first two", []any{map[string]any{"limit": 2}}, fmt.Sprint(list.ids[:2])},
			{"after the second", []any{map[string]any{"after": list.ids[1], "limit": 2}}, fmt.Sprint(list.ids[2:4])},
			{"after the second, without a limit", []any{map[string]any{"after": list.ids[1]}}, fmt.Sprint(list.ids[2:])},
			{"after the first by signer", []any{map[string]any{"after": sessions[0].Signer(), "limit": 1}},
				fmt.Sprint(list.ids[1:2])},
			{"after the last", []any{map[string]any{"after": list.ids[len(list.ids)-1]}}, "[]"},
			{"limit 0", []any{map[string]any{"limit": 0}}, "-32602 invalidParams"},
			{"limit below 0", []any{map[string]any{"limit": -1}}, "-32602 invalidParams"},
			{"limit 1001", []any{map[string]any{"limit": 1001}}, "-32602 invalidParams"},
			{"limit a text", []any{map[string]any{"limit": "5"}}, "-32602 invalidParams"},
			{"limit with a fraction", []any{map[string]any{"limit": 1.5}}, "-32602 invalidParams"},
			{"after a number", []any{map[string]any{"after": 1}}, "-32602 invalidParams"},
			{"after nothing", []any{map[string]any{"after": ""}}, "-32602 invalidParams"},
			{"an unknown member", []any{map[string]any{"before": list.ids[0]}}, "-32602 invalidParams"},
			{"no object", []any{5}, "-32602 invalidParams"},
			{"after an unknown one", []any{map[string]any{"after": "0123456789abcdef"}}, "4100 unknownSigner"},
		} {
			if got := pageOf(t, list.client, list.method, tt.params...); got != tt.want {
				t.Errorf("%s, %s: %s, want %s", list.method, tt.name, got, tt.want)
			}
		}
	}
	// That another client's session exists is not told; the operator may go by it.
	if got := pageOf(t, a.app, "session_list", api.Page{After: string(theirs.ID)}); got != "4100 unknownSigner" {
		t.Errorf("after another client's: %s", got)
	}
	if got := pageOf(t, a.operator, "admin_listSessions", api.Page{After: string(theirs.ID)}); got != fmt.Sprint(all[3:]) {
		t.Errorf("admin_listSessions after the third: %s", got)
	}
	// A session that ends between two pages leaves no gap.
	a.revoke(sessions[1])
	if got := pageOf(t, a.app, "session_list", api.Page{After: string(sessions[1].ID),
		Limit: 2}); got != fmt.Sprint(ours[2:4]) {
		t.Errorf("after one that has ended: %s, want %v", got, ours[2:4])
	}
}

// The Go client asks for as many pages as there are.
func TestClientGetsAllPages(t *testing.T) {
	a := startAgent(t)
	for range 501 {
		a.pending()
	}
	whole := pageOf(t, a.app, "session_list")
	if null := pageOf(t, a.app, "session_list", nil); null != whole {
		t.Errorf("session_list of null = %s, want what it is without a parameter", null)
	}
	for name, list := range map[string]func() ([]*api.Session, error){
		"Sessions":    func() ([]*api.Session, error) { return a.app.Sessions(t.Context()) },
		"AllSessions": func() ([]*api.Session, error) { return a.operator.AllSessions(t.Context()) },
	} {
		sessions, err := list()
		if err != nil {
			t.Fatal(err)
		}
		var ids []string
		for _, sess := range sessions {
			ids = append(ids, sess.ID)
		}
		if got := fmt.Sprint(ids); got != whole || len(ids) != 501 {
			t.Errorf("%s gives %d sessions, want all 501, oldest first", name, len(ids))
		}
	}
	var signers []json.RawMessage
	if err := a.app.Call(t.Context(), &signers, "eth_accounts"); err != nil || len(signers) != 501 {
		t.Errorf("eth_accounts has %d, %v", len(signers), err)
	}
	if slices.ContainsFunc(signers, func(s json.RawMessage) bool { return len(s) != 44 }) {
		t.Errorf("eth_accounts = %s", signers[0])
	}
}
