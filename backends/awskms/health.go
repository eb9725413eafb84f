package awskms

import (
	"context"
	"sync"
	"time"

	"github.com/keyward/keyward/backends"
)

// probeEvery is how long the result of a call stands for the state of KMS.
const probeEvery = time.Minute

// health is what the last call said about KMS, so that asking for it costs no quota.
type health struct {
	mu  sync.Mutex
	at  time.Time // of the last call; zero: there was none
	err error     // of the last call, if it is not about one key
}

func (h *health) succeeded()       { h.set(nil) }
func (h *health) failed(err error) { h.set(err) }

func (h *health) set(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.at, h.err = time.Now(), err
}

// known returns what is known, unless it is too old.
func (h *health) known() (err error, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.err, !h.at.IsZero() && time.Since(h.at) < probeEvery
}

// status is the state of KMS as calls in the last minute found it. If there were none, probe
// makes one, of a kind that has a quota apart from that of signing and decrypting.
func (c *client) status(ctx context.Context, detail string, probe func(context.Context) error) backends.Status {
	unavailable := func(err error) backends.Status {
		return backends.Status{State: "unavailable", Detail: c.wrap("asking AWS", err).Error()}
	}
	ctx, end, err := c.begin(ctx)
	if err != nil {
		return unavailable(err)
	}
	defer end()
	err, ok := c.health.known()
	if !ok {
		if err = probe(ctx); err != nil && ctx.Err() == nil {
			c.health.failed(err)
		}
	}
	if err != nil {
		return unavailable(err)
	}
	return backends.Status{State: "ready", Detail: detail}
}
