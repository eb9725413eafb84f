package policy

import (
	"slices"

	"github.com/holiman/uint256"
)

// bound is the most that something can come to: a number, or none where nothing holds
// it or the number exceeds 256 bits.
type bound struct {
	open bool // without bound
	most uint256.Int
}

var unbounded = bound{open: true}

func exactly(x uint256.Int) bound { return bound{most: x} }

func (b bound) isZero() bool { return !b.open && b.most.IsZero() }

func (b bound) min(c bound) bound {
	if b.open || !c.open && c.most.Lt(&b.most) {
		return c
	}
	return b
}

func (b bound) plus(c bound) bound {
	sum, overflow := new(uint256.Int).AddOverflow(&b.most, &c.most)
	if b.open || c.open || overflow {
		return unbounded
	}
	return exactly(*sum)
}

// times is 0 where either is, even if the other is without bound.
func (b bound) times(c bound) bound {
	product, overflow := new(uint256.Int).MulOverflow(&b.most, &c.most)
	switch {
	case b.isZero(), c.isZero():
		return bound{}
	case b.open, c.open, overflow:
		return unbounded
	}
	return exactly(*product)
}

// span is the time that a session has left: block times, inclusive at both ends.
type span struct {
	from  uint64
	until uint256.Int // Unix seconds; beyond 64 bits, for ever
}

func (w *span) over() bool { return w.until.LtUint64(w.from) }

// periods is how many periods a transaction can be counted in. A second on a boundary
// belongs to both, so that the period which ends at from is one of them, and the one that
// starts at until. The contract refuses the period id 2^64-1, and any id of a period of 0.
func (w *span) periods(period *uint256.Int) bound {
	if period.IsZero() || w.over() {
		return bound{}
	}
	first := new(uint256.Int)
	if w.from > 0 {
		first.Div(uint256.NewInt(w.from-1), period)
	}
	last := new(uint256.Int).Div(&w.until, period)
	if most := new(uint256.Int).SetUint64(1<<64 - 2); last.Gt(most) {
		last = most
	}
	n := last.Sub(last, first)
	return exactly(*n.AddUint64(n, 1))
}

// total is the most that can be counted against l while w lasts.
func (l *UsageLimit) total(w *span) bound {
	switch l.LimitType {
	case Unlimited:
		return unbounded
	case Lifetime:
		return exactly(l.Limit)
	default:
		return w.periods(&l.Period).times(exactly(l.Limit))
	}
}

// times is how often at least x can be counted against l while w lasts. x is not 0.
func (l *UsageLimit) times(x *uint256.Int, w *span) bound {
	often := exactly(*new(uint256.Int).Div(&l.Limit, x))
	switch l.LimitType {
	case Unlimited:
		return unbounded
	case Lifetime:
		return often
	default:
		return w.periods(&l.Period).times(often)
	}
}

// neverCounts reports whether the contract refuses l at any time after 1970.
func (l *UsageLimit) neverCounts() bool { return l.LimitType == Allowance && l.Period.IsZero() }

// maxWordIndex is the last index whose position in the calldata the contract can compute.
const maxWordIndex = 1<<59 - 1

// wordRange is what a policy's constraints together leave for one word of the calldata:
// from low to high, where there may be gaps. Both ends are possible values, unless it
// is empty.
type wordRange struct {
	empty     bool
	low, high uint256.Int
	not       []uint256.Int // what NotEqual takes out
}

// anyWord is the range of a word that nothing constrains.
func anyWord() *wordRange {
	r := &wordRange{}
	r.high.SetAllOne()
	return r
}

// reach is what a policy lets pass, taken from its constraints.
type reach struct {
	*CallSpec
	words map[uint64]*wordRange // of the words that have constraints
}

// reach looks at every constraint, and at its limit, which a single use must not
// exceed either.
func (p *CallSpec) reach() *reach {
	words := make(map[uint64]*wordRange)
	for i := range p.Constraints {
		c := &p.Constraints[i]
		r := words[c.Index]
		if r == nil {
			r = anyWord()
			words[c.Index] = r
		}
		ref := new(uint256.Int).SetBytes32(c.RefValue[:])
		r.narrow(c.Condition, ref)
		if c.Limit.LimitType != Unlimited {
			r.narrow(LessOrEqual, &c.Limit.Limit)
		}
		r.empty = r.empty || c.Limit.neverCounts() || c.Index > maxWordIndex
	}
	for _, r := range words {
		r.exclude()
	}
	return &reach{p, words}
}

