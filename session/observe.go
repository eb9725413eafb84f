package session

import (
	"time"
)

// Stage is a part of the work whose time [Config.Observe] is told.
type Stage string

const (
	StagePolicy Stage = "policy" // judging one transaction
	StageQueue  Stage = "queue"  // waiting for a turn at the device
	StageDevice Stage = "device" // one signature
	StageLedger Stage = "ledger" // from a charge in memory until it and its record are on disk; the device works meanwhile
	StageCommit Stage = "commit" // one synced commit of the ledger's store, for all that waited
	StageSync   Stage = "sync"   // one sync of the audit trail's file
)

// observe tells how long a stage took.
func (c *Config) observe(stage Stage, took time.Duration) {
	if c.Observe != nil {
		c.Observe(stage, took)
	}
}

// QueueState is how many requests a device works on, and how many wait for it.
type QueueState struct {
	Slots   int // requests that the device works on at a time
	Busy    int
	Waiting int
}

// Queues returns the state of each device's queue, by backend.
func (s *Sessions) Queues() map[string]QueueState {
	states := make(map[string]QueueState, len(s.cfg.Backends))
	for name := range s.cfg.Backends {
		q := s.queue(name)
		q.mu.Lock()
		states[name] = QueueState{Slots: q.slots, Busy: q.busy, Waiting: q.waiting}
		q.mu.Unlock()
	}
	return states
}

// TrailLag is how many bytes of the audit trail may not be on disk in its own file yet. They are on disk in the ledger.
func (s *Sessions) TrailLag() int64 { return s.ledger.lag.Load() }
