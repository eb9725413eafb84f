package isolated

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keyward/keyward/backends"
)

// TestSentinelsCross also holds the table to what package backends declares.
func TestSentinelsCross(t *testing.T) {
	known := map[string]error{}
	for _, s := range sentinels {
		known[s.name] = s.err
		got := decodeError(marshal(newWireError(fmt.Errorf("token x: %w", s.err))))
		if !errors.Is(got, s.err) || got.Error() != "token x: "+s.err.Error() {
			t.Errorf("%v crosses as %v", s.err, got)
		}
		for _, other := range sentinels {
			if errors.Is(got, other.err) != errors.Is(s.err, other.err) {
				t.Errorf("%v crosses as %v: %v, want the opposite", s.err, other.err, errors.Is(got, other.err))
			}
		}
	}
	for _, name := range append(declaredErrors(t, "../backends.go"), declaredErrors(t, "../signature.go")...) {
		if known[name] == nil {
			t.Errorf("backends.%s is not in the table", name)
		}
	}
	both := fmt.Errorf("%w: %w", backends.ErrUnavailable, context.DeadlineExceeded)
	if got := decodeError(marshal(newWireError(both))); !errors.Is(got, backends.ErrUnavailable) ||
		!errors.Is(got, context.DeadlineExceeded) {
		t.Errorf("%v crosses as %#v", both, got)
	}
}

// declaredErrors are the names of the Err variables in a file.
func declaredErrors(t *testing.T, path string) (names []string) {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	ast.Inspect(f, func(n ast.Node) bool {
		if v, ok := n.(*ast.ValueSpec); ok && strings.HasPrefix(v.Names[0].Name, "Err") {
			names = append(names, v.Names[0].Name)
		}
		return true
	})
	if len(names) == 0 {
		t.Fatalf("%s declares no errors", path)
	}
	return names
}

// FuzzReadFrame: no input panics or makes a frame that is not written as it was read.
func FuzzReadFrame(f *testing.F) {
	for _, fr := range []*frame{
		{kind: kindCall, op: opSign, id: 1, left: 5, body: []byte(`{"uri":"soft:1"}`)},
		{kind: kindNotice, op: opLog, body: []byte("{}")},
		{kind: kindFailure, id: 2, body: marshal(newWireError(backends.ErrLocked))},
		{kind: kindCancel, id: 3},
	} {
		b, err := appendFrame(nil, fr)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
		f.Add(b[:len(b)-1])
	}
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 1, 1})
	f.Fuzz(func(t *testing.T, data []byte) {
		fr, err := (&inbox{from: bytes.NewReader(data)}).next()
		if err != nil {
			return
		}
		again, err := appendFrame(nil, fr)
		if err != nil || !bytes.HasPrefix(data, again) {
			t.Errorf("%x is read as %+v, which is written as %x, %v", data, fr, again, err)
		}
		if fr.kind == kindFailure && decodeError(fr.body) == nil {
			t.Error("a failure without an error")
		}
	})
}

// FuzzPeer feeds a conn bytes: it ends or waits, and never crashes.
func FuzzPeer(f *testing.F) {
	b, _ := appendFrame(nil, &frame{kind: kindCall, op: opOpen, id: 1,
		body: []byte(`{"type":"soft","name":"x","settings":{},"pins":true}`)})
	c, _ := appendFrame(nil, &frame{kind: kindCall, op: opGenerate, id: 2, left: 1e9, body: []byte(`{"Label":"x"}`)})
	f.Add(append(b, c...))
	f.Add(append(append(b, c...), c...))
	f.Fuzz(func(t *testing.T, data []byte) {
		ours, theirs := pair(t)
		s := &server{conn: new(conn), openers: map[string]Opener{"soft": openSoft}, keys: map[string]backends.Key{}}
		s.conn.handle = s.handle
		s.conn.notice = func(*frame) { s.conn.fail(errMalformed) }
		s.conn.start(ours)
		go func() {
			_, _ = theirs.Write(data)
			_ = theirs.(interface{ CloseWrite() error }).CloseWrite()
		}()
		<-s.conn.done
		theirs.Close()
		s.conn.wg.Wait()
	})
}

func TestFrameTooLong(t *testing.T) {
	if _, err := appendFrame(nil, &frame{kind: kindCall, op: opKey, id: 1, body: make([]byte, maxFrame)}); err == nil {
		t.Error("a frame that is too long was encoded")
	}
	ours, theirs := pair(t)
	client, server := &conn{}, &conn{}
	client.notice, server.notice = func(*frame) {}, func(*frame) {}
	server.handle = func(context.Context, *frame) ([]byte, error) { return make([]byte, maxFrame), nil }
	client.start(ours)
	server.start(theirs)
	if _, err := client.call(t.Context(), opKeys, nil, 0); err == nil || !strings.Contains(err.Error(), "too long") {
		t.Errorf("an answer that is too long gives %v", err)
	}
	server.handle = nil
	client.fail(errClosed)
	<-server.done
}

// TestBodiesAreWiped: a PIN does not stay in a buffer of this package.
func TestBodiesAreWiped(t *testing.T) {
	ours, theirs := pair(t)
	var seen []byte
	client, server := &conn{}, &conn{}
	server.handle = func(_ context.Context, f *frame) ([]byte, error) {
		seen = f.body
		if string(f.body) != "1234" {
			return nil, errMalformed
		}
		return []byte("null"), nil
	}
	client.start(ours)
	server.start(theirs)
	pin := []byte("1234")
	if _, err := client.call(t.Context(), opUnlock, pin, 0); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([][]byte{{0, 0, 0, 0}, {0, 0, 0, 0}}, [][]byte{pin, seen}); diff != "" {
		t.Errorf("PIN after the call (-want +got):\n%s", diff)
	}
	client.fail(errClosed)
	<-server.done
	if err := func() error {
		_, err := client.call(t.Context(), opUnlock, []byte("1234"),
			0)
		return err
	}(); !errors.Is(err, errClosed) {
		t.Errorf("a call after the end = %v", err)
	}
}
