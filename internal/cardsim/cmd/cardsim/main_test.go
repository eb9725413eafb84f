package main

import (
	"context"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/keyward/keyward/internal/cardsim"
	"github.com/keyward/keyward/internal/syncbuf"
)

// blinking is an applet each of whose commands waits for a touch.
type blinking struct{}

func (blinking) AID() []byte              { return []byte("\xf0\x00\x00\x00\x01") }
func (blinking) Select() ([]byte, uint16) { return nil, cardsim.SWOK }
func (blinking) Reset()                   {}
func (blinking) Process(cmd *cardsim.Command) ([]byte, uint16) {
	if !cmd.WaitTouch() {
		return nil, cardsim.SWNotSatisfied
	}
	return nil, cardsim.SWOK
}

// TestGiveTouches: a card blinks until Enter is typed, or for its own time.
func TestGiveTouches(t *testing.T) {
	card := cardsim.NewCard(blinking{})
	send := func(apdu string) string {
		answer, _ := card.Transmit(t.Context(), []byte(apdu))
		return string(answer)
	}
	if got := send("\x00\xa4\x04\x00\x05\xf0\x00\x00\x00\x01"); got != "\x90\x00" {
		t.Fatalf("SELECT: %x", got)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	in, typed := io.Pipe()
	var out syncbuf.Buffer
	done := make(chan struct{})
	go func() { defer close(done); giveTouches(ctx, in, &out, []*cardsim.Card{card}) }()
	says := func(text string, times int) {
		t.Helper()
		for deadline := time.Now().Add(10 * time.Second); strings.Count(out.String(),
			text) != times; time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("it says %q, want %q, %d times", out.String(), text, times)
			}
		}
	}
	enter := func() {
		t.Helper()
		if _, err := io.WriteString(typed, "\n"); err != nil {
			t.Fatal(err)
		}
	}
	enter()
	says("nothing waits for a touch", 1)

	answer := make(chan string)
	for n := range 2 { // the second at once, as if it had gone on blinking
		go func() { answer <- send("\x00\x01\x00\x00") }()
		says("card 1 blinks: Enter touches it", n+1)
		enter()
		if got := <-answer; got != "\x90\x00" {
			t.Errorf("with a touch: %x", got)
		}
	}
	says("card 1 is touched", 2)

	card.SetTouchTimeout(time.Second)
	if got := send("\x00\x01\x00\x00"); got != "\x69\x82" {
		t.Errorf("without a touch: %x", got)
	}
	says("card 1 blinks no more, and was not touched", 1)
	typed.Close()
	<-done
	says("the input has ended", 1)
}

func TestOptions(t *testing.T) {
	for _, tt := range []struct {
		o       options
		command []string
		want    string
	}{
		{options{firmware: "5.4.3", cards: 1, touch: "auto"}, []string{"true"}, ""},
		{options{firmware: "5.7.1", cards: 2, touch: "ask"}, nil, ""},
		{options{firmware: "5.4.3", cards: 1, touch: "never"}, []string{"true"}, ""},
		{options{firmware: "5.4.3", cards: 1, touch: "ask"}, []string{"true"}, "another"},
		{options{firmware: "5.4.3", cards: 1, touch: "yes"}, nil, "touch is auto, never or ask"},
		{options{firmware: "5.4.3", cards: 3, touch: "auto"}, nil, "cards is 1 or 2"},
		{options{firmware: "4", cards: 1, touch: "auto"}, nil, "firmware is"},
	} {
		err := tt.o.check(tt.command)
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("check of %+v with command %q = %v, want %q", tt.o, tt.command, err, tt.want)
		}
	}
}
