package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"time"

	"github.com/keyward/keyward/internal/cardsim"
)

// touches says of each value of -touch what becomes of a touch.
var touches = map[string]string{
	"auto":  "each touch is given at once",
	"never": "nobody touches it",
	"ask":   "Enter touches it when it blinks",
}

// giveTouches says when a card begins to blink and when it ends, and for each line of in touches those that do, until
// ctx or in ends.
func giveTouches(ctx context.Context, in io.Reader, out io.Writer, cards []*cardsim.Card) {
	lines := make(chan struct{})
	go func() { // nothing but its end stops a read of the terminal, so this is not waited for
		defer close(lines)
		for s := bufio.NewScanner(in); s.Scan(); {
			select {
			case lines <- struct{}{}:
			case <-ctx.Done():
				return
			}
		}
	}()
	look := time.NewTicker(50 * time.Millisecond)
	defer look.Stop()
	blinked := make([]bool, len(cards))
	for {
		select {
		case <-ctx.Done():
			return
		case _, more := <-lines:
			if !more {
				fmt.Fprintln(out, "cardsim: the input has ended: nobody touches it any more")
				return
			}
			taken := false
			for i, card := range cards {
				if card.Touch() {
					taken, blinked[i] = true, false // a card that blinks from now on blinks anew
					fmt.Fprintf(out, "cardsim: card %d is touched\n", i+1)
				}
			}
			if !taken {
				fmt.Fprintln(out, "cardsim: nothing waits for a touch")
			}
		case <-look.C:
			for i, card := range cards {
				blinks := card.Blinks()
				switch {
				case blinks && !blinked[i]:
					fmt.Fprintf(out, "cardsim: card %d blinks: Enter touches it\n", i+1)
				case !blinks && blinked[i]:
					fmt.Fprintf(out, "cardsim: card %d blinks no more, and was not touched\n", i+1)
				}
				blinked[i] = blinks
			}
		}
	}
}
