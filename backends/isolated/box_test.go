package isolated

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/keyward/keyward/backends"
)

// TestInbox: frames come out as they went in, however they arrive, and nothing of them stays in the buffer.
func TestInbox(t *testing.T) {
	var stream []byte
	var want []*frame
	for i := range 300 {
		size := rand.IntN(300)
		if i%50 == 7 {
			size = 3 * inboxSize
		}
		f := &frame{kind: kindCall, op: opUnlock, id: uint64(i) + 1, left: time.Second,
			body: bytes.Repeat([]byte{0xAA}, size)}
		var err error
		if stream, err = appendFrame(stream, f); err != nil {
			t.Fatal(err)
		}
		want = append(want, f)
	}
	for name, from := range map[string]io.Reader{
		"together":      bytes.NewReader(stream),
		"byte by byte":  iotest.OneByteReader(bytes.NewReader(stream)),
		"half by half":  iotest.HalfReader(bytes.NewReader(stream)),
		"with the end":  iotest.DataErrReader(bytes.NewReader(stream)),
		"in odd pieces": pieces{bytes.NewReader(stream), 97},
	} {
		in := &inbox{from: from}
		for i, w := range want {
			got, err := in.next()
			if err != nil {
				t.Fatalf("%s: frame %d: %v", name, i, err)
			}
			if got.kind != w.kind || got.op != w.op || got.id != w.id || got.left != w.left || !bytes.Equal(got.body, w.body) {
				t.Fatalf("%s: frame %d is %.200v, want %.200v", name, i, got, w)
			}
			if rest := bytes.Count(in.buf[:in.start], []byte{0xAA}) + bytes.Count(in.buf[in.end:], []byte{0xAA}); rest != 0 {
				t.Fatalf("%s: after frame %d, %d bytes of what was handed out are in the buffer", name, i, rest)
			}
		}
		if f, err := in.next(); err == nil {
			t.Errorf("%s: after the end comes %+v", name, f)
		}
	}
}

// pieces reads n bytes at a time.
type pieces struct {
	io.Reader
	n int
}

func (p pieces) Read(b []byte) (int, error) { return p.Reader.Read(b[:min(len(b), p.n)]) }

// TestOutbox: many calls in parallel, some larger than the socket takes, all come through.
func TestOutbox(t *testing.T) {
	ours, theirs := pair(t)
	client, server := &conn{}, &conn{}
	client.notice, server.notice = func(*frame) {}, func(*frame) {}
	server.handle = func(_ context.Context, f *frame) ([]byte, error) { return bytes.Clone(f.body), nil }
	client.start(ours)
	server.start(theirs)
	var wg sync.WaitGroup
	for i := range 64 {
		wg.Go(func() {
			for n := range 50 {
				want := bytes.Repeat([]byte{byte(i)}, 1+i*n)
				if n == 25 {
					want = bytes.Repeat([]byte{byte(i)}, 300<<10)
				}
				got, err := client.call(t.Context(), opKeys, bytes.Clone(want), 0)
				if err != nil || !bytes.Equal(got, want) {
					t.Errorf("caller %d: an answer of %d bytes, %v, want the %d that were sent", i, len(got), err, len(want))
					return
				}
			}
		})
	}
	wg.Wait()
	client.fail(errClosed)
	<-server.done
}

// TestUnreadBytesAreBounded: the other side reads nothing, and senders do not wait for it.
func TestUnreadBytesAreBounded(t *testing.T) {
	ours, _ := pair(t)
	const size, most = 1 << 20, 16 << 20
	c := &conn{unread: most}
	c.start(ours)
	defer c.fail(errClosed)
	sent := 0
	for c.reason() == nil && sent <= most+2*size {
		if _, err := c.send(&frame{kind: kindNotice, op: opLog, body: make([]byte, size)}); err == nil {
			sent += size
		}
	}
	if err := c.reason(); err == nil || !strings.Contains(err.Error(), "bytes are not read by the other side") {
		t.Errorf("after %d MiB that wait to be read, the conn ended with %v", sent>>20, err)
	}
	if sent < most-2*size {
		t.Errorf("only %d MiB were taken, want about %d", sent>>20, most>>20)
	}
}

