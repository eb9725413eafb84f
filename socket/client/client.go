// Package client speaks to a Keyward agent over its sockets.
//
// A [Client] is safe for concurrent use: calls share one connection and run at
// the same time. When the agent restarts, the next call connects again.
package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync"

	"github.com/keyward/keyward/socket/api"
)

// Error is what the agent answers instead of a result: see its Denial and Details.
type Error = api.Error

// ErrClosed: the Client was closed.
var ErrClosed = errors.New("client is closed")

// Client is a connection to one socket of an agent. Make it with [Dial].
type Client struct {
	// OnWaiting, if not nil, is told what a person has to do while calls of this Client wait for that; "": none waits any
	// more. It holds up the answers and must not use the Client. Set it before the first call.
	OnWaiting func(what string)

	path string

	mu     sync.Mutex
	link   *link // nil: not connected
	closed bool
}

// Dial connects to the socket at path. ctx is for connecting only. An error of a socket that this user may not use
// wraps fs.ErrPermission and says which group to ask the operator for; calls that connect again return the same.
func Dial(ctx context.Context, path string) (*Client, error) {
	c := &Client{path: path}
	if _, err := c.connected(ctx, nil); err != nil {
		return nil, err
	}
	return c, nil
}

// Socket is the path that the Client was made with.
func (c *Client) Socket() string { return c.path }

// Close ends the connection; calls in flight fail.
func (c *Client) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	if c.link == nil {
		return nil
	}
	return c.link.nc.Close()
}

// once are the methods that are not sent again when the connection ends before the answer: it can't be known
// whether they were done, and doing them twice makes two keys, or spends two PIN tries.
// All others may be repeated: the same digest costs nothing more.
var once = map[string]bool{"admin_createSession": true, "admin_renewSession": true, "admin_checkBackend": true,
	"admin_unlock": true}

// Call calls a method and reads its result into result, which may be nil. If the connection
// has ended, it connects again, once. Errors are an [*Error] from the agent, or say what
// is wrong with the connection.
//
// A call that ctx ends is not undone: the agent may have signed.
func (c *Client) Call(ctx context.Context, result any, method string, params ...any) error {
	if params == nil {
		params = []any{}
	}
	encoded, err := json.Marshal(params)
	if err != nil {
		return fmt.Errorf("%s: encoding parameters: %w", method, err)
	}
	defer clear(encoded) // may hold a PIN
	used, err := c.ready(ctx, nil)
	if err != nil {
		return fmt.Errorf("%s: %w", method, err)
	}
	reply, err := used.call(ctx, method, encoded)
	if lost := new(lostError); errors.As(err, &lost) && (!lost.sent || !once[method]) {
		if used, err = c.ready(ctx, used); err == nil {
			reply, err = used.call(ctx, method, encoded)
		}
	}
	if err != nil {
		return fmt.Errorf("%s: %w", method, err)
	}
	if reply.Error != nil {
		return fmt.Errorf("%s: %w", method, reply.Error)
	}
	if result == nil {
		return nil
	}
	if err := json.Unmarshal(reply.Result, result); err != nil {
		return fmt.Errorf("%s: decoding the result: %w", method, err)
	}
	return nil
}

// ready returns a connection for calls: on which the agent says when one waits, if that is wanted.
func (c *Client) ready(ctx context.Context, lost *link) (*link, error) {
	l, err := c.connected(ctx, lost)
	if err == nil && c.OnWaiting != nil {
		l.notify(ctx, c.OnWaiting)
	}
	return l, err
}

// connected returns the connection, or a new one if there is none or it is lost.
func (c *Client) connected(ctx context.Context, lost *link) (*link, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, ErrClosed
	}
	if c.link != nil && c.link != lost && !c.link.dead() {
		return c.link, nil
	}
	// The lock is held while connecting, which on a Unix socket does not wait for the other side
	// unless its backlog is full; others would have to wait for the connection anyway.
	var d net.Dialer
	nc, err := d.DialContext(ctx, "unix", c.path)
	if err != nil {
		return nil, explain(c.path, err)
	}
	c.link = newLink(nc)
	return c.link, nil
}

// Details returns the agent's answer in err, or nil if err is something else.
func Details(err error) *Error {
	var reply *Error
	if errors.As(err, &reply) {
		return reply
	}
	return nil
}
