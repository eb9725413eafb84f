package policy

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/holiman/uint256"
)

// attack plays someone who holds the session's key: what the contract's rules let pass,
// passes, and what was taken is added up here without the code under test.
type attack struct {
	spec  *Spec
	chain replay
	taken map[Asset]*uint256.Int
	ids   map[Asset]map[uint64]bool // NFTs taken, each once
	given map[Asset]bool            // approved without bound
}

var attackedAccount, attackedToken, attackedHero = Address{19: 0xaa}, Address{19: 0xbb}, Address{19: 0xcc}

func newAttack(spec *Spec) *attack {
	return &attack{
		spec:  spec,
		chain: replay{spec: spec, account: attackedAccount, active: true, used: map[Tracker]uint256.Int{}},
		taken: map[Asset]*uint256.Int{},
		ids:   map[Asset]map[uint64]bool{},
		given: map[Asset]bool{},
	}
}

// send sends one transaction and reports whether the contract let it pass.
func (a *attack) send(tx *Call, ids []uint64, now uint64) bool {
	tx.Account = attackedAccount
	if _, denial := a.chain.judge(tx, ids, now); denial != nil {
		return false
	}
	native := Asset{Kind: NativeAsset}
	a.take(native, tx.Value.Uint64())
	if tx.Paymaster.IsZero() {
		a.take(native, tx.MaxFeePerGas.Uint64()*tx.GasLimit.Uint64())
	}
	if tx.IsCall() {
		a.call(tx)
	}
	return true
}

func (a *attack) take(asset Asset, amount uint64) {
	if a.taken[asset] == nil {
		a.taken[asset] = new(uint256.Int)
	}
	a.taken[asset].AddUint64(a.taken[asset], amount)
}

// call does what the token would, as its standard says.
func (a *attack) call(tx *Call) {
	argument := func(i int) uint64 {
		if start := 4 + 32*i; len(tx.Data) >= start+32 {
			return new(uint256.Int).SetBytes32(tx.Data[start:]).Uint64()
		}
		return 0 // a contract that reads beyond the calldata sees zeros, or reverts
	}
	token := Asset{TokenAsset, tx.To}
	switch functionSignatures[tx.selector()] {
	case "transfer(address,uint256)", "approve(address,uint256)", "increaseAllowance(address,uint256)":
		a.take(token, argument(1)) // a spender spends at once
	case "transferFrom(address,address,uint256)", "permit(address,address,uint256,uint256,uint8,bytes32,bytes32)":
		a.take(token, argument(2))
	case "burn(uint256)":
		a.take(token, argument(0))
	case "setApprovalForAll(address,bool)":
		a.given[token] = a.given[token] || argument(1) != 0
	case "safeTransferFrom(address,address,uint256)":
		hero := Asset{NFTAsset, tx.To}
		if a.ids[hero] == nil {
			a.ids[hero] = map[uint64]bool{}
		}
		a.ids[hero][argument(2)] = true
	}
}

// exceeds returns what was taken beyond what risk says, "" if nothing was.
func (a *attack) exceeds(risk *Risk) string {
	most := map[Asset]*Decimal{}
	known := map[Asset]bool{}
	for _, t := range risk.Totals {
		most[t.Asset], known[t.Asset] = t.AtMost, true
	}
	for asset, taken := range a.taken {
		m := most[asset]
		if known[asset] && m == nil || taken.IsZero() {
			continue
		}
		if m == nil || taken.Gt((*uint256.Int)(m)) {
			return fmt.Sprintf("%s of %v, and the report says %v", taken.Dec(), asset, m)
		}
	}
	for asset, ids := range a.ids {
		m := most[asset]
		if known[asset] && m == nil {
			continue
		}
		if m == nil || uint256.NewInt(uint64(len(ids))).Gt((*uint256.Int)(m)) {
			return fmt.Sprintf("%d tokens of %v, and the report says %v", len(ids), asset, m)
		}
	}
	for asset, given := range a.given {
		if given && (!known[asset] || most[asset] != nil) {
			return fmt.Sprintf("all of %v, and the report says %v", asset, most[asset])
		}
	}
	return ""
}

// sendAnyID sends tx with one of the period ids that the contract takes at now: at a
// boundary there are two.
func (a *attack) sendAnyID(tx *Call, now uint64, pick func(int) int) bool {
	ids := a.spec.PeriodIDs(tx, now)
	limits := a.limits(tx)
	for i := range ids {
		if l := limits[i]; l.LimitType == Allowance && !l.Period.IsZero() && ids[i] > 0 &&
			now%l.Period.Uint64() == 0 && pick(2) == 0 {
			ids[i]--
		}
	}
	return a.send(tx, ids, now)
}

