package softhsmtest

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	greedyUID   = 4002 // has a session
	strangerUID = 5001 // and those after it have none
)

// strangersArg, with a socket and the ids of two sessions, makes the test program the strangers.
const strangersArg = "strangers"

// strangerCounts are what strangers did.
type strangerCounts struct {
	Connections, Unfinished, Unread, Malformed, Refused, Denied, Garbage atomic.Int64
}

func (c *strangerCounts) all() []*atomic.Int64 {
	return []*atomic.Int64{&c.Connections, &c.Unfinished, &c.Unread, &c.Malformed, &c.Refused, &c.Denied, &c.Garbage}
}

func (c *strangerCounts) String() string {
	return fmt.Sprintf("%d strangers' connections with %d unfinished and %d malformed messages, %d unread answers, %d "+
		"requests for others' sessions and %d beyond their own, %d KB of garbage",
		c.Connections.Load(), c.Unfinished.Load(), c.Malformed.Load(), c.Unread.Load(), c.Refused.Load(), c.Denied.Load(),
		c.Garbage.Load()>>10)
}

// ignore returns err unless it is the one that is expected.
func ignore(err, expected error) error {
	if errors.Is(err, expected) {
		return nil
	}
	return err
}

// beStrangers has users without a session, and one with a session, do what harms others, until standard input ends. It
// prints what they did. What they must not get ends the process.
func beStrangers(socket, foreignSession, ownSession string) error {
	ctx, cancel := context.WithCancelCause(context.Background())
	go func() {
		_, err := io.Copy(io.Discard, os.Stdin)
		cancel(err)
	}()
	foreign := request("session_signTransaction", transferTx(foreignSession, 1<<50))
	beyond := transferTx(ownSession, 1)
	beyond["value"] = "5" // more than the policy allows
	var c strangerCounts
	var all sync.WaitGroup
	for i, attack := range []func(nc net.Conn) error{
		func(nc net.Conn) error { return hold(nc, unfinishedMessage(600<<10), &c.Unfinished) },
		func(nc net.Conn) error { return hold(nc, unfinishedMessage(100), &c.Unfinished) },
		func(nc net.Conn) error {
			return hold(nc, strings.Repeat(request("rpc.discover"), 100), &c.Unread)
		},
		func(nc net.Conn) error { return repeat(nc, manyKeys(), &c.Malformed) },
		func(nc net.Conn) error { return repeat(nc, foreign, &c.Refused) },
		func(nc net.Conn) error { return repeat(nc, request("session_signTransaction", beyond), &c.Denied) },
		func(nc net.Conn) error {
			n, err := io.CopyN(nc, rand.Reader, 64<<10)
			c.Garbage.Add(n)
			return err
		},
		func(nc net.Conn) error { return nil },
	} {
		for n := range 3 {
			uid := strangerUID + 10*i + n
			if i == 5 {
				uid = greedyUID
			}
			all.Go(func() {
				if err := attackUntil(ctx, socket, uid, &c.Connections, attack); err != nil {
					cancel(err)
				}
			})
		}
	}
	all.Wait()
	if err := ignore(context.Cause(ctx), context.Canceled); err != nil {
		return err
	}
	var did []int64
	for _, n := range c.all() {
		did = append(did, n.Load())
	}
	return json.NewEncoder(os.Stdout).Encode(did)
}

// errGranted: a stranger got what the agent must refuse.
var errGranted = errors.New("the agent did what it must refuse")

// attackUntil connects as uid and attacks, again and again. The agent may end each connection, and be down: only
// [errGranted] is an error.
func attackUntil(ctx context.Context, socket string, uid int, connections *atomic.Int64,
	attack func(nc net.Conn) error) error {
	for ctx.Err() == nil {
		if nc, err := dialAs(socket, uid); err == nil {
			connections.Add(1)
			stop := context.AfterFunc(ctx, func() { nc.Close() })
			err = attack(nc)
			stop()
			nc.Close()
			if errors.Is(err, errGranted) {
				return err
			}
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
		}
	}
	return nil
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
			return fmt.Errorf("%w: %s", errGranted, answer)
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