// TestDrain: a conn that is to end answers the calls that are in it, and takes no more.
func TestDrain(t *testing.T) {
	ours, theirs := pair(t)
	asked, release := make(chan struct{}), make(chan struct{})
	client, server := &conn{}, &conn{}
	server.handle = func(_ context.Context, f *frame) ([]byte, error) {
		close(asked)
		<-release
		return []byte("1"), nil
	}
	client.start(ours)
	server.start(theirs)
	done := make(chan error)
	go func() { _, err := client.call(t.Context(), opKeys, nil, 0); done <- err }()
	<-asked
	client.drain(errHangs, time.Hour)
	if client.open() {
		t.Error("it takes calls")
	}
	if _, err := client.call(t.Context(), opKeys, nil, 0); !errors.Is(err, errHangs) {
		t.Errorf("a new call = %v, want %v", err, errHangs)
	}
	close(release)
	if err := <-done; err != nil {
		t.Errorf("the call in flight = %v", err)
	}
	<-client.done
	if !errors.Is(client.reason(), errHangs) || !errors.Is(client.reason(), backends.ErrUnavailable) {
		t.Errorf("it ended for %v", client.reason())
	}

	ours, _ = pair(t) // the other side is silent
	silent := &conn{}
	silent.start(ours)
	go func() { _, err := silent.call(t.Context(), opKeys, nil, 0); done <- err }()
	for !waitingCalls(silent) {
		time.Sleep(time.Millisecond)
	}
	silent.drain(errHangs, 10*time.Millisecond)
	if err := <-done; !errors.Is(err, errHangs) {
		t.Errorf("a call that is not answered = %v, want %v", err, errHangs)
	}
}

func waitingCalls(c *conn) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.calls) > 0
}

func TestLastWords(t *testing.T) {
	long := strings.Repeat("x", 10*maxLine)
	for _, tt := range []struct{ in, want string }{
		{"loaded\nSIGSEGV: segmentation violation\nPC=0x1 m=3\n\nSIGABRT: abort\n", "SIGSEGV: segmentation violation"},
		{"SIGNATURES 12\npanic: a bug\n", "panic: a bug"},
		{"fatal error: " + long + "\n", ("fatal error: " + long)[:maxLine]},
		{long + "\nSIGABRT: abort\n", "SIGABRT: abort"},
		{"no line: SIGSEGV: x\n", ""},
		{"SIGBUS: cut off", ""},
	} {
		for _, size := range []int{1, 7, 1 << 20} {
			var passed bytes.Buffer
			w := &lastWords{to: &passed}
			for in := tt.in; in != ""; {
				n := min(size, len(in))
				if wrote, err := w.Write([]byte(in[:n])); wrote != n || err != nil {
					t.Fatalf("Write = %d, %v", wrote, err)
				}
				in = in[n:]
			}
			if w.String() != tt.want || passed.String() != tt.in {
				t.Errorf("%.40q in pieces of %d: %q, want %q; passed on %d bytes", tt.in, size, w.String(), tt.want, passed.Len())
			}
		}
	}
}

func TestCrashesSayHowOften(t *testing.T) {
	at := time.Date(2026, 11, 28, 9, 5, 1, 0, time.FixedZone("", 3600))
	for n, want := range []string{"", "restarted once, last at 2026-11-28T08:05:01Z: x",
		"restarted 2 times, last at 2026-11-28T08:05:01Z: x"} {
		if got := (&crashes{n, at, "x"}).String(); got != want {
			t.Errorf("%d crashes: %q, want %q", n, got, want)
		}
	}
}
