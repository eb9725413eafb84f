package socket

import (
	"math/rand/v2"
	"testing"
	"time"
)

func TestRecent(t *testing.T) {
	var r recent
	now := time.Unix(1_000_000, 0)
	if d, n := r.quantiles(now, .5); n != 0 || d[0] != 0 {
		t.Errorf("of nothing: %v of %d", d, n)
	}
	for i := range 1000 { // 1 to 1000 ms, over 50 s
		r.add(now.Add(time.Duration(i)*50*time.Millisecond), time.Duration(i+1)*time.Millisecond)
	}
	d, n := r.quantiles(now.Add(50*time.Second), .5, .99)
	for i, want := range []time.Duration{500 * time.Millisecond, 990 * time.Millisecond} {
		if d[i] < want || d[i] > want+want/16 {
			t.Errorf("quantile %d = %v of %d requests, want %v to a sixteenth", i, d[i], n, want)
		}
	}
	if d, n := r.quantiles(now.Add(2*time.Minute), .5); n != 0 || d[0] != 0 {
		t.Errorf("after two minutes: %v of %d, want none", d, n)
	}
}

// Every duration is in the bucket that ends with it or up to a sixteenth after it, and buckets are in order.
func TestRecentBuckets(t *testing.T) {
	for range 10000 {
		d := time.Duration(rand.Uint64N(1<<rand.UintN(40))) * time.Microsecond
		if end := endOf(bucketOf(d)); end < d || end > d+d/16 || bucketOf(end) != bucketOf(d) ||
			bucketOf(end+time.Microsecond) != bucketOf(d)+1 {
			t.Fatalf("%v is in bucket %d, which ends at %v", d, bucketOf(d), end)
		}
	}
}
