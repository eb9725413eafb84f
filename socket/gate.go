package socket

import (
	"context"
	"sync"
)

// gate lets calls through while it is open, and can tell when the last of them is done.
// The zero gate is open. Safe for concurrent use.
type gate struct {
	mu     sync.Mutex
	closed bool
	inside int
	empty  chan struct{} // closed when inside becomes 0; nil if nobody waits
}

// Enter goes in, unless the gate is closed. Every true needs a [gate.Leave].
func (g *gate) Enter() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return false
	}
	g.inside++
	return true
}

// Leave ends what Enter began.
func (g *gate) Leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.inside--
	if g.inside == 0 && g.empty != nil {
		close(g.empty)
		g.empty = nil
	}
}

// Shut lets nobody in from now on, and does not wait.
func (g *gate) Shut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = true
}

// Close lets nobody in from now on and waits until all have left.
func (g *gate) Close(ctx context.Context) error {
	g.mu.Lock()
	g.closed = true
	if g.inside == 0 {
		g.mu.Unlock()
		return nil
	}
	if g.empty == nil {
		g.empty = make(chan struct{})
	}
	empty := g.empty
	g.mu.Unlock()
	select {
	case <-empty:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Open lets calls in again.
func (g *gate) Open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = false
}

// Closed reports whether the gate is closed.
func (g *gate) Closed() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.closed
}
