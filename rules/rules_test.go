package rules

import (
	"fmt"
	"maps"
	"math/big"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ethereum/go-ethereum/accounts/abi"
	"github.com/ethereum/go-ethereum/common"
	"github.com/holiman/uint256"

	"github.com/keyward/keyward/internal/zktx"
	"github.com/keyward/keyward/policy"
)

const token = "0x00000000000000000000000000000000000000aa"

// compiled makes a set of one rule, which gets a name.
func compiled(t testing.TB, r Rule) *Set {
	t.Helper()
	r.Name = "rule"
	s, err := Compile([]Rule{r})
	if err != nil {
		t.Fatalf("Compile(%+v): %v", r, err)
	}
	return s
}

func dec(text string) uint256.Int { return *uint256.MustFromDecimal(text) }

// input is a call of transfer(address,uint256) by a client, on a Saturday.
func input() *Input {
	var to policy.Address
	_ = to.UnmarshalText([]byte(token))
	return &Input{
		Tx: &zktx.Transaction{
			Type: zktx.TypeZKsync, ChainID: 2741, Nonce: 7, From: policy.Address{19: 1}, To: to,
			Value:    dec("1000000000000000000"),
			GasLimit: dec("100000"), MaxFeePerGas: dec("25000000"), Data: transferData(policy.Address{19: 0xbb}, dec("5")),
		},
		Session: Session{ID: "s1", Kind: "agw", Account: policy.Address{19: 1}, Protection: "sealed", Backend: "tpm"},
		Client:  Client{UID: 1000, GID: 1001},
		Now:     time.Date(2026, 11, 28, 23, 30, 0, 0, time.UTC),
	}
}

func transferData(to policy.Address, amount uint256.Int) []byte {
	word := amount.Bytes32()
	data := append([]byte{0xa9, 0x05, 0x9c, 0xbb}, make([]byte, 12)...)
	return append(append(data, to[:]...), word[:]...)
}

func TestExpressions(t *testing.T) {
	for when, denied := range map[string]bool{
		`tx.value > ether("10")`:                                                                           false,
		`tx.value >= ether("1")`:                                                                           true,
		`tx.value == gwei("1000000000")`:                                                                   true,
		`tx.value + wei("1") > ether("1")`:                                                                 true,
		`tx.value * wei("2") == ether("2")`:                                                                true,
		`tx.maxFee == wei("2500000000000")`:                                                                true,
		`tx.cost - tx.maxFee == tx.value`:                                                                  true,
		`tx.target == address("0x00000000000000000000000000000000000000AA")`:                               true,
		`tx.target in [address("0x00000000000000000000000000000000000000ab")]`:                             false,
		`tx.selector == selector("transfer(address to, uint256 amount)")`:                                  true,
		`tx.selector == selector("0xa9059cbb")`:                                                            true,
		`tx.function == "transfer(address,uint256)"`:                                                       true,
		`client.uid == 1000 && client.gid == 1001`:                                                         true,
		`now.getDayOfWeek() == 6 && now.getHours("UTC") == 23`:                                             true,
		`session.kind == "eoa" || session.protection != "resident"`:                                        true,
		`tx.chainId != 2741`:                                                                               false,
		`string(tx.target) == "0x00000000000000000000000000000000000000aa"`:                                true,
		`tx.nonce < 8 && tx.dataSize == 68 && tx.type == 113`:                                              true,
		`args.amount > wei("4") && args.to != address("` + token + `")`:                                    true,
		`tx.paymaster != address("0x0000000000000000000000000000000000000000")`:                            false,
		`wei("115792089237316195423570985008687907853269984665640564039457584007913129639935") > tx.value`: true,
	} {
		r := Rule{When: when, Message: "no"}
		if strings.Contains(when, "args.") {
			r.Function = "transfer(address to, uint256 amount)"
		}
		v := compiled(t, r).Judge(input())
		if (v.Denied != nil) != denied {
			t.Errorf("%s: %v, want denied: %v", when, v.Denied, denied)
		}
		if v.Denied != nil && v.Denied.Error() != `guard rule "rule": no` {
			t.Errorf("%s: %v", when, v.Denied)
		}
	}
}

