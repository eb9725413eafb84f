//go:build soak || lossy

package softhsmtest

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const (
	greedyUID   = 4002 // has a session
	strangerUID = 5001 // and those after it have none
)

// strangerCounts are what strangers did.
type strangerCounts struct {
	connections, unfinished, unread, malformed, refused, denied, garbage atomic.Int64
}

func (c *strangerCounts) String() string {
	return fmt.Sprintf("%d strangers' connections with %d unfinished and %d malformed messages, %d unread answers, %d requests for others' sessions and %d beyond their own, %d KB of garbage",
		c.connections.Load(), c.unfinished.Load(), c.malformed.Load(), c.unread.Load(), c.refused.Load(), c.denied.Load(), c.garbage.Load()>>10)
}

// check fails the test if one of the attacks did not happen.
func (c *strangerCounts) check(t *testing.T) {
	t.Helper()
	for _, n := range []*atomic.Int64{&c.connections, &c.unfinished, &c.unread, &c.malformed, &c.refused, &c.denied, &c.garbage} {
		if n.Load() == 0 {
			t.Errorf("not every attack was made: %v", c)
			return
		}
	}
}

// startStrangers has users without a session, and one with a session, do what harms others, until ctx ends.
func (s *soak) startStrangers(ctx context.Context, all *sync.WaitGroup) {
	foreign := request("session_signTransaction", transferTx(s.honest.session.ID, 1<<50))
	beyond := transferTx(s.greedy.session.ID, 1)
	beyond["value"] = "5" // more than the policy allows
	c := &s.strangers
	for i, attack := range []func(nc net.Conn) error{
		func(nc net.Conn) error { return hold(nc, unfinishedMessage(600<<10), &c.unfinished) },
		func(nc net.Conn) error { return hold(nc, unfinishedMessage(100), &c.unfinished) },
		func(nc net.Conn) error {
			return hold(nc, strings.Repeat(request("rpc.discover"), 100), &c.unread)
		},
		func(nc net.Conn) error { return repeat(nc, manyKeys(), &c.malformed) },
		func(nc net.Conn) error { return repeat(nc, foreign, &c.refused) },
		func(nc net.Conn) error { return repeat(nc, request("session_signTransaction", beyond), &c.denied) },
		func(nc net.Conn) error {
			n, err := io.CopyN(nc, rand.Reader, 64<<10)
			c.garbage.Add(n)
			return err
		},
		func(nc net.Conn) error { return nil },
	} {
		for n := range 3 {
			uid := strangerUID + 10*i + n
			if i == 5 {
				uid = greedyUID
			}
			all.Go(func() { s.attackUntil(ctx, uid, attack) })
		}
	}
}

// attackUntil connects as uid and attacks, again and again. The agent may end each connection, and be down.
func (s *soak) attackUntil(ctx context.Context, uid int, attack func(nc net.Conn) error) {
	for ctx.Err() == nil {
		if nc, err := dialAs(s.a.Socket(), uid); err == nil {
			s.strangers.connections.Add(1)
			stop := context.AfterFunc(ctx, func() { nc.Close() })
			_ = attack(nc)
			stop()
			nc.Close()
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

// hold sends a text and reads nothing until the connection ends.
func hold(nc net.Conn, text string, count *atomic.Int64) error {
	if _, err := io.WriteString(nc, text); err != nil {
		return err
	}
	count.Add(1)
	for {
		time.Sleep(100 * time.Millisecond)
		if _, err := io.WriteString(nc, " "); err != nil {
			return err
		}
	}
}

// repeat asks, and reads each answer, until the connection ends.
func repeat(nc net.Conn, text string, count *atomic.Int64) error {
	answers := bufio.NewReader(nc)
	for {
		if _, err := io.WriteString(nc, text); err != nil {
			return err
		}
		answer, err := answers.ReadBytes('\n')
		if err != nil {
			return err
		}
		if bytes.Contains(answer, []byte(`"result"`)) {
			return fmt.Errorf("the agent did what it must refuse: %s", answer)
		}
		count.Add(1)
	}
}

// dialAs connects as another user: the kernel tells the agent the credentials that the thread has in connect(2).
func dialAs(path string, uid int) (nc net.Conn, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), uintptr(uid), ^uintptr(0)); errno != 0 {
			err = fmt.Errorf("becoming uid %d, which takes root: %w", uid, errno)
			return
		}
		nc, err = net.Dial("unix", path)
	}()
	<-done
	return nc, err
}

// request is a JSON-RPC request.
func request(method string, params ...any) string {
	if params == nil {
		params = []any{}
	}
	text, err := json.Marshal(map[string]any{"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
	if err != nil {
		panic(err)
	}
	return string(text)
}

// unfinishedMessage is the beginning of a message, of n bytes.
func unfinishedMessage(n int) string {
	const head = `{"jsonrpc":"2.0","id":9,"method":"eth_accounts","params":["`
	return head + strings.Repeat("x", n-len(head))
}

// manyKeys is a message with 80,000 keys that no request has, of 870 KB.
var manyKeys = sync.OnceValue(func() string {
	var b strings.Builder
	b.WriteString(`{"jsonrpc":"2.0","id":1,"method":"eth_accounts"`)
	for i := range 80000 {
		fmt.Fprintf(&b, `,"k%05d":1`, i)
	}
	return b.String() + "}"
})
