package audit

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/keyward/keyward/internal/durable"
)

// Log makes the checkpoints of a trail.
type Log struct {
	Trail string // path of the newest segment
	Tree  *Tree
	Key   *Key
}

// Checkpoint returns the checkpoint of the first n records, and its signed note.
func (l *Log) Checkpoint(n uint64) (c Checkpoint, signed []byte, err error) {
	if err := l.Tree.Extend(l.Trail, n); err != nil {
		return c, nil, err
	}
	c = Checkpoint{l.Key.Name(), tlog.Tree{N: int64(n)}}
	if c.Tree.Hash, err = l.Tree.Root(c.Tree.N); err != nil {
		return c, nil, err
	}
	signed, err = c.Sign(l.Key)
	return c, signed, err
}

// prove proves that the tree of c begins with the first old records.
func (l *Log) prove(c Checkpoint, old int64) (tlog.TreeProof, error) {
	if old == 0 || old == c.Tree.N {
		return nil, nil
	}
	return tlog.ProveTree(c.Tree.N, old, l.Tree)
}

// Witness keeps the newest checkpoint of a log where the log's machine can't take it back.
type Witness interface {
	// Add replaces the checkpoint that the witness has by c, of which signed is the note, once a proof shows that c's tree
	// begins with the witness's. The error wraps [ErrDamaged] if it does not: the trail was set back or replaced. Add
	// returns the signatures of the witness, lines of a note; nil if it makes none.
	Add(ctx context.Context, l *Log, c Checkpoint, signed []byte) (cosigned []byte, err error)
}

var (
	_ Witness = FileWitness("")
	_ Witness = (*HTTPWitness)(nil)
)

// FileWitness is the path of a file that holds the newest checkpoint: on a disk of another host, or one that only
// grows.
type FileWitness string

// Add is [Witness]'s. The file is replaced whole.
func (path FileWitness) Add(_ context.Context, l *Log, c Checkpoint, signed []byte) ([]byte, error) {
	data, err := os.ReadFile(string(path))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if err == nil {
		old, err := OpenCheckpoint(data, l.Key.Verifier)
		if err != nil {
			return nil, fmt.Errorf("%s: %w; move it away, and keep it, if the trail has begun again", path, err)
		}
		if err := l.continues(c, old); err != nil {
			return nil, err
		}
	}
	return nil, durable.WriteFile(string(path), signed, 0o644)
}

// continues checks that c's tree begins with old's.
func (l *Log) continues(c, old Checkpoint) error {
	if old.Tree.N > c.Tree.N {
		return setBack(old, c.Tree.N)
	}
	proof, err := l.prove(c, old.Tree.N)
	if err != nil {
		return err
	}
	switch {
	case old.Tree.N == 0:
		return nil
	case old.Tree.N == c.Tree.N && old.Tree.Hash == c.Tree.Hash:
		return nil
	case old.Tree.N < c.Tree.N && tlog.CheckTree(proof, c.Tree.N, c.Tree.Hash, old.Tree.N, old.Tree.Hash) == nil:
		return nil
	}
	return forked(old.Tree.N)
}

// forked is the error of a trail whose first n records are others than those of a checkpoint.
func forked(n int64) error {
	return fmt.Errorf("%w: the records up to %d are not those that the witness has seen: one was edited, or the trail "+
		"was set back and grew again",
		ErrDamaged, n)
}

// HTTPWitness is a witness that speaks https://c2sp.org/tlog-witness.
type HTTPWitness struct {
	URL    string        // the submission prefix, without add-checkpoint
	Key    note.Verifier // of the witness, which has to have signed its answer; nil: any answer is taken
	Client *http.Client  // nil: http.DefaultClient
}

const maxWitnessReply = 64 << 10 // bytes

// Add is [Witness]'s.
func (w *HTTPWitness) Add(ctx context.Context, l *Log, c Checkpoint, signed []byte) ([]byte, error) {
	for old := c.Tree.N; ; { // most often nothing is new, or the witness says how far it is
		proof, err := l.prove(c, old)
		if err != nil {
			return nil, err
		}
		status, body, err := w.post(ctx, old, proof, signed)
		if err != nil {
			return nil, err
		}
		switch status {
		case http.StatusOK:
			return body, w.check(signed, body)
		case http.StatusUnprocessableEntity:
			return nil, forked(old)
		case http.StatusConflict:
			has, err := strconv.ParseInt(strings.TrimSuffix(string(body), "\n"), 10, 64)
			switch {
			case err != nil || has < 0:
				return nil, fmt.Errorf("witness %s: status 409 with %.80q, want a size", w.URL, body)
			case has > c.Tree.N:
				return nil, setBack(Checkpoint{c.Origin, tlog.Tree{N: has}}, c.Tree.N)
			case has == old:
				return nil, forked(old)
			}
			old = has
		case http.StatusNotFound:
			return nil, fmt.Errorf("witness %s does not know the log %q: add it there with the key %s", w.URL, c.Origin,
				l.Key.Text)
		default:
			return nil, fmt.Errorf("witness %s: status %d: %.200q", w.URL, status, body)
		}
	}
}

// post sends one request and returns what the witness answers.
func (w *HTTPWitness) post(ctx context.Context, old int64, proof tlog.TreeProof, signed []byte) (status int,
	body []byte, err error) {
	var b bytes.Buffer
	fmt.Fprintf(&b, "old %d\n", old)
	for _, h := range proof {
		fmt.Fprintf(&b, "%s\n", base64.StdEncoding.EncodeToString(h[:]))
	}
	b.WriteByte('\n')
	b.Write(signed)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, strings.TrimSuffix(w.URL, "/")+"/add-checkpoint", &b)
	if err != nil {
		return 0, nil, err
	}
	client := w.Client
	if client == nil {
		client = http.DefaultClient
	}
	res, err := client.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer res.Body.Close()
	body, err = io.ReadAll(io.LimitReader(res.Body, maxWitnessReply))
	return res.StatusCode, body, err
}

// check verifies the witness's signature lines under the signed note.
func (w *HTTPWitness) check(signed, lines []byte) error {
	if w.Key == nil {
		return nil
	}
	if _, err := note.Open(append(bytes.Clone(signed), lines...), note.VerifierList(w.Key)); err != nil {
		return fmt.Errorf("witness %s: its signature: %w", w.URL, err)
	}
	return nil
}
