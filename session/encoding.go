package session

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/holiman/uint256"

	"github.com/keyward/keyward/audit"
	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/policy"
)

// What the embedded store writes: fields one after the other, integers as varints (encoding/binary), texts and lists
// with their length before them. Lists that come from maps are sorted, so that one value has one encoding.

var errEncoding = errors.New("not what keyward writes")

// decoder reads fields. What is cut short sets failed and reads as zero.
type decoder struct {
	b      []byte
	failed bool
}

// end is the error of all reads: every byte must have been read.
func (d *decoder) end(what string, args ...any) error {
	if d.failed || len(d.b) > 0 {
		return fmt.Errorf("reading %s: %w", fmt.Sprintf(what, args...), errEncoding)
	}
	return nil
}

func (d *decoder) take(n uint64) []byte {
	if n > uint64(len(d.b)) {
		d.b, d.failed = nil, true
		return nil
	}
	taken := d.b[:n]
	d.b = d.b[n:]
	return taken
}

func (d *decoder) uint() uint64 {
	x, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.b, d.failed = nil, true
		return 0
	}
	d.b = d.b[n:]
	return x
}

// count is the length of a list. Each element takes a byte at least, which bounds what is allocated.
func (d *decoder) count() int {
	n := d.uint()
	if n > uint64(len(d.b)) {
		d.b, d.failed = nil, true
		return 0
	}
	return int(n)
}

func (d *decoder) bytes() []byte { return d.take(d.uint()) }
func (d *decoder) text() string  { return string(d.bytes()) }

func (d *decoder) hash() (h [32]byte) {
	copy(h[:], d.take(32))
	return h
}

func (d *decoder) address() (a policy.Address) {
	copy(a[:], d.take(20))
	return a
}

func appendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// appendTime appends nanoseconds since 1970; 0 is the zero time.
func appendTime(b []byte, t time.Time) []byte {
	if t.IsZero() {
		return binary.AppendVarint(b, 0)
	}
	return binary.AppendVarint(b, t.UnixNano())
}

// int reads a signed integer.
func (d *decoder) int() int64 {
	x, n := binary.Varint(d.b)
	if n <= 0 {
		d.b, d.failed = nil, true
		return 0
	}
	d.b = d.b[n:]
	return x
}

func (d *decoder) time() time.Time {
	x := d.int()
	if x == 0 {
		return time.Time{}
	}
	return time.Unix(0, x).UTC()
}

// appendAmount appends x in as few bytes as it has.
func appendAmount(b []byte, x *uint256.Int) []byte {
	n := x.ByteLen()
	word := x.Bytes32()
	return append(append(b, byte(n)), word[32-n:]...)
}

func (d *decoder) amount() (x uint256.Int) {
	if n := d.take(1); len(n) == 1 && n[0] <= 32 {
		x.SetBytes(d.take(uint64(n[0])))
	} else {
		d.failed = true
	}
	return x
}

// appendLimit appends t without its period.
func appendLimit(b []byte, t policy.Tracker) []byte {
	kind := byte(t.Kind) << 1
	if t.Allowance {
		kind |= 1
	}
	b = append(append(b, kind), t.Target[:]...)
	b = append(b, t.Selector[:]...)
	return binary.BigEndian.AppendUint32(b, t.Position)
}

// appendTracker appends t. The period comes last and sorts, so that a limit's earlier periods are a range of keys.
func appendTracker(b []byte, t policy.Tracker) []byte {
	return binary.BigEndian.AppendUint64(appendLimit(b, t), t.PeriodID)
}

func (d *decoder) tracker() (t policy.Tracker) {
	raw := d.take(1 + 20 + 4 + 4 + 8)
	if raw == nil {
		return t
	}
	t.Kind, t.Allowance = policy.TrackerKind(raw[0]>>1), raw[0]&1 == 1
	copy(t.Target[:], raw[1:])
	copy(t.Selector[:], raw[21:])
	t.Position, t.PeriodID = binary.BigEndian.Uint32(raw[25:]), binary.BigEndian.Uint64(raw[29:])
	return t
}

func appendCosts(b []byte, c costs) []byte {
	b = binary.AppendUvarint(b, uint64(len(c)))
	for i := range c {
		b = appendAmount(appendTracker(b, c[i].tracker), &c[i].amount)
	}
	return b
}

func (d *decoder) costs() costs {
	c := make(costs, 0, d.count())
	for range cap(c) {
		c = append(c, cost{d.tracker(), d.amount()})
	}
	return c
}

func (t tally) append(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(len(t)))
	for i := range t {
		b = binary.AppendVarint(binary.AppendVarint(b, t[i].from), t[i].until)
		b = appendAmount(b, &t[i].amount)
	}
	return b
}

