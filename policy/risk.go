package policy

import (
	"fmt"
	"slices"
	"strings"

	"github.com/holiman/uint256"
)

// AssetKind says what an [Asset] is counted in.
type AssetKind uint8

const (
	NativeAsset   AssetKind = iota // wei
	TokenAsset                     // the smallest units of a token, ids taken together
	NFTAsset                       // tokens of a collection
	Permit2Asset                   // smallest units of any token that the account has approved Permit2 for
	ContractAsset                  // whatever a contract's own code can take: never bounded by a spec
)

// Asset is what an account can lose. It is comparable.
type Asset struct {
	Kind    AssetKind
	Address Address // of the token, collection or contract; zero for the others
}

// String returns the text form: native, token:0xADDRESS, nft:0xADDRESS, permit2, contract:0xADDRESS.
func (a Asset) String() string {
	switch a.Kind {
	case NativeAsset:
		return "native"
	case TokenAsset:
		return "token:" + a.Address.String()
	case NFTAsset:
		return "nft:" + a.Address.String()
	case Permit2Asset:
		return "permit2"
	default:
		return "contract:" + a.Address.String()
	}
}

// MarshalText returns what String does. There is never an error.
func (a Asset) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// UnmarshalText reads what MarshalText gives.
func (a *Asset) UnmarshalText(text []byte) error {
	kind, address, given := strings.Cut(string(text), ":")
	kinds := map[string]AssetKind{"native": NativeAsset, "token": TokenAsset, "nft": NFTAsset, "permit2": Permit2Asset,
		"contract": ContractAsset}
	k, ok := kinds[kind]
	if !ok || given == (k == NativeAsset || k == Permit2Asset) {
		return fmt.Errorf("%q is no asset", text)
	}
	*a = Asset{Kind: k}
	if !given {
		return nil
	}
	return a.Address.UnmarshalText([]byte(address))
}

// Risk is what a session can lose at most from a time until it expires: what leaves the
// account, and what others may take by approvals that the session gives. It knows the spec
// alone, so it takes every limit for unused, and every transaction for signed by someone
// who means harm. It counts what the contract lets pass, not what the agent or a node does.
type Risk struct {
	From     uint64      `json:"from"`  // Unix seconds, block time
	Until    Decimal     `json:"until"` // Unix seconds, inclusive
	Rows     []RiskRow   `json:"rows"`  // never nil
	Totals   []RiskTotal `json:"totals"`
	Sentence string      `json:"sentence"`
}

// RiskRow is one way to lose an asset.
type RiskRow struct {
	Asset     Asset    `json:"asset"`
	AtMost    *Decimal `json:"atMost"`              // nil: unbounded
	Recipient string   `json:"recipient,omitempty"` // an address, "anyone", or "" where that is no question
	Through   string   `json:"through"`             // e.g. "fees", "transfer(address,uint256)"
	Path      string   `json:"path"`                // e.g. "callPolicies[0]"
	Why       string   `json:"why"`
}

// RiskTotal adds up the rows of one asset.
type RiskTotal struct {
	Asset  Asset    `json:"asset"`
	AtMost *Decimal `json:"atMost"` // nil: unbounded
}

// Risk reports what s can lose from block time now (Unix seconds) on.
func (s *Spec) Risk(now uint64) *Risk {
	a := assessment{span: span{now, s.ExpiresAt}, rows: []RiskRow{}}
	if s.unknownEnum() == "" && !a.span.over() {
		a.fees(&s.FeeLimit)
		for i := range s.CallPolicies {
			if p := &s.CallPolicies[i]; s.callPolicy(p.Target, p.Selector) == i {
				a.call(fmt.Sprintf("callPolicies[%d]", i), p.reach())
			}
		}
		for i := range s.TransferPolicies {
			if p := &s.TransferPolicies[i]; s.transferPolicy(p.Target) == i {
				a.transfer(fmt.Sprintf("transferPolicies[%d]", i), p)
			}
		}
	}
	r := &Risk{From: now, Until: Decimal(s.ExpiresAt), Rows: a.rows, Totals: a.totals()}
	r.Sentence = r.sentence(s)
	return r
}

