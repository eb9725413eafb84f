package audit

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"filippo.io/torchwood"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// testWitness is a server of c2sp.org/tlog-witness: torchwood parses the checkpoints and makes the signatures.
type testWitness struct {
	t    *testing.T
	log  note.Verifier
	sign *torchwood.CosignatureSigner

	mu   sync.Mutex
	last torchwood.Checkpoint
}

func startWitness(t *testing.T, log note.Verifier) (*testWitness, string) {
	t.Helper()
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := torchwood.NewCosignatureSigner("witness.example", private)
	if err != nil {
		t.Fatal(err)
	}
	w := &testWitness{t: t, log: log, sign: signer}
	if w.last.Hash, err = tlog.TreeHash(0, nil); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(http.HandlerFunc(w.serve))
	t.Cleanup(server.Close)
	return w, server.URL
}

func (w *testWitness) serve(rw http.ResponseWriter, r *http.Request) {
	w.mu.Lock()
	defer w.mu.Unlock()
	body, err := io.ReadAll(r.Body)
	head, signed, ok := strings.Cut(string(body), "\n\n")
	lines := strings.Split(head, "\n")
	size, okOld := strings.CutPrefix(lines[0], "old ")
	old, sizeErr := strconv.ParseInt(size, 10, 64)
	if err != nil || !ok || !okOld || sizeErr != nil || r.URL.Path != "/add-checkpoint" {
		http.Error(rw, "malformed", http.StatusBadRequest)
		return
	}
	var proof tlog.TreeProof
	for _, line := range lines[1:] {
		h, err := base64.StdEncoding.DecodeString(line)
		if err != nil || len(h) != tlog.HashSize {
			http.Error(rw, "malformed proof", http.StatusBadRequest)
			return
		}
		proof = append(proof, tlog.Hash(h))
	}
	n, err := note.Open([]byte(signed), note.VerifierList(w.log))
	if err != nil {
		http.Error(rw, err.Error(), http.StatusForbidden)
		return
	}
	c, err := torchwood.ParseCheckpoint(n.Text)
	switch {
	case err != nil || c.Extension != "" || old > c.N:
		http.Error(rw, "malformed checkpoint", http.StatusBadRequest)
	case old != w.last.N || c.N == w.last.N && c.Hash != w.last.Hash:
		rw.Header().Set("Content-Type", "text/x.tlog.size")
		rw.WriteHeader(http.StatusConflict)
		fmt.Fprintf(rw, "%d\n", w.last.N)
	case old > 0 && old < c.N && tlog.CheckTree(proof, c.N, c.Hash, old, w.last.Hash) != nil:
		http.Error(rw, "inconsistent", http.StatusUnprocessableEntity)
	default:
		w.last = c
		cosigned, err := note.Sign(n, w.sign)
		if err != nil {
			w.t.Error(err)
		}
		rw.Write(cosigned[len(signed):])
	}
}

// testLog is a log over a trail of its own.
func testLog(t *testing.T, trail string) *Log {
	t.Helper()
	key, err := MakeKey(filepath.Join(t.TempDir(), "checkpoint.key"), "example.com/trail")
	if err != nil {
		t.Fatal(err)
	}
	tree, err := OpenTree(filepath.Join(t.TempDir(), "audit.tree"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tree.Close() })
	return &Log{Trail: trail, Tree: tree, Key: key}
}

// add gives w the checkpoint of n records.
func (l *Log) add(w Witness, n uint64) ([]byte, error) {
	c, signed, err := l.Checkpoint(n)
	if err != nil {
		return nil, err
	}
	cosigned, err := w.Add(context.Background(), l, c, signed)
	return append(signed, cosigned...), err
}