func TestLargeAmounts(t *testing.T) {
	s := compiled(t, Rule{When: `!(tx.value <= ether("10"))`})
	for text, denied := range map[string]bool{
		"10000000000000000000": false, "10000000000000000001": true, "9999999999999999999": false,
		"57896044618658097711785492504343953926634992332820282019728792003956564819968": true, // 2^255
		"18446744073709551616": true, "0": false,
	} {
		in := input()
		in.Tx.Value = dec(text)
		if v := s.Judge(in); (v.Denied != nil) != denied {
			t.Errorf("%s wei: %v, want denied: %v", text, v.Denied, denied)
		}
	}
}

func TestCompileRefuses(t *testing.T) {
	for _, tt := range []struct {
		rule Rule
		want string
	}{
		{Rule{When: `tx.value > 10`}, `write an amount as wei("1")`},
		{Rule{When: `tx.value > 1.5`}, `write an amount as`},
		{Rule{When: `tx.value == 10u`}, `write an amount as`},
		{Rule{When: `10 == tx.value`}, `write an amount as`},
		{Rule{When: `tx.value in [1, 2]`}, "no matching overload"},
		{Rule{When: `dyn(tx.value) == 10`}, "undeclared reference to 'dyn'"},
		{Rule{When: `[tx.value, 10].size() == 2`}, "column"},
		{Rule{When: `tx.target == "0x00000000000000000000000000000000000000aa"`}, `write an address as address("0x…")`},
		{Rule{When: `tx.selector == "0xa9059cbb"`}, `write a selector as`},
		{Rule{When: `tx.value > ether("0.0000000000000000001")`}, "more than 18 digits"},
		{Rule{When: `tx.value > ether("1,5")`}, "not a decimal number"},
		{Rule{When: `tx.value > wei("-1")`}, "not a decimal number"},
		{Rule{When: `tx.value > wei("115792089237316195423570985008687907853269984665640564039457584007913129639936")`},
			"beyond 2^256-1"},
		{Rule{When: `tx.target == address("0x01")`}, "column"},
		{Rule{When: `tx.value > wei(session.id)`}, "takes a literal text"},
		{Rule{When: `tx.values > wei("1")`}, "there are client.gid"},
		{Rule{When: `args.to == tx.target`}, "need function"},
		{Rule{When: `tx.value`}, "is of type wei, want bool"},
		{Rule{When: `tx.value >`}, "column"},
		{Rule{When: `session.id.matches("(")`}, "column"},
		{Rule{When: strings.Repeat("true && ", 1000) + "true"}, "more than 4096 bytes"},
		{Rule{When: `args.a.all(x, args.a.all(y, args.a.all(z, x != y && y != z)))`, Function: "f(uint256[] a)"}, "may cost"},
		{Rule{When: "true", Function: "f(int256 x)"}, "rules can't read the type int256"},
		{Rule{When: "true", Function: "f(uint256 x, uint8 x)"}, "two parameters have the name x"},
		{Rule{When: "true", Function: "f(uint257 x)"}, "function: "},
		{Rule{When: "true", Then: "perhaps"}, `then: "perhaps" is unknown`},
		{Rule{When: "true", Limit: "1"}, "limit means nothing"},
		{Rule{When: "true", Use: "rate"}, "give either"},
		{Rule{}, "no when, use or count"},
		{Rule{Use: "rat"}, "want one of functions, hours"},
		{Rule{Use: "rate", Per: "user", Limit: "1", Window: time.Minute}, `per: "user" is unknown`},
		{Rule{Use: "rate", Per: "client", Window: time.Minute}, "limit is missing"},
		{Rule{Use: "rate", Per: "client", Limit: "1"}, "window: 0s"},
		{Rule{Use: "rate", Per: "client", Limit: "1", Window: 1500 * time.Millisecond}, "whole seconds"},
		{Rule{Use: "spend", Per: "client", Limit: "1 eth", Window: time.Minute}, `the unit is "eth"`},
		{Rule{Use: "hours"}, "are missing"},
		{Rule{Use: "hours", From: "8", To: "18:00"}, "not a time"},
		{Rule{Use: "hours", From: "08:00"}, `to: ""`},
		{Rule{Use: "hours", Days: []string{"monday"}}, `days[0]: "monday"`},
		{Rule{Use: "targets"}, "list is missing"},
		{Rule{Use: "targets", List: []string{"0x1"}}, "list[0]"},
		{Rule{Use: "max-value", Limit: "1", Per: "client"}, "per means nothing"},
		{Rule{Count: "1", Per: "all", Limit: "1", Window: time.Minute}, "is of type int, want wei"},
		{Rule{Count: "tx.value", Per: "all", Limit: "1", Window: time.Minute, Then: Deny}, "then"},
	} {
		tt.rule.Name = "mine"
		_, err := Compile([]Rule{tt.rule})
		if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.HasPrefix(err.Error(), `rule "mine": `) {
			t.Errorf("%+v: %v, want %q", tt.rule, err, tt.want)
		}
	}
	for _, names := range [][]string{{""}, {"a b"}, {"a", "a"}, {strings.Repeat("a", 65)}} {
		var list []Rule
		for _, n := range names {
			list = append(list, Rule{Name: n, When: "false"})
		}
		if _, err := Compile(list); err == nil {
			t.Errorf("names %q were accepted", names)
		}
	}
}