// assessment collects the rows of a [Risk].
type assessment struct {
	span span
	rows []RiskRow
}

func (a *assessment) add(row RiskRow, most bound) {
	if !most.open {
		row.AtMost = (*Decimal)(&most.most)
	}
	a.rows = append(a.rows, row)
}

func (a *assessment) fees(l *UsageLimit) {
	most := l.total(&a.span)
	a.add(RiskRow{
		Through: "fees",
		Path:    "feeLimit",
		Why:     a.whyLimit(l, most, ether),
	}, most)
}

func (a *assessment) transfer(path string, p *TransferSpec) {
	most := valueBound(&p.MaxValuePerUse, &p.ValueLimit, unbounded, &a.span)
	a.add(RiskRow{
		Recipient: p.Target.String(),
		Through:   "transfers",
		Path:      path,
		Why:       a.whyValue(&p.MaxValuePerUse, &p.ValueLimit, unbounded, most),
	}, most)
}

// call adds what calls can send, and what the function that they call can take.
func (a *assessment) call(path string, r *reach) {
	if r.impossible() {
		return
	}
	name := r.Selector.functionName()
	if !r.MaxValuePerUse.IsZero() {
		most := r.value(&a.span)
		a.add(RiskRow{
			Recipient: r.Target.String(),
			Through:   "value sent to " + name,
			Path:      path,
			Why:       a.whyValue(&r.MaxValuePerUse, &r.ValueLimit, r.calls(&a.span), most),
		}, most)
	}
	move, ok := tokenMoves[r.Selector]
	switch {
	case !ok:
		a.add(RiskRow{
			Asset:   Asset{ContractAsset, r.Target},
			Through: name,
			Path:    path,
			Why:     "what the function takes, the contract's code decides and the spec cannot say",
		}, unbounded)
	case move.any:
		a.add(RiskRow{
			Asset:   Asset{ContractAsset, r.Target},
			Through: name,
			Path:    path,
			Why:     "it calls any function of the contract, and no constraint sees which",
		}, unbounded)
	default:
		a.tokens(path, r, &move)
	}
}

// tokens adds what a call of a token function can take.
func (a *assessment) tokens(path string, r *reach, m *tokenMove) {
	row := RiskRow{
		Asset:     r.asset(m),
		Recipient: r.recipient(m),
		Through:   r.Selector.functionName(),
		Path:      path,
	}
	var most bound
	most, row.Why = a.amount(r, m)
	if m.approval && !most.isZero() {
		row.Why += "; an approval can be used after the session's end"
	}
	a.add(row, most)
}

func (r *reach) asset(m *tokenMove) Asset {
	switch {
	case m.ids:
		return Asset{NFTAsset, r.Target}
	case !m.permit2:
		return Asset{TokenAsset, r.Target}
	}
	if token, fixed := r.address(m.token); fixed {
		return Asset{TokenAsset, token}
	}
	return Asset{Kind: Permit2Asset}
}

func (r *reach) recipient(m *tokenMove) string {
	if m.burns {
		return ""
	}
	if to, fixed := r.address(m.recipient); fixed {
		return to.String()
	}
	return "anyone"
}

// endless is 2^96-1, the least number that some token takes for an allowance which never
// runs down. Permit2 takes 2^160-1, most tokens 2^256-1.
var endless = new(uint256.Int).SubUint64(new(uint256.Int).Lsh(uint256.NewInt(1), 96), 1)

