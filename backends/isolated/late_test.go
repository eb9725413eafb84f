package isolated

import (
	"bytes"
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keyward/keyward/backends/backendtest"
	"github.com/keyward/keyward/internal/secret"
)

// TestPINTooLate: the child has given up its call when the Keeper hands out the PIN. That is told to the source
// by its ctx, since the call's own time is not over. The try must not keep the Keeper from others.
func TestPINTooLate(t *testing.T) {
	dir, asked := newCard(t), make(chan struct{})
	var late atomic.Bool
	keeper := secret.NewKeeper(func(ctx context.Context) (*secret.Buffer, error) {
		if late.CompareAndSwap(true, false) {
			close(asked)
			<-ctx.Done()
		}
		return secret.Take([]byte(cardPIN))
	}, 0)
	b := open(t, Config{Type: "card", Settings: dir, PINs: keeper, Timeout: 5 * time.Second})
	k := backendtest.Generate(t, b, "x")
	late.Store(true)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-asked; cancel() }()
	if _, err := k.SignDigest(ctx, [32]byte{1}); !errors.Is(err, context.Canceled) {
		t.Errorf("SignDigest = %v, want Canceled", err)
	}
	pid := base(b).pid()
	backendtest.Verify(t, k, [32]byte{2})
	if now := base(b).pid(); now != pid {
		t.Errorf("child is process %d, was %d", now, pid)
	}
	if n := (&card{dir: dir}).number("shown"); n != 1 {
		t.Errorf("the card was shown %d PINs, want 1", n)
	}
}

// TestLateAnswerIsWiped: it may be a PIN.
func TestLateAnswerIsWiped(t *testing.T) {
	ours, _ := pair(t) // the other side is silent
	c := new(conn)
	c.start(ours)
	defer c.fail(errClosed)
	for _, kind := range []kind{kindResult, kindFailure} {
		told := false
		p := &pending{answer: make(chan *frame, 1)}
		a := &frame{kind: kind, body: []byte(cardPIN)}
		p.answer <- a
		c.giveUp(1, p, func() { told = true })
		if !bytes.Equal(a.body, make([]byte, len(cardPIN))) {
			t.Errorf("the answer still holds %q", a.body)
		}
		if want := kind == kindResult; told != want {
			t.Errorf("kind %d: told of a late result: %v, want %v", kind, told, want)
		}
	}
}
