package session

import (
	"context"
	"errors"
)

// Alive returns nil once the store has made a write durable that came after the call, and every queue in front of a
// device has let go of its lock: what a watchdog asks. It asks no device, so a slow or absent one is no error. Nor is a
// ledger that has stopped ([ErrHalted]): the agent says so in its status, and a restart would only hide why. Other
// errors are the context's.
func (s *Sessions) Alive(ctx context.Context) error {
	if err := s.enqueue(ctx, &entry{}); err != nil && !errors.Is(err, ErrHalted) {
		return err
	}
	waiting := make(chan int, 1)
	go func() { waiting <- s.waiting() }() // never returns after a deadlock, which this is to find
	select {
	case <-waiting:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// waiting is how many requests wait for devices.
func (s *Sessions) waiting() (n int) {
	s.keysMu.Lock()
	defer s.keysMu.Unlock()
	for _, q := range s.queues {
		q.mu.Lock()
		n += q.waiting
		q.mu.Unlock()
	}
	return n
}