// TestErrorsDeny has rules that can't be evaluated: overflow, and calldata that is cut, dirty or too long.
func TestErrorsDeny(t *testing.T) {
	in := input()
	in.Tx.Value = *new(uint256.Int).SetAllOne()
	if v := compiled(t, Rule{When: `tx.value + wei("1") < wei("5")`}).Judge(in); v.Denied == nil ||
		!strings.Contains(v.Denied.Detail, "outside of 0") {
		t.Errorf("overflow: %+v", v)
	}
	s := compiled(t, Rule{When: `args.amount > wei("100")`, Function: "transfer(address to, uint256 amount)"})
	for name, change := range map[string]func([]byte) []byte{
		"cut":   func(b []byte) []byte { return b[:67] },
		"dirty": func(b []byte) []byte { b[5] = 1; return b },
		"long":  func(b []byte) []byte { return append(b, 0) },
		"none":  func(b []byte) []byte { return b[:4] },
	} {
		in := input()
		in.Tx.Data = change(in.Tx.Data)
		if v := s.Judge(in); v.Denied == nil || !strings.Contains(v.Denied.Detail, "canonical") {
			t.Errorf("%s: %+v", name, v.Denied)
		}
	}
	in = input()
	in.Tx.Data = in.Tx.Data[:3] // not a call of that function
	if v := s.Judge(in); v.Denied != nil {
		t.Errorf("three bytes of calldata: %v", v.Denied)
	}
	in = input()
	in.Tx.Nonce = 1 << 63
	if v := compiled(t, Rule{When: `tx.nonce < 0`}).Judge(in); v.Denied == nil {
		t.Error("a nonce of 2^63 passed as a negative one")
	}
}

// TestDenyWins has a rule that wants approval before and after one that denies.
func TestDenyWins(t *testing.T) {
	s, err := Compile([]Rule{
		{Name: "ask", When: "true", Then: Approve, Message: "look"},
		{Name: "no", When: "true"},
		{Name: "ask2", When: "true", Then: Approve},
	})
	if err != nil {
		t.Fatal(err)
	}
	if v := s.Judge(input()); v.Denied == nil || v.Denied.Rule != "no" {
		t.Errorf("%+v", v)
	}
	if s, err = Compile([]Rule{{Name: "ask", When: "true", Then: Approve, Message: "look"}}); err != nil {
		t.Fatal(err)
	}
	if v := s.Judge(input()); v.Denied != nil || len(v.Approvals) != 1 || v.Approvals[0] != (Need{"ask", "look"}) {
		t.Errorf("%+v", v)
	}
	var none *Set
	if v := none.Judge(input()); v.Denied != nil || none.Hash() != "" {
		t.Errorf("no rules: %+v", v)
	}
}

