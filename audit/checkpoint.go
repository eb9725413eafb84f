package audit

import (
	"bufio"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/bits"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/keyward/keyward/internal/durable"
)

// Checkpoint says which records a trail had, as in https://c2sp.org/tlog-checkpoint without extension lines.
type Checkpoint struct {
	Origin string    // names the trail; the same for all of its checkpoints
	Tree   tlog.Tree // N is the number of the last record
}

// text is the signed part of a checkpoint.
func (c Checkpoint) text() string {
	return fmt.Sprintf("%s\n%d\n%s\n", c.Origin, c.Tree.N, base64.StdEncoding.EncodeToString(c.Tree.Hash[:]))
}

// Sign makes the signed note (https://c2sp.org/signed-note) of the checkpoint.
func (c Checkpoint) Sign(key note.Signer) ([]byte, error) {
	return note.Sign(&note.Note{Text: c.text()}, key)
}

// OpenCheckpoint reads a checkpoint that key has signed. Other signatures, such as those of witnesses, are ignored.
func OpenCheckpoint(signed []byte, key note.Verifier) (Checkpoint, error) {
	n, err := note.Open(signed, note.VerifierList(key))
	if err != nil {
		return Checkpoint{}, fmt.Errorf("checkpoint: %w", err)
	}
	lines := strings.Split(n.Text, "\n")
	if len(lines) < 4 || lines[0] != key.Name() {
		return Checkpoint{}, fmt.Errorf("checkpoint: want the lines origin, size and root, and the origin %q, got %.200q",
			key.Name(), n.Text)
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil || size < 0 || lines[1] != strconv.FormatInt(size, 10) {
		return Checkpoint{}, fmt.Errorf("checkpoint: the size %.40q is no number", lines[1])
	}
	root, err := base64.StdEncoding.DecodeString(lines[2])
	if err != nil || len(root) != tlog.HashSize {
		return Checkpoint{}, fmt.Errorf("checkpoint: the root %.80q is no hash in base64", lines[2])
	}
	return Checkpoint{lines[0], tlog.Tree{N: size, Hash: tlog.Hash(root)}}, nil
}

// Key is the Ed25519 key that signs a trail's checkpoints.
type Key struct {
	note.Signer
	Verifier note.Verifier
	Text     string // of Verifier, as witnesses take it: NAME+HASH+KEY
}

// KeyPath is where the key of the trail at path is kept: a file with a line for the signer and one for the verifier.
func KeyPath(path string) string { return filepath.Join(filepath.Dir(path), "checkpoint.key") }

// ReadKey reads the key at path. The error is fs.ErrNotExist if there is none.
func ReadKey(path string) (*Key, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	secret, public, _ := strings.Cut(strings.TrimSuffix(string(data), "\n"), "\n")
	signer, err := note.NewSigner(secret)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	verifier, err := note.NewVerifier(public)
	if err != nil || verifier.Name() != signer.Name() || verifier.KeyHash() != signer.KeyHash() {
		return nil, fmt.Errorf("%s: its second line is not the verifier of its first", path)
	}
	return &Key{signer, verifier, public}, nil
}

// MakeKey makes a key at path for checkpoints with that origin. The file belongs to the owner of its directory.
func MakeKey(path, origin string) (*Key, error) {
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return nil, errors.Join(fmt.Errorf("%s is there already", path), err)
	}
	secret, public, err := note.GenerateKey(rand.Reader, origin)
	if err != nil {
		return nil, err
	}
	if _, err := note.NewVerifier(public); err != nil {
		return nil, fmt.Errorf("origin %q: want a name without spaces and plus signs, such as example.com/keyward", origin)
	}
	dir, err := os.Stat(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	uid, gid := -1, -1
	if owner := dir.Sys().(*syscall.Stat_t); os.Geteuid() == 0 {
		uid, gid = int(owner.Uid), int(owner.Gid)
	}
	if err := (durable.Files{FS: durable.OS}).WriteOwned(path, []byte(secret+"\n"+public+"\n"), 0o600, uid,
		gid); err != nil {
		return nil, err
	}
	return ReadKey(path)
}

// VerifyCheckpoint reads the first c.Tree.N lines of the trail at path and computes their tree again. The error wraps
// [ErrDamaged] if the trail is shorter or its root is another one.
func VerifyCheckpoint(path string, c Checkpoint) error {
	if c.Tree.N == 0 {
		return nil
	}
	r, err := OpenSegments(path)
	if err != nil {
		return err
	}
	defer r.Close()
	sum, err := firstTree(path, c)
	if err != nil {
		return err
	}
	lines := bufio.NewReaderSize(r, 1<<16)
	for sum.n < c.Tree.N {
		line, err := lines.ReadBytes('\n')
		if err == io.EOF {
			return setBack(c, sum.n)
		}
		if err != nil {
			return err
		}
		sum.add(tlog.RecordHash(chained(line[:len(line)-1])))
	}
	if sum.root() != c.Tree.Hash {
		return fmt.Errorf("%w: the records up to %d are not those of the checkpoint: one was edited, or the trail was set "+
			"back and grew again",
			ErrDamaged, c.Tree.N)
	}
	return nil
}

// firstTree is the tree of the records that were archived: what the trail's own record says of it.
func firstTree(path string, c Checkpoint) (*treeSum, error) {
	begin, err := startOf(path)
	if err != nil || begin.Seq == 0 {
		return &treeSum{}, err
	}
	if _, err := ReadAfter(path, begin.Head, func(line []byte) error { begin.look(line); return nil }); err != nil {
		return nil, err
	}
	switch {
	case begin.explained() != nil:
		return nil, fmt.Errorf("%w: %w", ErrDamaged, begin.explained())
	case int64(begin.Seq) > c.Tree.N:
		return nil, fmt.Errorf("the records up to %d were archived, and the checkpoint has %d: it can't be compared with "+
			"what is left", begin.Seq, c.Tree.N)
	case len(begin.said.Tree) != bits.OnesCount64(begin.Seq):
		return nil, fmt.Errorf("the records up to %d are gone, and their tree is not known: checkpoints can't be compared "+
			"with what is left", begin.Seq)
	}
	return &treeSum{n: int64(begin.Seq), roots: begin.said.Tree}, nil
}

// setBack is the error of a trail that has fewer records than a checkpoint.
func setBack(c Checkpoint, records int64) error {
	return fmt.Errorf("%w: it has %d records, and the checkpoint of %s has %d: the last %d were cut off, perhaps "+
		"together with the ledger",
		ErrDamaged, records, c.Origin, c.Tree.N, c.Tree.N-records)
}

// treeSum computes the root of a tree leaf by leaf: it holds the roots of complete subtrees, the largest first.
type treeSum struct {
	n     int64
	roots []tlog.Hash
}

func (s *treeSum) add(leaf tlog.Hash) {
	s.roots = append(s.roots, leaf)
	s.n++
	for size := s.n; size%2 == 0; size /= 2 { // two of one size make one of twice that
		last := len(s.roots) - 1
		s.roots[last-1] = tlog.NodeHash(s.roots[last-1], s.roots[last])
		s.roots = s.roots[:last]
	}
}

// root is the tree's root (RFC 6962, section 2.1). There is at least one leaf.
func (s *treeSum) root() tlog.Hash {
	root := s.roots[len(s.roots)-1]
	for i := len(s.roots) - 2; i >= 0; i-- {
		root = tlog.NodeHash(s.roots[i], root)
	}
	return root
}
