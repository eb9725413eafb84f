package socket

import (
	"math/bits"
	"sync"
	"time"
)

const (
	recentSlots = 6
	recentSlot  = 10 * time.Second
	fineBits    = 4 // of a duration that tell buckets apart: they are 1/16 apart
)

// recent counts how long requests for a signature took in the last minute. Safe for concurrent use. The zero recent is
// empty.
type recent struct {
	mu    sync.Mutex
	slots [recentSlots]recentCounts
	since map[int]int // since the last take
}

// recentCounts are the requests of ten seconds.
type recentCounts struct {
	number int64 // of the slot, since the epoch
	counts map[int]int
}

// add counts a request that ended at now.
func (r *recent) add(now time.Time, took time.Duration) {
	number := now.UnixNano() / int64(recentSlot)
	r.mu.Lock()
	defer r.mu.Unlock()
	s := &r.slots[number%recentSlots]
	if s.number != number {
		*s = recentCounts{number: number, counts: map[int]int{}}
	}
	s.counts[bucketOf(took)]++
	if r.since == nil {
		r.since = map[int]int{}
	}
	r.since[bucketOf(took)]++
}

// take returns the quantiles of the requests since the last take.
func (r *recent) take(parts ...float64) (durations []time.Duration, n int) {
	r.mu.Lock()
	since := r.since
	r.since = nil
	r.mu.Unlock()
	return quantilesOf(since, parts)
}

// quantiles returns how long that part of the requests of the last minute took at most, for each of parts, 0 to 1. n is
// how many requests there were; if it is 0, so are the durations.
func (r *recent) quantiles(now time.Time, parts ...float64) (durations []time.Duration, n int) {
	oldest := now.UnixNano()/int64(recentSlot) - recentSlots + 1
	all := map[int]int{}
	r.mu.Lock()
	for i := range r.slots {
		if r.slots[i].number < oldest {
			continue
		}
		for bucket, count := range r.slots[i].counts {
			all[bucket] += count
		}
	}
	r.mu.Unlock()
	return quantilesOf(all, parts)
}

func quantilesOf(counts map[int]int, parts []float64) (durations []time.Duration, n int) {
	highest := 0
	for bucket, count := range counts {
		n += count
		highest = max(highest, bucket)
	}
	durations = make([]time.Duration, len(parts))
	for i, part := range parts {
		for bucket, seen := 0, 0; n > 0 && bucket <= highest; bucket++ {
			if seen += counts[bucket]; float64(seen) >= part*float64(n) {
				durations[i] = endOf(bucket)
				break
			}
		}
	}
	return durations, n
}

// bucketOf numbers durations in µs by their highest bits: what falls into one bucket differs by 1/16 at most.
func bucketOf(d time.Duration) int {
	us := uint64(max(d.Microseconds(), 0))
	shift := max(0, bits.Len64(us)-1-fineBits)
	return shift<<fineBits + int(us>>shift)
}

// endOf is the longest duration in a bucket.
func endOf(bucket int) time.Duration {
	shift := max(0, bucket>>fineBits-1)
	us := (uint64(bucket-shift<<fineBits)+1)<<shift - 1
	return time.Duration(us) * time.Microsecond
}
