package command

import (
	"testing"
	"time"

	"github.com/holiman/uint256"

	"github.com/keyward/keyward/policy"
	"github.com/keyward/keyward/socket/api"
)

func TestRenewedUntil(t *testing.T) {
	created := time.Unix(1_700_000_000, 0)
	now := created.Add(10 * day)
	never := new(uint256.Int).SetAllOne()
	for _, c := range []struct {
		expiresAt *uint256.Int
		lifetime  time.Duration
		want      string
	}{
		{uint256.NewInt(1_700_000_000 + 30*86_400), 0, "1703456000"}, // 30 days from now
		{uint256.NewInt(1_700_000_000 + 30*86_400), 7 * day, "1701468800"},
		{uint256.NewInt(1<<48 - 1), 0, "281474976710655"},
		{never, 0, never.Dec()}, // and not a number that overflows
		{never, 7 * day, "1701468800"},
	} {
		old := &api.Session{CreatedAt: created, Session: &policy.Spec{ExpiresAt: *c.expiresAt}}
		if got := renewedUntil(old, c.lifetime, now); got.String() != c.want {
			t.Errorf("expiresAt %s, lifetime %v: %v, want %s", c.expiresAt.Dec(), c.lifetime, got, c.want)
		}
	}
}
