package socket

import (
	"encoding/json"
	"fmt"

	"github.com/keyward/keyward/policy"
	"github.com/keyward/keyward/session"
	"github.com/keyward/keyward/socket/api"
)

// Bounds of a page of a list.
const (
	defaultPage = 100
	maxPage     = 1000
)

var pageParam = Param{"page", false, "Page", fmt.Sprintf(
	"after: the id or signer of the last session of the page before; limit: at most this many, 1 to %d, default %d. A "+
		"page with fewer is the last. Without this parameter: all",
	maxPage, defaultPage)}

// page reads the parameter of a list. find finds the session that after names.
func (s *Server) page(c *call, find func(session.Ref) (*session.Session, error)) (page session.Page, err error) {
	if c.param(0) == nil {
		return page, nil
	}
	names := []string{"after", "limit"}
	fields := policy.OpenObject("", c.param(0), names)
	if fields.Err() != nil {
		return page, fields.Err()
	}
	fields.NullIsAbsent(names...)
	page.Limit = defaultPage
	if v := fields.Get("limit"); v != nil {
		if json.Unmarshal(v, &page.Limit) != nil || page.Limit < 1 || page.Limit > maxPage {
			return page, badParam("limit", "want a number from 1 to %d", maxPage)
		}
	}
	if v := fields.Get("after"); v != nil {
		name, err := parseName("after", v)
		if err != nil {
			return page, err
		}
		if page.After, err = find(name); err != nil {
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
