package session

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"log/slog"
	"path/filepath"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/cockroachdb/pebble/v2/vfs"
	"golang.org/x/time/rate"

	"github.com/keyward/keyward/audit"
	"github.com/keyward/keyward/internal/zktx"
	"github.com/keyward/keyward/policy"
)

// Every request for a signature that is not granted is in the audit trail, once: as a record of its own, or
// as one of the counts of a refusals.summary record.
//
// A record of its own has at most maxRefusalRecord bytes, whatever the client sent. All clients together get
// [Config.RefusalsPerSecond] of them. Clients without a session get half of that together, so they
// can't hide what a session's clients were refused.
const (
	maxRefusalRecord = 2048
	summaryEvery     = time.Second
	summaryShort     = time.Minute // while the disk is short of room
	maxReasons       = 40          // of one summary; the others are counted as otherReason
	otherReason      = "other"

	defaultRefusalRate  = 20
	defaultRefusalBurst = 2000
)

// Below this much free space refusals are only counted: what is left is for grants. On a disk of less than four
// times keepFree it is a quarter of the disk.
const keepFree = 1 << 30 // bytes

// refusals decides which refusals get a record of their own, and counts the others. Safe for concurrent use.
type refusals struct {
	write     func(*audit.Record) error // puts a record in line
	log       *slog.Logger
	space     func() (free, size uint64, err error) // of the trail's disk, in bytes
	all       *rate.Limiter
	strangers *rate.Limiter

	mu     sync.Mutex
	counts map[string]uint64 // by reason, since the last summary
	timer  *time.Timer       // for the next summary; nil: nothing is counted
	closed bool
}

// refusalRate is how many refusals get a record of their own: a second, and together.
func (c *Config) refusalRate() (perSecond float64, burst int) {
	return cmp.Or(c.RefusalsPerSecond, defaultRefusalRate), cmp.Or(c.RefusalBurst, defaultRefusalBurst)
}

func newRefusals(s *Sessions) *refusals {
	perSecond, burst := s.cfg.refusalRate()
	dir := filepath.Dir(s.cfg.AuditPath)
	return &refusals{
		write: func(rec *audit.Record) error {
			rec.Time = s.cfg.Now().UTC()
			s.ledger.mu.Lock()
			defer s.ledger.mu.Unlock()
			return s.ledger.enqueueLocked(&entry{rec: rec})
		},
		log:       s.cfg.Logger,
		space:     func() (free, size uint64, err error) { return diskSpace(s.cfg.FS, dir) },
		all:       rate.NewLimiter(rate.Limit(perSecond), burst),
		strangers: rate.NewLimiter(rate.Limit(perSecond)/2, (burst+1)/2),
		counts:    map[string]uint64{},
	}
}

// diskSpace returns how many bytes of the file system at dir are free for this process, and how many it has.
func diskSpace(fsys vfs.FS, dir string) (free, size uint64, err error) {
	usage, err := fsys.GetDiskUsage(dir)
	return usage.AvailBytes, usage.TotalBytes, err
}

// hasRoom reports whether the disk has room for more than grants.
func (r *refusals) hasRoom() bool {
	free, size, err := r.space()
	return err == nil && free >= min(keepFree, size/4)
}

// DiskShort reports whether the disk of the audit trail has so little room left that refusals are only counted.
func (s *Sessions) DiskShort() bool { return !s.refusals.hasRoom() }

// single reports whether the next refusal gets a record of its own.
func (r *refusals) single(stranger bool) bool {
	if !r.hasRoom() {
		return false
	}
	if stranger && !r.strangers.Allow() {
		return false
	}
	return r.all.Allow()
}

// count counts a refusal that gets no record of its own. The count is in the trail after summaryEvery.
func (r *refusals) count(reason string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.counts[reason] == 0 && len(r.counts) >= maxReasons {
		reason = otherReason
	}
	r.counts[reason]++
	if r.timer != nil || r.closed {
		return
	}
	pause := summaryEvery
	if !r.hasRoom() {
		pause = summaryShort
	}
	r.timer = time.AfterFunc(pause, r.flush)
}

