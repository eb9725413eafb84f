package policy

import (
	"bytes"
	"errors"

	"github.com/holiman/uint256"
)

// errABI is the one error of [DecodeABI]: who made the bytes is no person.
var errABI = errors.New("not the ABI encoding of a session spec")

// DecodeABI reads what [Spec.EncodeABI] writes and nothing else: offsets that lead
// elsewhere, padding that is not zero, enum numbers that the contract does not know and
// bytes left over are errors. So the hash of what is read is that of data.
func DecodeABI(data []byte) (*Spec, error) {
	d := abiDecoder{data: data, items: len(data) / word}
	if d.offset(0) != word {
		return nil, errABI
	}
	s := d.spec(word)
	// One encoding, one spec: whatever is unusual in data comes out here.
	if d.failed || s.unknownEnum() != "" || !bytes.Equal(s.EncodeABI(), data) {
		return nil, errABI
	}
	return s, nil
}

// abiDecoder reads words at byte offsets into data. What is out of range sets failed
// and reads as zero.
type abiDecoder struct {
	data   []byte
	items  int // of arrays that there can still be: none has less than a word
	failed bool
}

// word returns the word at an offset.
func (d *abiDecoder) word(at int) []byte {
	if at < 0 || at > len(d.data)-word {
		d.failed = true
		return make([]byte, word)
	}
	return d.data[at : at+word]
}

func (d *abiDecoder) uint(at int) uint256.Int { return *new(uint256.Int).SetBytes32(d.word(at)) }

func (d *abiDecoder) uint64(at int) uint64 {
	x := d.uint(at)
	d.failed = d.failed || !x.IsUint64()
	return x.Uint64()
}

// offset reads a number that can't be more than there are bytes.
func (d *abiDecoder) offset(at int) int {
	n := d.uint64(at)
	if n > uint64(len(d.data)) {
		d.failed = true
		return 0
	}
	return int(n)
}

// enum reads a uint8.
func (d *abiDecoder) enum(at int) uint8 {
	n := d.uint64(at)
	d.failed = d.failed || n > 0xff
	return uint8(n)
}

func (d *abiDecoder) address(at int) Address { return Address(d.word(at)[word-len(Address{}):]) }

func (d *abiDecoder) limit(at int) UsageLimit {
	return UsageLimit{LimitType(d.enum(at)), d.uint(at + word), d.uint(at + 2*word)}
}

// spec reads the tuple at an offset, which its own offsets count from.
func (d *abiDecoder) spec(at int) *Spec {
	s := &Spec{Signer: d.address(at), ExpiresAt: d.uint(at + word), FeeLimit: d.limit(at + 2*word)}
	calls := at + d.offset(at+5*word)
	for i := range d.count(calls) {
		first := calls + word
		s.CallPolicies = append(s.CallPolicies, d.call(first+d.offset(first+i*word)))
	}
	transfers := at + d.offset(at+6*word)
	for i := range d.count(transfers) {
		p := transfers + word + i*transferWords*word
		s.TransferPolicies = append(s.TransferPolicies,
			TransferSpec{d.address(p), d.uint(p + word), d.limit(p + 2*word)})
	}
	return s
}

func (d *abiDecoder) call(at int) CallSpec {
	p := CallSpec{
		Target:         d.address(at),
		Selector:       Selector(d.word(at + word)[:4]),
		MaxValuePerUse: d.uint(at + 2*word),
		ValueLimit:     d.limit(at + 3*word),
	}
	constraints := at + d.offset(at+6*word)
	for i := range d.count(constraints) {
		c := constraints + word + i*constraintWords*word
		p.Constraints = append(p.Constraints, Constraint{Condition(d.enum(c)),
			d.uint64(c + word), Hash(d.word(c + 2*word)), d.limit(c + 3*word)})
	}
	return p
}

// count reads an array's length. All arrays together have no more items than data has
// words, however their offsets lay them over one another.
func (d *abiDecoder) count(at int) int {
	n := d.offset(at)
	if d.failed || n > d.items {
		d.failed = true
		return 0
	}
	d.items -= n
	return n
}
