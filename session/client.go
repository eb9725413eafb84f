package session

import (
	"fmt"
	"iter"
	"slices"
	"strconv"
	"strings"

	"github.com/keyward/keyward/audit"
)

// Client is a kernel identity that may use a session. Its text form is "uid:1000" or "gid:1000".
type Client struct {
	Group bool // a group rather than a user
	ID    uint32
}

// ParseClient reads a client's text form.
func ParseClient(s string) (Client, error) {
	kind, num, _ := strings.Cut(s, ":")
	id, err := strconv.ParseUint(num, 10, 32)
	if err != nil || (kind != "uid" && kind != "gid") || strconv.FormatUint(id, 10) != num {
		return Client{}, fmt.Errorf("client %q: want uid:N or gid:N", s)
	}
	return Client{Group: kind == "gid", ID: uint32(id)}, nil
}

func (c Client) String() string {
	if c.Group {
		return "gid:" + strconv.FormatUint(uint64(c.ID), 10)
	}
	return "uid:" + strconv.FormatUint(uint64(c.ID), 10)
}

// MarshalText gives the text form.
func (c Client) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// UnmarshalText is [ParseClient].
func (c *Client) UnmarshalText(b []byte) (err error) { *c, err = ParseClient(string(b)); return err }

// Is reports whether peer is c. The root user is no exception: it is a client only if named.
func (c Client) Is(peer audit.Peer) bool {
	if c.Group {
		return peer.GID == c.ID || slices.Contains(peer.Groups, c.ID)
	}
	return peer.UID == c.ID
}

// identities are the clients that peer is.
func identities(peer audit.Peer) iter.Seq[Client] {
	return func(yield func(Client) bool) {
		if !yield(Client{ID: peer.UID}) || !yield(Client{Group: true, ID: peer.GID}) {
			return
		}
		for _, gid := range peer.Groups {
			if gid != peer.GID && !yield(Client{Group: true, ID: gid}) {
				return
			}
		}
	}
}

// allows reports whether peer is one of the session's clients.
func (s *Session) allows(peer audit.Peer) bool {
	return slices.ContainsFunc(s.Clients, func(c Client) bool { return c.Is(peer) })
}

// HasSession reports whether peer is a client of any session that has not ended.
func (s *Sessions) HasSession(peer audit.Peer) bool {
	x := s.ledger.index
	x.mu.RLock()
	defer x.mu.RUnlock()
	for client := range identities(peer) {
		if of := x.clients[client]; of != nil && len(of.live) > 0 {
			return true
		}
	}
	return false
}