// limits are those that the ids of tx are for.
func (a *attack) limits(tx *Call) []*UsageLimit {
	limits := []*UsageLimit{&a.spec.FeeLimit}
	if !tx.IsCall() {
		if i := a.spec.transferPolicy(tx.To); i >= 0 {
			limits = append(limits, &a.spec.TransferPolicies[i].ValueLimit)
		}
		return limits
	}
	if i := a.spec.callPolicy(tx.To, tx.selector()); i >= 0 {
		p := &a.spec.CallPolicies[i]
		limits = append(limits, &p.ValueLimit)
		for j := range p.Constraints {
			limits = append(limits, &p.Constraints[j].Limit)
		}
	}
	return limits
}

var attackedSelectors = []Selector{
	{0xa9, 0x05, 0x9c, 0xbb}, // transfer
	{0x23, 0xb8, 0x72, 0xdd}, // transferFrom
	{0x09, 0x5e, 0xa7, 0xb3}, // approve
	{0x39, 0x50, 0x93, 0x51}, // increaseAllowance
	{0xd5, 0x05, 0xac, 0xcf}, // permit
	{0xa2, 0x2c, 0xb4, 0x65}, // setApprovalForAll
	{0x42, 0x84, 0x2e, 0x0e}, // safeTransferFrom
	{0x42, 0x96, 0x6c, 0x68}, // burn
	{0x12, 0x34, 0x56, 0x78}, // something else
}

// randomSpec has numbers so small that limits, boundaries and contradictions are met often.
func randomSpec(r *rand.Rand, now uint64) *Spec {
	small := func() uint256.Int { return *uint256.NewInt(r.Uint64N(6)) }
	limit := func() UsageLimit {
		return UsageLimit{LimitType: LimitType(r.IntN(3)), Limit: small(), Period: small()}
	}
	s := &Spec{Signer: Address{1}, ExpiresAt: *uint256.NewInt(now + r.Uint64N(9)), FeeLimit: limit()}
	for range 1 + r.IntN(3) {
		p := CallSpec{
			Target:         []Address{attackedToken, attackedHero}[r.IntN(2)],
			Selector:       attackedSelectors[r.IntN(len(attackedSelectors))],
			MaxValuePerUse: small(),
			ValueLimit:     limit(),
		}
		for range r.IntN(4) {
			c := Constraint{Condition: Condition(r.IntN(7)), Index: r.Uint64N(4), Limit: limit()}
			c.RefValue[31] = byte(r.IntN(5))
			p.Constraints = append(p.Constraints, c)
		}
		s.CallPolicies = append(s.CallPolicies, p)
	}
	for range r.IntN(3) {
		s.TransferPolicies = append(s.TransferPolicies, TransferSpec{
			[]Address{attackedToken, attackedHero}[r.IntN(2)], small(), limit(),
		})
	}
	return s
}

// randomTx is one that may pass: to a policy's target, with small numbers.
func randomTx(r *rand.Rand, s *Spec) *Call {
	tx := &Call{Value: *uint256.NewInt(r.Uint64N(6)), GasLimit: *uint256.NewInt(r.Uint64N(4)),
		MaxFeePerGas: *uint256.NewInt(1)}
	if r.IntN(3) == 0 {
		tx.Paymaster = Address{9}
	}
	n := r.IntN(len(s.CallPolicies) + len(s.TransferPolicies))
	if n >= len(s.CallPolicies) {
		tx.To = s.TransferPolicies[n-len(s.CallPolicies)].Target
		return tx
	}
	p := &s.CallPolicies[n]
	tx.To, tx.Data = p.Target, append([]byte{}, p.Selector[:]...)
	for i := range 4 {
		x := uint256.NewInt(r.Uint64N(6))
		// What a constraint asks for is guessed seldom enough.
		for j := range p.Constraints {
			if c := &p.Constraints[j]; c.Index == uint64(i) && c.Condition == Equal && r.IntN(8) > 0 {
				x.SetBytes32(c.RefValue[:])
			}
		}
		w := x.Bytes32()
		tx.Data = append(tx.Data, w[:]...)
	}
	return tx
}

// Whatever a hostile holder of the key sends, in whichever periods, no more is lost than the report says.
func TestRiskIsNeverExceeded(t *testing.T) {
	passed := 0
	for seed := range uint64(1000) {
		passed += attackOnce(t, seed, 200)
	}
	if passed < 10000 {
		t.Errorf("only %d transactions passed: this test attacks too little", passed)
	}
}

