package socket

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// oftenLog writes lines that clients can cause, at most one a second of each message. What it leaves out
// it counts in the next line. Safe for concurrent use.
type oftenLog struct {
	to *slog.Logger

	mu    sync.Mutex
	since map[string]*logged // by message, of which there are few
}

// logged is what is known of one message.
type logged struct {
	last    time.Time
	skipped int
}

func newOftenLog(to *slog.Logger) *oftenLog {
	return &oftenLog{to: to, since: make(map[string]*logged)}
}

// log writes a line, or counts it.
func (o *oftenLog) log(level slog.Level, msg string, args ...any) {
	o.mu.Lock()
	l := o.since[msg]
	if l == nil {
		l = &logged{}
		o.since[msg] = l
	}
	now := time.Now()
	if now.Sub(l.last) < time.Second {
		l.skipped++
		o.mu.Unlock()
		return
	}
	skipped := l.skipped
	l.last, l.skipped = now, 0
	o.mu.Unlock()
	if skipped > 0 {
		args = append(args, "more_like_it_before", skipped)
	}
	o.to.Log(context.Background(), level, msg, args...)
}
