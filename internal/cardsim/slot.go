package cardsim

import (
	"bufio"
	"context"
	"encoding/binary"
	"io"
	"net"
	"sync"
	"syscall"
	"time"
)

// vpcd's control messages: a body of one byte.
const (
	vpcdOff   = 0x00
	vpcdOn    = 0x01
	vpcdReset = 0x02
	vpcdATR   = 0x04 // also vpcd's way to ask whether the card is still there
)

// redial is how long a card waits for a reader that is not there, as while pcscd restarts.
const redial = 10 * time.Millisecond

// slot is a reader, as the card sees it: a TCP port of vpcd on loopback. A closed connection is an
// empty reader.
type slot struct {
	addr string

	mu   sync.Mutex
	card *Card
	out  context.CancelFunc // takes the card out
	done chan struct{}      // closed when it is out
}

// put puts the card in; it must be empty. The card connects again if vpcd goes away. powered is closed
// when the card gets power for the first time.
func (s *slot) put(card *Card) (powered <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.card != nil {
		panic("cardsim: the reader holds a card")
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	on := make(chan struct{})
	s.card, s.out, s.done = card, cancel, done
	onPower := sync.OnceFunc(func() { close(on) })
	go func() {
		defer close(done)
		defer cancel()
		for ctx.Err() == nil {
			s.connect(ctx, cancel, onPower, card)
		}
	}()
	return on
}

// take takes the card out, if there is one. A command that waits ends without an answer.
func (s *slot) take() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.card == nil {
		return
	}
	s.out()
	<-s.done
	s.card = nil
}

// full tells if a card is in.
func (s *slot) full() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.card == nil {
		return false
	}
	select {
	case <-s.done: // a fault took it out
		return false
	default:
		return true
	}
}

// connect serves one connection. It calls unplug if a fault takes the card out, and onPower each
// time the card is switched on.
func (s *slot) connect(ctx context.Context, unplug, onPower func(), card *Card) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", s.addr)
	if err != nil {
		select {
		case <-time.After(redial):
		case <-ctx.Done():
		}
		return
	}
	defer conn.Close()
	defer card.power()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(ctx, func() { conn.Close() })()

	messages := make(chan []byte)
	go func() { // so that a lost connection is noticed while a command waits
		defer cancel()
		defer close(messages)
		readMessages(ctx, conn.(*net.TCPConn), messages)
	}()
	for m := range messages {
		if len(m) == 1 && m[0] == vpcdOn {
			onPower()
		}
		answer, out := serve(ctx, card, m)
		if answer != nil && writeMessage(conn, answer) != nil {
			cancel()
		}
		if out {
			unplug()
		}
	}
}

// serve returns the answer to a message, or nil if there is none.
func serve(ctx context.Context, card *Card, m []byte) (answer []byte, unplug bool) {
	if len(m) != 1 {
		return card.Transmit(ctx, m)
	}
	switch m[0] {
	case vpcdOff, vpcdOn, vpcdReset:
		card.power()
	case vpcdATR:
		return card.ATR, false
	}
	return nil, false
}

// readMessages passes on what vpcd sends, until the connection or ctx ends.
func readMessages(ctx context.Context, conn *net.TCPConn, messages chan<- []byte) {
	r := bufio.NewReader(quick{conn})
	for {
		var length [2]byte
		if _, err := io.ReadFull(r, length[:]); err != nil {
			return
		}
		m := make([]byte, binary.BigEndian.Uint16(length[:]))
		if _, err := io.ReadFull(r, m); err != nil {
			return
		}
		select {
		case messages <- m:
		case <-ctx.Done():
			return
		}
	}
}

func writeMessage(w io.Writer, m []byte) error {
	_, err := w.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(m))), m...))
	return err
}

// quick acknowledges at once what it reads: vpcd sends a message in two segments, and the second
// would wait 40 ms for the acknowledgement of the first.
type quick struct{ *net.TCPConn }

func (q quick) Read(b []byte) (int, error) {
	raw, err := q.SyscallConn()
	if err != nil {
		return 0, err
	}
	// Without the option all works, only slower. Linux resets it by itself, so it is set each time.
	raw.Control(func(fd uintptr) {
		syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_QUICKACK, 1)
	})
	return q.TCPConn.Read(b)
}