// word returns the range of the word at index.
func (r *reach) word(index uint64) *wordRange {
	if w, ok := r.words[index]; ok {
		return w
	}
	return anyWord()
}

// narrow cuts off what the condition does not let pass. What NotEqual takes out waits
// for exclude, when both ends are known.
func (r *wordRange) narrow(condition Condition, ref *uint256.Int) {
	one := uint256.NewInt(1)
	switch condition {
	case Equal:
		r.narrow(GreaterOrEqual, ref)
		r.narrow(LessOrEqual, ref)
	case Greater:
		next, overflow := new(uint256.Int).AddOverflow(ref, one)
		r.empty = r.empty || overflow
		r.narrow(GreaterOrEqual, next)
	case Less:
		before, underflow := new(uint256.Int).SubOverflow(ref, one)
		r.empty = r.empty || underflow
		r.narrow(LessOrEqual, before)
	case GreaterOrEqual:
		if ref.Gt(&r.low) {
			r.low = *ref
		}
	case LessOrEqual:
		if ref.Lt(&r.high) {
			r.high = *ref
		}
	case NotEqual:
		r.not = append(r.not, *ref)
	}
	r.empty = r.empty || r.low.Gt(&r.high)
}

// exclude moves the ends inwards past the values in not.
func (r *wordRange) exclude() {
	slices.SortFunc(r.not, func(a, b uint256.Int) int { return a.Cmp(&b) })
	one := uint256.NewInt(1)
	for _, x := range r.not {
		if !r.empty && x.Eq(&r.low) {
			r.empty = r.low.Eq(&r.high)
			r.low.Add(&r.low, one)
		}
	}
	for _, x := range slices.Backward(r.not) {
		if !r.empty && x.Eq(&r.high) {
			r.empty = r.low.Eq(&r.high)
			r.high.Sub(&r.high, one)
		}
	}
}

// value returns the one value that the word can have, if there is just one.
func (r *wordRange) value() (uint256.Int, bool) { return r.low, !r.empty && r.low.Eq(&r.high) }

// impossible reports whether no call can pass the policy's constraints and limits.
func (r *reach) impossible() bool {
	if r.ValueLimit.neverCounts() {
		return true
	}
	for _, w := range r.words {
		if w.empty {
			return true
		}
	}
	return false
}

// calls is how many calls can pass while w lasts: each counts at least the least value of
// every word that has a limit.
func (r *reach) calls(w *span) bound {
	if r.impossible() || w.over() {
		return bound{}
	}
	n := unbounded
	for i := range r.Constraints {
		c := &r.Constraints[i]
		if least := &r.word(c.Index).low; !least.IsZero() {
			n = n.min(c.Limit.times(least, w))
		}
	}
	return n
}

// sum is the most that the word at index can add up to over all calls while w lasts.
func (r *reach) sum(index uint64, w *span) bound {
	most := exactly(r.word(index).high).times(r.calls(w))
	for i := range r.Constraints {
		if r.Constraints[i].Index == index {
			most = most.min(r.Constraints[i].Limit.total(w))
		}
	}
	return most
}

// value is the most wei that calls can send while w lasts.
func (r *reach) value(w *span) bound {
	return valueBound(&r.MaxValuePerUse, &r.ValueLimit, r.calls(w), w)
}

// valueBound is the most wei that so many transactions can send while w lasts.
func valueBound(perUse *uint256.Int, l *UsageLimit, times bound, w *span) bound {
	if l.neverCounts() || w.over() {
		return bound{}
	}
	return exactly(*perUse).times(times).min(l.total(w))
}

// address returns the one address that the constraints leave for the word; false if there
// are more. What a word has above its lowest 160 bits, a contract refuses or cuts off.
func (r *reach) address(index int) (a Address, fixed bool) {
	if index == noWord {
		return a, false
	}
	x, fixed := r.word(uint64(index)).value()
	w := x.Bytes32()
	return Address(w[word-len(a):]), fixed
}
