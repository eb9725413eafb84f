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

// ParseClient reads the text form of a client that is to use a session. It refuses ids that name no single user or
// group:
// -1, and those of /proc/sys/kernel/overflowuid and overflowgid.
func ParseClient(s string) (Client, error) {
	c, err := readClient(s)
	if err == nil {
		err = c.nobody()
	}
	if err != nil {
		return Client{}, err
	}
	return c, nil
}

func readClient(s string) (Client, error) {
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

// UnmarshalText reads the text form. A stored session may name what [ParseClient] refuses: nobody is that client.
func (c *Client) UnmarshalText(b []byte) (err error) { *c, err = readClient(string(b)); return err }

// Is reports whether peer is c. The root user is no exception: it is a client only if named. An id that names no
// single user or group is nobody's.
func (c Client) Is(peer audit.Peer) bool {
	if c.nobody() != nil {
		return false
	}
	if c.Group {
		return peer.GID == c.ID || slices.Contains(peer.Groups, c.ID)
	}
	return peer.UID == c.ID
}

// identities are the clients that peer is.
func identities(peer audit.Peer) iter.Seq[Client] {
	return func(each func(Client) bool) {
		yield := func(c Client) bool { return c.nobody() != nil || each(c) }
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