func TestReady(t *testing.T) {
	for _, tt := range []struct {
		rule   Rule
		change func(*Input)
		denied string // "": allowed
	}{
		{Rule{Use: "max-value", Limit: "1 ether"}, nil, ""},
		{Rule{Use: "max-value", Limit: "999999999 gwei"}, nil, "is more than 999999999000000000"},
		{Rule{Use: "max-fee", Limit: "2500000000000"}, nil, ""},
		{Rule{Use: "max-fee", Limit: "2499999999999"}, nil, "is more than"},
		{Rule{Use: "max-cost", Limit: "1.0000025 ether"}, nil, ""},
		{Rule{Use: "max-cost", Limit: "1 ether"}, nil, "is more than"},
		{Rule{Use: "max-cost", Limit: "1 ether"}, func(in *Input) { in.Tx.Paymaster = policy.Address{1} }, ""},
		{Rule{Use: "max-cost", Limit: "1 ether"}, func(in *Input) { in.Tx.GasLimit.SetAllOne() }, "is more than"},
		{Rule{Use: "max-gas-price", Limit: "0.024 gwei"}, nil, "is more than"},
		{Rule{Use: "targets", List: []string{token}}, nil, ""},
		{Rule{Use: "targets", List: []string{}}, nil, "is not in the list"},
		{Rule{Use: "paymasters", List: []string{}}, nil, ""},
		{Rule{Use: "paymasters", List: []string{token}}, func(in *Input) { in.Tx.Paymaster = policy.Address{1} },
			"is not in the list"},
		{Rule{Use: "functions", List: []string{"transfer(address,uint256)"}}, nil, ""},
		{Rule{Use: "functions", List: []string{"approve(address,uint256)"}}, nil,
			"transfer(address,uint256) is not in the list"},
		{Rule{Use: "functions", List: []string{"0xa9059cbb"}}, func(in *Input) { in.Tx.Data = nil }, "calls no function"},
		{Rule{Use: "functions", List: []string{"transfer"}}, func(in *Input) { in.Tx.Data = nil }, ""},
		{Rule{Use: "require", List: []string{"resident"}}, nil, "is sealed, want resident"},
		{Rule{Use: "hours", Days: []string{"sat", "sun"}}, nil, ""},
		{Rule{Use: "hours", Days: []string{"mon"}}, nil, "it is Sat 23:30 UTC"},
		{Rule{Use: "hours", From: "22:00", To: "06:00", Days: []string{"sat"}}, nil, ""},
		{Rule{Use: "hours", From: "22:00", To: "06:00", Days: []string{"sat"}},
			func(in *Input) { in.Now = in.Now.Add(6 * time.Hour) }, ""},
		{Rule{Use: "hours", From: "22:00", To: "06:00", Days: []string{"sat"}},
			func(in *Input) { in.Now = in.Now.Add(7 * time.Hour) }, "Sun 06:30"},
		{Rule{Use: "hours", From: "22:00", To: "06:00", Days: []string{"sun"}},
			func(in *Input) { in.Now = in.Now.Add(6 * time.Hour) }, "Sun 05:30"},
		{Rule{Use: "hours", From: "08:00", To: "23:30"}, nil, "it is"},
		{Rule{Use: "hours", From: "23:30", To: "23:31"}, nil, ""},
		{Rule{Use: "max-value", Limit: "0", Target: "0x00000000000000000000000000000000000000bb"}, nil, ""},
	} {
		in := input()
		if tt.change != nil {
			tt.change(in)
		}
		v := compiled(t, tt.rule).Judge(in)
		if (v.Denied != nil) != (tt.denied != "") || v.Denied != nil && !strings.Contains(v.Denied.Detail, tt.denied) {
			t.Errorf("%+v: %v, want %q", tt.rule, v.Denied, tt.denied)
		}
	}
}