func (d *decoder) tally() tally {
	t := make(tally, 0, d.count())
	for range cap(t) {
		t = append(t, tallied{d.int(), d.int(), d.amount()})
	}
	return t
}

func appendAmounts(b []byte, a amounts) []byte {
	b = binary.AppendUvarint(b, uint64(len(a)))
	keys := slices.SortedFunc(maps.Keys(a), func(x, y policy.Tracker) int {
		return slices.Compare(appendTracker(nil, x), appendTracker(nil, y))
	})
	for _, t := range keys {
		x := uint256.Int(a[t])
		b = appendAmount(appendTracker(b, t), &x)
	}
	return b
}

func (d *decoder) amounts() amounts {
	a := amounts{}
	for range d.count() {
		t := d.tracker()
		a[t] = policy.Decimal(d.amount())
	}
	return a
}

func (s *settled) append(b []byte) []byte {
	b = binary.AppendUvarint(b, s.Block.Number)
	b = append(b, s.Block.Hash[:]...)
	for _, x := range []uint64{s.Block.Time, s.Nonce, s.Older.Time, s.Older.Nonce, s.Forgotten} {
		b = binary.AppendUvarint(b, x)
	}
	return appendAmounts(appendAmounts(b, s.Used), s.External)
}

func (d *decoder) settled() *settled {
	s := new(settled)
	s.Block.Number, s.Block.Hash = d.uint(), d.hash()
	for _, x := range []*uint64{&s.Block.Time, &s.Nonce, &s.Older.Time, &s.Older.Nonce, &s.Forgotten} {
		*x = d.uint()
	}
	s.Used, s.External = d.amounts(), d.amounts()
	return s
}

func appendHead(b []byte, h audit.Head) []byte {
	b = append(binary.AppendUvarint(b, h.Seq), h.Hash[:]...)
	return binary.AppendUvarint(binary.AppendUvarint(b, uint64(h.Size)), h.Sealed)
}

func (d *decoder) head() audit.Head {
	return audit.Head{Seq: d.uint(), Hash: d.hash(), Size: int64(d.uint()), Sealed: d.uint()}
}

// append encodes all of s but its spec, of which it has the signer and expiresAt.
func (s *Session) append(b []byte) []byte {
	for _, text := range []string{string(s.ID), string(s.Kind), s.Backend, s.KeyURI, string(s.PublicKey),
		string(s.Protection),
		s.Blocked, string(s.Predecessor), string(s.Status)} {
		b = appendText(b, text)
	}
	b = append(append(b, s.Account[:]...), s.Validator[:]...)
	b = binary.AppendUvarint(append(b, s.Hash[:]...), s.ChainID)
	for _, t := range []time.Time{s.CreatedAt, s.ActivatedAt, s.EndedAt, s.KeyDestroyedAt} {
		b = appendTime(b, t)
	}
	unchecked := byte(0)
	if s.Unchecked {
		unchecked = 1
	}
	b = binary.AppendUvarint(append(b, unchecked), uint64(len(s.Clients)))
	for _, c := range s.Clients {
		id := uint64(c.ID) << 1
		if c.Group {
			id |= 1
		}
		b = binary.AppendUvarint(b, id)
	}
	signer := s.Signer()
	return binary.AppendUvarint(append(b, signer[:]...), s.expiresAt())
}

// session decodes what append encoded, without the spec; texts that many sessions have in common are shared by way of
// shared. A session that is to be brief has no key's URI and no public key.
func (d *decoder) session(shared map[string]string, brief bool) *Session {
	same := func() string {
		raw := d.bytes()
		text, ok := shared[string(raw)]
		if !ok {
			text = string(raw)
			shared[text] = text
		}
		return text
	}
	long := func() string {
		if raw := d.bytes(); !brief {
			return string(raw)
		}
		return ""
	}
	s := &Session{
		ID: ID(d.text()), Kind: Kind(same()), Backend: same(), KeyURI: long(), PublicKey: []byte(long()),
		Protection: backends.Protection(same()), Blocked: same(), Predecessor: ID(d.text()), Status: Status(same()),
		Account: d.address(), Validator: d.address(), Hash: d.hash(), ChainID: d.uint(),
		CreatedAt: d.time(), ActivatedAt: d.time(), EndedAt: d.time(), KeyDestroyedAt: d.time(),
	}
	s.Unchecked = slices.Equal(d.take(1), []byte{1})
	for range d.count() {
		id := d.uint()
		s.Clients = append(s.Clients, Client{Group: id&1 == 1, ID: uint32(id >> 1)})
	}
	s.signer, s.expires = d.address(), d.uint()
	return s
}
