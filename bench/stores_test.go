package bench

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	bolt "go.etcd.io/bbolt"
	"golang.org/x/sys/unix"

	"github.com/keyward/keyward/internal/bench"
)

// A grant, as the ledger writes it: two totals, the nonce's costs, the digest's, and the audit record with its
// transaction.
const (
	lineBytes  = 760
	totalBytes = 32
	costsBytes = 90
)

// put is one key that a grant writes.
type put struct{ key, value []byte }

func grant(session, n uint64) (puts []put, line []byte) {
	id := binary.BigEndian.AppendUint64(nil, session)
	nonce := binary.BigEndian.AppendUint64(slices.Clone(id), n)
	digest := append(slices.Clone(nonce), make([]byte, 32)...)
	return []put{
		{append([]byte("u1"), id...), make([]byte, totalBytes)},
		{append([]byte("u2"), id...), make([]byte, totalBytes)},
		{append([]byte("l"), nonce...), make([]byte, costsBytes)},
		{append([]byte("s"), digest...), make([]byte, costsBytes)},
	}, make([]byte, lineBytes)
}

// committed is a store under the batcher: commit returns when all of it is on disk.
type committed interface {
	commit(puts []put, lines []byte, n uint64) error
	close()
}

// BenchmarkStores compares what the ledger could be kept in, each behind the same batcher: all callers that
// wait share one commit.
func BenchmarkStores(b *testing.B) {
	for _, store := range []struct {
		name string
		open func(b *testing.B, dir string) committed
	}{
		{"pebble", openPebble},
		{"bbolt", openBolt},
		{"bbolt-behind-journal", openJournalled},
		{"trail-as-journal", openTrailOnly},
	} {
		for _, callers := range []int{1, 8, 64} {
			b.Run(fmt.Sprintf("%s/callers=%d", store.name, callers), func(b *testing.B) {
				s := store.open(b, b.TempDir())
				defer s.close()
				runBatched(b, s, callers)
			})
		}
	}
}

// runBatched has callers make grants one after the other.
func runBatched(b *testing.B, s committed, callers int) {
	type waiting struct {
		puts []put
		line []byte
		done chan struct{}
	}
	queue := make(chan waiting, callers)
	var batcher sync.WaitGroup
	batcher.Go(func() {
		seq := uint64(0)
		for first := range queue {
			batch := []waiting{first}
			for len(queue) > 0 {
				batch = append(batch, <-queue)
			}
			var puts []put
			var lines []byte
			for _, w := range batch {
				puts, lines = append(puts, w.puts...), append(lines, w.line...)
			}
			seq += uint64(len(batch))
			if err := s.commit(puts, lines, seq); err != nil {
				b.Error(err)
			}
			for _, w := range batch {
				close(w.done)
			}
		}
	})
	var n atomic.Uint64
	load := &bench.Load{}
	for b.Loop() {
		load.Add(bench.Closed(b.Context(), callers, slice, func(caller int) error {
			puts, line := grant(uint64(caller), n.Add(1))
			w := waiting{puts, line, make(chan struct{})}
			queue <- w
			<-w.done
			return nil
		}))
	}
	close(queue)
	batcher.Wait()
	report(b, load, "grants")
}

type pebbleStore struct{ db *pebble.DB }

func openPebble(b *testing.B, dir string) committed {
	db, err := pebble.Open(dir, &pebble.Options{Logger: quiet{}})
	if err != nil {
		b.Fatal(err)
	}
	return pebbleStore{db}
}

type quiet struct{}

func (quiet) Infof(string, ...any)           {}
func (quiet) Errorf(string, ...any)          {}
func (quiet) Fatalf(format string, a ...any) { panic(fmt.Sprintf(format, a...)) }

func (s pebbleStore) commit(puts []put, lines []byte, n uint64) error {
	batch := s.db.NewBatch()
	for _, p := range puts {
		if err := batch.Set(p.key, p.value, nil); err != nil {
			return err
		}
	}
	if err := batch.Set(binary.BigEndian.AppendUint64([]byte("j"), n), lines, nil); err != nil {
		return err
	}
	return batch.Commit(pebble.Sync)
}

func (s pebbleStore) close() { s.db.Close() }

type boltStore struct{ db *bolt.DB }

func openBolt(b *testing.B, dir string) committed {
	db, err := bolt.Open(filepath.Join(dir, "db"), 0o600, nil)
	if err != nil {
		b.Fatal(err)
	}
	return boltStore{db}
}

func (s boltStore) commit(puts []put, lines []byte, n uint64) error {
	return s.db.Update(func(tx *bolt.Tx) error {
		bucket, err := tx.CreateBucketIfNotExists([]byte("b"))
		if err != nil {
			return err
		}
		for _, p := range puts {
			if err := bucket.Put(p.key, p.value); err != nil {
				return err
			}
		}
		return bucket.Put(binary.BigEndian.AppendUint64([]byte("j"), n), lines)
	})
}

func (s boltStore) close() { s.db.Close() }

const journalRoom = 16 << 20 // preallocated, and written over from its start

// journalled appends to a preallocated file, and writes bbolt when that is full: then everything
// since the last time is applied and synced.
type journalled struct {
	boltStore
	journal *os.File
	at      int64
	pending []put
}

func openJournalled(b *testing.B, dir string) committed {
	s := &journalled{boltStore: openBolt(b, dir).(boltStore), journal: preallocated(b, dir)}
	return s
}

func preallocated(b *testing.B, dir string) *os.File {
	f, err := os.Create(filepath.Join(dir, "journal"))
	if err != nil {
		b.Fatal(err)
	}
	if _, err := f.Write(make([]byte, journalRoom)); err != nil { // written, so that fdatasync changes no metadata
		b.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		b.Fatal(err)
	}
	return f
}

func (s *journalled) commit(puts []put, lines []byte, n uint64) error {
	encoded := encode(puts, lines)
	if s.at+int64(len(encoded)) > journalRoom {
		if err := s.boltStore.commit(s.pending, nil, n); err != nil {
			return err
		}
		s.at, s.pending = 0, nil
	}
	s.pending = append(s.pending, puts...)
	if _, err := s.journal.WriteAt(encoded, s.at); err != nil {
		return err
	}
	s.at += int64(len(encoded))
	return unix.Fdatasync(int(s.journal.Fd()))
}

func encode(puts []put, lines []byte) (b []byte) {
	for _, p := range puts {
		b = append(b, p.key...)
		b = append(b, p.value...)
	}
	return append(b, lines...)
}

func (s *journalled) close() { s.boltStore.close(); s.journal.Close() }

// trailOnly appends the records alone; what they say is in memory, and read from them at the start.
type trailOnly struct {
	f     *os.File
	index map[string][]byte
}

func openTrailOnly(b *testing.B, dir string) committed {
	f, err := os.Create(filepath.Join(dir, "trail"))
	if err != nil {
		b.Fatal(err)
	}
	return &trailOnly{f, map[string][]byte{}}
}

func (s *trailOnly) commit(puts []put, lines []byte, _ uint64) error {
	for _, p := range puts {
		s.index[string(p.key)] = p.value
	}
	if _, err := s.f.Write(lines); err != nil {
		return err
	}
	return unix.Fdatasync(int(s.f.Fd()))
}

func (s *trailOnly) close() { s.f.Close() }