func FuzzRisk(f *testing.F) {
	f.Add(uint64(1))
	f.Add(uint64(1 << 40))
	f.Fuzz(func(t *testing.T, seed uint64) { attackOnce(t, seed, 400) })
}

// attackOnce sends so many transactions to a session that seed makes, and returns how many passed.
func attackOnce(t *testing.T, seed uint64, txs int) (passed int) {
	t.Helper()
	r := rand.New(rand.NewPCG(seed, 7))
	now := 8 + r.Uint64N(9)
	spec := randomSpec(r, now)
	risk, a := spec.Risk(now), newAttack(spec)
	left := spec.ExpiresAt.Uint64() - now + 1
	for i := range txs {
		at := now + uint64(i)*left/uint64(txs) // every second of what is left, in order
		if a.sendAnyID(randomTx(r, spec), at, r.IntN) {
			passed++
		}
		if more := a.exceeds(risk); more != "" {
			t.Fatalf("seed %d: at %d of %d to %s the attack took %s:\n%+v\n%+v", seed, at, now, spec.ExpiresAt.Dec(), more, spec,
				risk.Rows)
		}
	}
	return passed
}

// The report is no more than an attacker reaches who sends one unit after another in every
// period that there is, at boundaries in both.
func TestRiskIsReached(t *testing.T) {
	for _, c := range []struct {
		name       string
		now, until uint64
		limit      UsageLimit
		want       uint64
	}{
		{"lifetime", 10, 20, UsageLimit{LimitType: Lifetime, Limit: *uint256.NewInt(7)}, 7},
		{"within one period", 11, 14, allowance(3, 5), 3},
		{"the start is a boundary", 10, 14, allowance(3, 5), 6},
		{"the end is a boundary", 11, 15, allowance(3, 5), 6},
		{"both are", 10, 20, allowance(3, 5), 12},
		{"one second on a boundary", 10, 10, allowance(3, 5), 6},
		{"one second off it", 11, 11, allowance(3, 5), 3},
		{"a second is a period", 10, 12, allowance(3, 1), 12},
		{"longer than the time there was", 10, 12, allowance(3, 100), 3},
		{"a period of 0", 10, 12, allowance(3, 0), 0},
		{"since 1970", 0, 4, allowance(3, 5), 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			spec := &Spec{Signer: Address{1}, ExpiresAt: *uint256.NewInt(c.until),
				FeeLimit:         UsageLimit{LimitType: Lifetime},
				TransferPolicies: []TransferSpec{{Target: attackedToken, MaxValuePerUse: *uint256.NewInt(2), ValueLimit: c.limit}},
				CallPolicies: []CallSpec{{Target: attackedToken, Selector: attackedSelectors[0],
					Constraints: []Constraint{{Index: 1, Limit: c.limit}}}},
			}
			a := newAttack(spec)
			for now := c.now; now <= c.until; now++ {
				for pick := range 2 {
					only := func(int) int { return pick }
					for a.sendAnyID(&Call{To: attackedToken, Value: *uint256.NewInt(1)}, now, only) {
					}
					data := append(append([]byte{}, attackedSelectors[0][:]...), make([]byte, 64)...)
					data[67] = 1
					for a.sendAnyID(&Call{To: attackedToken, Data: data}, now, only) {
					}
				}
			}
			risk := spec.Risk(c.now)
			for _, asset := range []Asset{{Kind: NativeAsset}, {TokenAsset, attackedToken}} {
				var taken uint64
				if a.taken[asset] != nil {
					taken = a.taken[asset].Uint64()
				}
				if taken != c.want {
					t.Errorf("%v: the attack reaches %d, want %d", asset, taken, c.want)
				}
				if got := total(risk, asset); got != uint256.NewInt(c.want).Dec() && !(c.want == 0 && got == "none") {
					t.Errorf("%v: the report says %s, want %d", asset, got, c.want)
				}
			}
		})
	}
}

func allowance(limit, period uint64) UsageLimit {
	return UsageLimit{LimitType: Allowance, Limit: *uint256.NewInt(limit), Period: *uint256.NewInt(period)}
}

// total is what r says of asset: digits, "unbounded", or "none" if it is not there.
func total(r *Risk, asset Asset) string {
	for _, t := range r.Totals {
		if t.Asset == asset {
			if t.AtMost == nil {
				return "unbounded"
			}
			return t.AtMost.String()
		}
	}
	return "none"
}
