package session

import (
	"errors"
	"testing"
	"time"

	"github.com/keyward/keyward/chain"
)

func TestClock(t *testing.T) {
	const bound = 60
	type look struct {
		after  int64 // seconds since the look before, of true time
		number uint64
		block  int64 // its time, in seconds since the start
	}
	steady := func(lag int64, n int) (all []look) {
		for i := range n {
			all = append(all, look{10, uint64(100 + 10*i), int64(10*(i+1)) - lag})
		}
		return all
	}
	for _, tt := range []struct {
		name  string
		ours  int64 // our clock less true time
		looks []look
		fault bool
	}{
		{"never looked", 0, nil, false},
		{"right", 0, steady(1, 5), false},
		{"within the bound", 55, steady(1, 5), false},
		{"slow within the bound", -55, steady(1, 5), false},
		{"slow", -62, steady(0, 1), true},
		{"slow by years", -1e8, steady(0, 1), true},
		{"fast, one look", 1000, steady(1, 1), false},
		{"fast, three looks of which two compare", 1000, steady(1, 3), false},
		{"fast", 1000, steady(1, 4), true},
		{"a node that has stopped", 0, []look{{10, 100, 9}, {600, 100, 9}, {600, 100, 9}, {600, 100, 9}, {600, 100, 9}},
			false},
		{"a node that catches up", 0, []look{{10, 100, -9000}, {10, 200, -7000}, {10, 300, -5000}, {10, 400, -3000},
			{10, 500, -1000}, {10, 501, 60}}, false},
		{"a chain with a block every ten minutes", 0, []look{{10, 100, 1}, {590, 100, 1}, {10, 101, 601}, {600, 102, 1201},
			{600, 103, 1801}, {600, 104, 2401}}, false},
		{"polled rarely", 0, []look{{10, 100, 1}, {3600, 200, 3600}, {3600, 300, 7200}, {3600, 400, 10800},
			{3600, 500, 14400}}, false},
		{"set back to an older chain", 0, []look{{10, 100, 9}, {10, 50, -500}, {10, 50, -500}, {10, 100, 30}}, false},
		{"a node that lags at a constant distance", 0, steady(500, 6), true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			start := time.Unix(1_800_000_000, 0)
			c := &clock{bound: bound * time.Second}
			at := func(seconds int64) moment {
				return moment{start.Add(time.Duration(seconds+tt.ours) * time.Second), time.Duration(seconds) * time.Second}
			}
			now := int64(0)
			for _, l := range tt.looks {
				now += l.after
				c.look(chain.Block{Number: l.number, Time: uint64(start.Unix() + l.block)}, at(now))
			}
			if err := c.check(at(now)); errors.Is(err, ErrClock) != tt.fault {
				t.Errorf("check = %v, want a fault: %v", err, tt.fault)
			}
			c.bound = 0
			if err := c.check(at(now)); err != nil {
				t.Errorf("without a bound: %v", err)
			}
		})
	}
}

// A clock that is set right passes at once if it was slow, and with the next look if it was fast, even
// at a node that has stopped.
func TestClockSetRight(t *testing.T) {
	start := time.Unix(1_800_000_000, 0)
	c := &clock{bound: time.Minute}
	c.look(chain.Block{Number: 1, Time: uint64(start.Unix()) + 300}, moment{start, 0})
	if c.check(moment{start.Add(time.Hour), time.Hour}) == nil {
		t.Fatal("slow by 300 s passes")
	}
	if err := c.check(moment{start.Add(time.Hour + 300*time.Second), time.Hour}); err != nil {
		t.Errorf("set right: %v", err)
	}
	c = &clock{bound: time.Minute}
	at := func(seconds, ours int64) moment {
		return moment{start.Add(time.Duration(seconds+ours) * time.Second), time.Duration(seconds) * time.Second}
	}
	for i := range int64(5) {
		c.look(chain.Block{Number: uint64(i), Time: uint64(start.Unix() + 10*i)}, at(10*i, 300))
	}
	if c.check(at(40, 300)) == nil {
		t.Fatal("fast by 300 s passes")
	}
	c.look(chain.Block{Number: 4, Time: uint64(start.Unix() + 40)}, at(50, 0))
	if err := c.check(at(50, 0)); err != nil {
		t.Errorf("set right: %v", err)
	}
}