// Each witness takes every later checkpoint of a trail and none of a trail that was set back, also one that has grown
// since.
func TestWitnesses(t *testing.T) {
	path, _, _ := segmentedTrail(t, 70, 25)
	for _, kind := range []string{"file", "server"} {
		t.Run(kind, func(t *testing.T) {
			log := testLog(t, path)
			var w Witness
			seen := &testWitness{}
			if kind == "file" {
				w = FileWitness(filepath.Join(t.TempDir(), "witnessed"))
			} else {
				var url string
				seen, url = startWitness(t, log.Key.Verifier)
				w = &HTTPWitness{URL: url + "/", Key: seen.sign.Verifier()}
			}
			for _, n := range []uint64{0, 1, 1, 2, 5, 8, 31, 32, 33, 60} {
				signed, err := log.add(w, n)
				if err != nil {
					t.Fatalf("%d records: %v", n, err)
				}
				opened, err := note.Open(signed, note.VerifierList(log.Key.Verifier))
				if err != nil {
					t.Fatal(err)
				}
				if c, err := torchwood.ParseCheckpoint(opened.Text); err != nil || c.N != int64(n) ||
					c.Origin != "example.com/trail" {
					t.Fatalf("torchwood reads %+v, %v, want %d records", c, err, n)
				}
			}
			other, _, _ := segmentedTrail(t, 70, 25)
			rewriteTrail(t, other, 60)
			for n := uint64(1); n <= 70; n++ {
				// another file of the tree: the old one would show it
				tree, err := OpenTree(filepath.Join(t.TempDir(), "audit.tree"))
				if err != nil {
					t.Fatal(err)
				}
				forged := &Log{Trail: path, Tree: tree, Key: log.Key}
				if n >= 60 {
					forged.Trail = other
				}
				if _, err := forged.add(w, n); !errors.Is(err, ErrDamaged) {
					t.Errorf("a trail that was set back, with %d records: %v, want ErrDamaged", n, err)
				}
				tree.Close()
			}
			if _, err := log.add(w, 70); err != nil {
				t.Errorf("the true trail with 70 records: %v", err)
			}
		})
	}
}

// rewriteTrail replaces the trail at path by one in one segment that differs from record n on and is chained well.
func rewriteTrail(t *testing.T, path string, n int) {
	t.Helper()
	files, err := Segments(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if err := os.Remove(f); err != nil {
			t.Fatal(err)
		}
	}
	var all []byte
	var head Head
	for i := range 70 {
		rec := &Record{Event: SignGranted, Session: string(rune('a' + i%26))}
		if i+1 >= n {
			rec.Event = SignDenied
		}
		if all, head, err = head.Seal(all, rec); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(path, all, 0o600); err != nil {
		t.Fatal(err)
	}
}

// A server whose key is known has to sign.
func TestWitnessHasToSign(t *testing.T) {
	path, _, _ := segmentedTrail(t, 3, 9)
	log := testLog(t, path)
	_, url := startWitness(t, log.Key.Verifier)
	other, _ := startWitness(t, log.Key.Verifier)
	if _, err := log.add(&HTTPWitness{URL: url, Key: other.sign.Verifier()}, 3); err == nil || errors.Is(err, ErrDamaged) {
		t.Errorf("a server that signs with another key: %v, want an error about its signature", err)
	}
	if _, err := testLog(t, path).add(&HTTPWitness{URL: url}, 3); err == nil || errors.Is(err, ErrDamaged) {
		t.Errorf("a log that the server does not know: %v, want its answer", err)
	}
}

func TestOpenCheckpointRefuses(t *testing.T) {
	log := testLog(t, "")
	for _, text := range []string{
		"example.com/trail\n1\n", "other\n1\n" + strings.Repeat("A", 43) + "=\n", "example.com/trail\n-1\n" +
			strings.Repeat("A", 43) + "=\n",
		"example.com/trail\n01\n" + strings.Repeat("A", 43) + "=\n", "example.com/trail\n1\nAAAA\n",
	} {
		signed, err := note.Sign(&note.Note{Text: text}, log.Key)
		if err != nil {
			t.Fatal(err)
		}
		if c, err := OpenCheckpoint(signed, log.Key.Verifier); err == nil {
			t.Errorf("OpenCheckpoint of %q = %+v, want an error", text, c)
		}
	}
	good, err := Checkpoint{"example.com/trail", tlog.Tree{N: 7}}.Sign(log.Key)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := OpenCheckpoint(good, testLog(t, "").Key.Verifier); err == nil {
		t.Error("OpenCheckpoint with another key succeeded")
	}
}