// amount is the most that calls of a token function can take, and why.
func (a *assessment) amount(r *reach, m *tokenMove) (bound, string) {
	calls := r.calls(&a.span)
	if calls.isZero() {
		return calls, "no call passes"
	}
	if m.enabled != noWord {
		if enabled := r.word(uint64(m.enabled)); enabled.high.IsZero() {
			return bound{}, fmt.Sprintf("word %d must be false, which takes the approval away", m.enabled)
		}
		return unbounded, "it approves all that the account has and will have"
	}
	if m.amount == noWord {
		return unbounded, "no word that a constraint can hold says how much"
	}
	w := r.word(uint64(m.amount))
	switch {
	case m.ids:
		n := exactly(w.high).plus(exactly(*uint256.NewInt(1)))
		if !n.open {
			n.most.Sub(&n.most, &w.low)
		}
		return n.min(calls), fmt.Sprintf("ids %s, %s", w, describeCalls(calls))
	case m.approval && !w.high.Lt(endless):
		return unbounded, fmt.Sprintf("word %d can be so large that the allowance never runs down", m.amount)
	}
	most := r.sum(uint64(m.amount), &a.span)
	why := a.whyAmount(r, uint64(m.amount), most)
	if m.maybeIDs {
		why += fmt.Sprintf("; if it is an NFT, the tokens with ids %s", w)
	}
	return most, why
}

// String says which values the word can have.
func (r *wordRange) String() string {
	top := "any"
	if !r.high.Eq(new(uint256.Int).SetAllOne()) {
		top = r.high.Dec()
	}
	switch {
	case r.low.Eq(&r.high):
		return top
	case r.low.IsZero() && top == "any":
		return top
	}
	return r.low.Dec() + " to " + top
}

// whyAmount says which constraint bounds the sum of the word at index.
func (a *assessment) whyAmount(r *reach, index uint64, most bound) string {
	if most.open {
		return fmt.Sprintf("nothing bounds what word %d of the arguments adds up to", index)
	}
	for i := range r.Constraints {
		c := &r.Constraints[i]
		if c.Index == index && c.Limit.LimitType != Unlimited && c.Limit.total(&a.span) == most {
			return a.whyLimit(&c.Limit, most, func(x uint256.Int) string { return x.Dec() })
		}
	}
	return fmt.Sprintf("%s, %s at a time", describeCalls(r.calls(&a.span)), r.word(index).high.Dec())
}

func (a *assessment) whyValue(perUse *uint256.Int, l *UsageLimit, calls, most bound) string {
	switch {
	case perUse.IsZero():
		return "sending no value"
	case l.neverCounts():
		return "the contract refuses an allowance with a period of 0"
	case most.open && l.LimitType == Unlimited:
		return "nothing bounds the value in total"
	case !most.open && l.total(&a.span) != most:
		return fmt.Sprintf("%s, at most %s at a time", describeCalls(calls), ether(*perUse))
	}
	return a.whyLimit(l, most, ether)
}

// whyLimit says what l lets add up, with amounts written by unit.
func (a *assessment) whyLimit(l *UsageLimit, most bound, unit func(uint256.Int) string) string {
	text := describeTotal(l, unit)
	if l.LimitType == Allowance && !l.Period.IsZero() {
		n := a.span.periods(&l.Period)
		text += fmt.Sprintf(", in %s that can be used until the end", plural(&n.most, "period"))
	}
	if most.open && l.LimitType != Unlimited {
		text += ": more than 256 bits"
	}
	return text
}

// describeCalls says how many calls there can be.
func describeCalls(n bound) string {
	if n.open {
		return "any number of calls"
	}
	return "at most " + plural(&n.most, "call")
}

func plural(n *uint256.Int, noun string) string {
	if n.Eq(uint256.NewInt(1)) {
		return "1 " + noun
	}
	return n.Dec() + " " + noun + "s"
}

// totals adds up the rows, the native asset first and the others as they come.
func (a *assessment) totals() []RiskTotal {
	totals := []RiskTotal{}
	for i := range a.rows {
		row := &a.rows[i]
		j := slices.IndexFunc(totals, func(t RiskTotal) bool { return t.Asset == row.Asset })
		if j < 0 {
			totals = append(totals, RiskTotal{row.Asset, row.AtMost})
			continue
		}
		sum := asBound(totals[j].AtMost).plus(asBound(row.AtMost))
		totals[j].AtMost = nil
		if !sum.open {
			totals[j].AtMost = (*Decimal)(&sum.most)
		}
	}
	return totals
}

func asBound(most *Decimal) bound {
	if most == nil {
		return unbounded
	}
	return exactly(most.Int())
}
