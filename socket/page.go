package socket

import (
	"encoding/json"
	"fmt"

	"github.com/keyward/keyward/session"
	"github.com/keyward/keyward/socket/api"
)

// Bounds of a page of a list.
const (
	defaultPage = 100
	maxPage     = 1000
)

var pageParam = Param{"page", false, "Page", fmt.Sprintf(
	"after: the id or signer of the last session of the page before; limit: at most this many, 1 to %d, default %d. A page with fewer is the last. Without this parameter: all",
	maxPage, defaultPage)}

// page reads the parameter of a list. find finds the session that after names.
func (s *Server) page(c *call, find func(session.Ref) (*session.Session, error)) (page session.Page, err error) {
	if c.param(0) == nil {
		return page, nil
	}
	fields, err := members(c.param(0))
	if err != nil {
		return page, badParam("params[0]", "want %v", err)
	}
	page.Limit = defaultPage
	for _, f := range fields {
		switch {
		case f.key != "after" && f.key != "limit":
			err = badParam("params[0]", "unknown member %q: want after or limit", shorten(f.key))
		case string(f.value) == "null": // as if it were not there
		case f.key == "limit":
			if json.Unmarshal(f.value, &page.Limit) != nil || page.Limit < 1 || page.Limit > maxPage {
				err = badParam("limit", "want a number from 1 to %d", maxPage)
			}
		default:
			var name session.Ref
			if name, err = parseName("after", f.value); err == nil {
				page.After, err = find(name)
			}
		}
		if err != nil {
			return page, err
		}
	}
	return page, nil
}

// showAll shows sessions in a list, which is never null.
func (s *Server) showAll(sessions []*session.Session) []*api.Session {
	list := make([]*api.Session, len(sessions))
	for i, sess := range sessions {
		list[i] = s.show(sess)
	}
	return list
}