func TestCounters(t *testing.T) {
	for _, tt := range []struct {
		rule Rule
		want Counter
	}{
		{Rule{Use: "rate", Per: "client", Limit: "5"}, Counter{Key: "uid:1000", Amount: dec("1"), Limit: dec("5")}},
		{Rule{Use: "rate", Per: "session", Limit: "5", Sliding: true},
			Counter{Key: "s1", Amount: dec("1"), Limit: dec("5"), Sliding: true}},
		{Rule{Use: "spend", Per: "all", Limit: "2 ether"},
			Counter{Amount: dec("1000002500000000000"), Limit: dec("2000000000000000000")}},
		{Rule{Count: "args.amount", Function: "transfer(address, uint256 amount)", Per: "target", Limit: "9"},
			Counter{Key: input().Tx.To.String(), Amount: dec("5"), Limit: dec("9")}},
		{Rule{Count: "tx.value", When: `tx.value > wei("0")`, Per: "account", Limit: "9"},
			Counter{Key: input().Session.Account.String(), Amount: dec("1000000000000000000"), Limit: dec("9")}},
	} {
		tt.rule.Window, tt.want.Window, tt.want.Rule = time.Minute, time.Minute, "rule"
		v := compiled(t, tt.rule).Judge(input())
		if v.Denied != nil || len(v.Counters) != 1 || v.Counters[0] != tt.want {
			t.Errorf("%+v: %+v, want %+v", tt.rule, v, tt.want)
		}
	}
	v := compiled(t, Rule{Count: "tx.value", When: "false", Per: "all", Limit: "9", Window: time.Minute}).Judge(input())
	if v.Denied != nil || v.Counters != nil {
		t.Errorf("a rule that does not apply counted: %+v", v)
	}
}

// TestArguments decodes arguments of every type that rules read.
func TestArguments(t *testing.T) {
	const signature = "f(uint8 a, uint256[] b, bytes c, bytes4 d, string e, bool f, address[2] g, (uint256,address) , " +
		"int8)"
	s := compiled(t, Rule{Function: signature, When: `args.a == wei("7") && args.b.exists(x, x == wei("9")) && args.c == b"\x01\x02" &&
		args.d == b"\x01\x02\x03\x04" && args.e == "é" && args.f && args.g[1] == address("` + token + `")`})
	f, err := parseFunction(signature)
	if err != nil {
		t.Fatal(err)
	}
	type pair struct {
		Name0 *big.Int
		Name1 common.Address
	}
	packed, err := f.inputs.Pack(uint8(7), []*big.Int{big.NewInt(1), big.NewInt(9)}, []byte{1, 2}, [4]byte{1, 2, 3, 4},
		"é", true,
		[2]common.Address{{}, common.HexToAddress(token)}, pair{big.NewInt(1), common.Address{}}, int8(-1))
	if err != nil {
		t.Fatal(err)
	}
	in := input()
	in.Tx.Data = append(f.selector[:], packed...)
	if v := s.Judge(in); v.Denied == nil || v.Denied.Detail != "" {
		t.Errorf("%+v", v.Denied)
	}
	var _ abi.Arguments = f.inputs
}

// TestParameterNames reads names as Solidity's grammar places them.
func TestParameterNames(t *testing.T) {
	for text, want := range map[string]string{
		"f()": "[]", "f(uint256)": "[]|1", "f(uint256 a)": "[a]", "function f(bytes calldata b, string memory)": "[b ]",
		"f((uint256 x, address y) pair, uint8[] z)": "[pair z]", "f(address payable to)": "[to]",
		"f(address payable)":        "[]|1",
		"f( uint256   a ,uint8 b )": "[a b]", "f((uint256,address)[] list)": "[list]",
	} {
		got := parameterNames(text)
		shown := fmt.Sprint(got)
		if strings.HasSuffix(want, "|1") {
			if len(got) != 1 || got[0] != "" {
				t.Errorf("%s: %q", text, got)
			}
			continue
		}
		if shown != want {
			t.Errorf("%s: %s, want %s", text, shown, want)
		}
	}
}

// TestDocs wants docs/rules.md to name every variable, function and ready-made rule.
func TestDocs(t *testing.T) {
	page, err := os.ReadFile("../docs/rules.md")
	if err != nil {
		t.Fatal(err)
	}
	names := slices.Concat(slices.Collect(maps.Keys(variables)), slices.Collect(maps.Keys(ready)), pers)
	for name := range literals {
		names = append(names, name+"(\"")
	}
	for _, name := range names {
		if !strings.Contains(string(page), "`"+name) {
			t.Errorf("docs/rules.md does not name %s", name)
		}
	}
}
