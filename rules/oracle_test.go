package rules

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/holiman/uint256"

	"github.com/keyward/keyward/policy"
)

// TestAgainstOracle compares a rule set with the same rules in Go, on random transactions near their bounds.
func TestAgainstOracle(t *testing.T) {
	s, err := Compile([]Rule{
		{Name: "large", When: `tx.value > ether("10") || tx.value + tx.maxFee > wei("10000000000000000005")`},
		{Name: "tokens", Function: "transfer(address to, uint256 amount)",
			When: `args.amount > wei("1000") && args.to != address("` + token + `")`},
		{Name: "who", When: `client.uid != 1000 && tx.target != address("` + token + `")`},
	})
	if err != nil {
		t.Fatal(err)
	}
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 0))
	known := input().Tx.To
	near := func(text string) uint256.Int {
		x := dec(text)
		return *x.Add(&x, new(uint256.Int).SubUint64(uint256.NewInt(uint64(random.IntN(7))), 3))
	}
	ten, five, most := dec("10000000000000000000"), dec("10000000000000000005"), dec("1000")
	for i := range 20_000 {
		in := input()
		in.Tx.Value, in.Tx.GasLimit, in.Tx.MaxFeePerGas = near("10000000000000000000"), near("3"), near("3")
		if random.IntN(20) == 0 {
			in.Tx.Value.SetAllOne()
		}
		to, amount := policy.Address{19: byte(random.IntN(2))}, near("1000")
		if random.IntN(2) == 0 {
			to = known
		}
		in.Tx.Data = transferData(to, amount)
		dirty := random.IntN(10) == 0
		if dirty {
			in.Tx.Data = append(in.Tx.Data, 0)
		}
		in.Client.UID = uint32(999 + random.IntN(3))
		if random.IntN(2) == 0 {
			in.Tx.To = policy.Address{1}
		}
		fee := maxFee(in.Tx)
		sum, overflow := new(uint256.Int).AddOverflow(&in.Tx.Value, &fee)
		want := in.Tx.Value.Gt(&ten) || overflow || sum.Gt(&five) || dirty || amount.Gt(&most) && to != known ||
			in.Client.UID != 1000 && in.Tx.To != known
		if v := s.Judge(in); (v.Denied != nil) != want {
			t.Fatalf("seed %d, step %d: %+v %x: %v, want denied: %v", seed, i, in.Tx, in.Tx.Data, v.Denied, want)
		}
	}
}

func FuzzExpression(f *testing.F) {
	for _, seed := range []string{`tx.value > ether("1")`, `args.a[0] == wei("1")`, `now.getHours() > 3`, "\xff",
		`"a".matches("(a+)+$")`} {
		f.Add(seed, []byte{0xa9, 0x05, 0x9c, 0xbb})
	}
	f.Fuzz(func(t *testing.T, when string, data []byte) {
		for _, function := range []string{"", "transfer(address to, uint256 amount)"} {
			s, err := Compile([]Rule{{Name: "r", When: when, Function: function}})
			if err != nil {
				continue
			}
			in := input()
			in.Tx.Data = data
			s.Judge(in)
		}
	})
}

func BenchmarkJudge(b *testing.B) {
	s, err := Compile([]Rule{
		{Name: "large", When: `tx.value > ether("10")`},
		{Name: "tokens", Function: "transfer(address to, uint256 amount)", When: `args.amount > wei("1000")`},
		{Name: "rate", Use: "rate", Per: "client", Limit: "60", Window: time.Minute},
		{Name: "spend", Use: "spend", Per: "account", Limit: "5 ether", Window: 24 * time.Hour},
		{Name: "hours", Use: "hours", From: "00:00", To: "23:59"},
		{Name: "targets", Use: "targets", List: []string{token}},
		{Name: "price", Use: "max-gas-price", Limit: "30 gwei"},
	})
	if err != nil {
		b.Fatal(err)
	}
	in := input()
	b.ReportAllocs()
	for b.Loop() {
		if v := s.Judge(in); v.Denied != nil {
			b.Fatal(v.Denied)
		}
	}
}
