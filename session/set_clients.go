package session

import (
	"context"
	"fmt"
	"slices"

	"github.com/keyward/keyward/audit"
)

// clientsSet is the detail of a [audit.SessionClients] record.
type clientsSet struct {
	Before []Client `json:"before"`
	After  []Client `json:"after"`
}

// SetClients names the clients that may use a session from now on; those that it had and that are not among them may
// not. Requests that are under way are finished. The change and its record are on disk when SetClients returns. Errors
// wrap [ErrInvalid] or [ErrUnknownSigner].
func (s *Sessions) SetClients(ctx context.Context, by audit.Peer, id ID, clients []Client) (*Session, error) {
	detail := &clientsSet{After: slices.Clone(clients)}
	return s.change(ctx, id, &by, audit.SessionClients, detail, func(sess *Session) error {
		switch {
		case len(clients) == 0:
			return fmt.Errorf("%w: no client: nobody could use the session; to stop it, revoke it", ErrInvalid)
		case sess.Status.Ended():
			return fmt.Errorf("%w: session %s is %s, so nobody can use it", ErrInvalid, id, sess.Status)
		}
		detail.Before, sess.Clients = sess.Clients, detail.After
		return nil
	})
}