// flush puts the counts in line for the trail.
func (r *refusals) flush() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.timer != nil {
		r.timer.Stop()
		r.timer = nil
	}
	if len(r.counts) == 0 {
		return
	}
	counts := r.counts
	r.counts = map[string]uint64{}
	if err := r.write(&audit.Record{Event: audit.RefusalsSummary, Detail: counts}); err != nil {
		r.log.Error("the audit trail lacks refusals", "counts", counts, "error", err)
	}
}

// close puts the last counts in line. The ledger has to be open.
func (r *refusals) close() {
	r.flush()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
}

// recorded marks an error whose request is in the audit trail already.
type recorded struct {
	error
	number uint64 // of its record; 0: it is only counted
}

func (r recorded) Unwrap() error { return r.error }

// RecordOf is the number of the audit record of a request that failed with err; 0: it has no record of its own.
func RecordOf(err error) uint64 {
	var r recorded
	errors.As(err, &r)
	return r.number
}

// refused records rec, which says what peer was refused and why, and returns err. It waits for the disk only if
// the refusal gets a record of its own.
func (s *Sessions) refused(ctx context.Context, rec audit.Record, reason string, err error) error {
	if !s.refusals.single(!s.HasSession(*rec.Peer)) {
		s.refusals.count(reason)
		return recorded{error: err}
	}
	bound(&rec)
	number, recErr := s.numbered(ctx, rec)
	if recErr != nil {
		return recorded{error: recErr}
	}
	return recorded{err, number}
}

// NotGranted sees to it that a request for a signature that failed with err is in the audit trail. reason is the
// word that the client is answered with. It returns ErrHalted if the trail can't be written.
func (s *Signer) NotGranted(ctx context.Context, peer audit.Peer, method, reason string, err error) error {
	if done := (recorded{}); errors.As(err, &done) {
		return nil
	}
	if !errors.Is(err, ErrUnknownSigner) {
		s.Sessions.refusals.count(reason)
		return nil
	}
	rec := audit.Record{Event: audit.AccessRefused, Peer: &peer, Method: method}
	if err = s.Sessions.refused(ctx, rec, reason, err); errors.Is(err, ErrHalted) {
		return err
	}
	return nil
}

// refusedTransaction is what a refusal's record has of a transaction: what it would have done, and not its calldata.
type refusedTransaction struct {
	Type     uint8          `json:"type"`
	ChainID  uint64         `json:"chainId"`
	Nonce    uint64         `json:"nonce,string"`
	From     policy.Address `json:"from"`
	To       policy.Address `json:"to"`
	Selector string         `json:"selector,omitempty"` // of the call, 0x-hex
	Value    policy.Decimal `json:"value"`              // wei
	Size     int            `json:"size"`               // of the calldata, in bytes
}

func brief(tx *zktx.Transaction) *refusedTransaction {
	b := &refusedTransaction{
		Type: tx.Type, ChainID: tx.ChainID, Nonce: tx.Nonce,
		From: tx.From, To: tx.To, Value: policy.Decimal(tx.Value), Size: len(tx.Data),
	}
	if len(tx.Data) >= 4 {
		b.Selector = "0x" + hex.EncodeToString(tx.Data[:4])
	}
	return b
}

// bound cuts the members of a refusal's record whose length others decide: the client, its file's name, and the
// device's. Together with the members of fixed length they stay below maxRefusalRecord.
func bound(rec *audit.Record) {
	peer := *rec.Peer
	peer.Exe = clip(peer.Exe, 256)
	rec.Peer = &peer
	rec.Session = clip(rec.Session, 64)
	rec.KeyURI = clip(rec.KeyURI, 256)
	if rec.Verdict != nil {
		verdict := *rec.Verdict
		verdict.Message = clip(verdict.Message, 512)
		rec.Verdict = &verdict
	}
}

// clip cuts s to what takes at most size bytes in JSON, and marks where it was cut.
func clip(s string, size int) string {
	for i, c := range s {
		switch {
		case c == '"' || c == '\\':
			size -= 2
		case c < ' ' || c == '<' || c == '>' || c == '&' || c == 0x7f || c == '\u2028' || c == '\u2029' ||
			c == utf8.RuneError:
			size -= 6 // \u00XX
		default:
			size -= utf8.RuneLen(c)
		}
		if size < 0 {
			return s[:i] + "…"
		}
	}
	return s
}
