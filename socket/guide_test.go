package socket

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keyward/keyward/policy"
	"github.com/keyward/keyward/rules"
	"github.com/keyward/keyward/socket/api"
	goclient "github.com/keyward/keyward/socket/client"
)

// guideTable reads the table of docs/app-guide.md whose mark names the test: the cells of each row.
func guideTable(t *testing.T) (rows [][]string) {
	t.Helper()
	text, err := os.ReadFile("../docs/app-guide.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(text), t.Name()+" -->")
	table, _, _ = strings.Cut(table, "<!-- end table -->")
	for line := range strings.Lines(table) {
		if strings.HasPrefix(line, "| `") {
			cells := strings.Split(strings.Trim(line, "| \n"), " | ")
			rows = append(rows, cells)
		}
	}
	if len(rows) < 5 {
		t.Fatalf("the table has %d rows", len(rows))
	}
	return rows
}

// namesIn are the words in backquotes.
func namesIn(cell string) (names []string) {
	for i, part := range strings.Split(cell, "`") {
		if i%2 == 1 {
			names = append(names, part)
		}
	}
	return names
}

// guideSpec has every kind of rule: mint of at most 100 a day to one address, with little value, and transfers.
var guideSpec = `{"expiresAt":"4000000000","feeLimit":{"limitType":1,"limit":"1000000000","period":"0"},
"callPolicies":[{"target":"` + testGame + `","selector":"0x40c10f19","maxValuePerUse":"5","valueLimit":{"limitType":1,"limit":"8","period":"0"},"constraints":[
{"condition":"Equal","index":0,"refValue":"0x` + word(7) + `","limit":{"limitType":0,"limit":"0","period":"0"}},
{"condition":0,"index":1,"refValue":"0x` + word(0) + `","limit":{"limitType":"Allowance","limit":"100","period":"86400"}}]}],
"transferPolicies":[{"target":"` + testGame + `","maxValuePerUse":"60","valueLimit":{"limitType":1,"limit":"100","period":"0"}}]}`

func word(n int) string { return fmt.Sprintf("%064x", n) }

// mintOf is the data of a mint to an address.
func mintOf(to, amount int) string { return "0x40c10f19" + word(to) + word(amount) }

// guideAgent is an agent with a session of guideSpec.
func guideAgent(t *testing.T) (*agent, *api.Session) {
	t.Helper()
	a := startAgent(t)
	return a, a.session("agw", guideSpec)
}

// sign has the agent sign a transaction, and returns the denial; nil if it signs.
func (a *agent) sign(changes map[string]any) *api.Denial {
	a.t.Helper()
	err := a.app.Call(a.t.Context(), nil, "eth_signTransaction", tx(changes))
	if err == nil {
		return nil
	}
	reply := goclient.Details(err)
	if reply == nil || reply.Denial() == nil {
		a.t.Fatalf("%v: %v, want a denial", changes, err)
	}
	return reply.Denial()
}

func (a *agent) mustSign(changes map[string]any) {
	a.t.Helper()
	if d := a.sign(changes); d != nil {
		a.t.Fatalf("%v: %s: %s", changes, d.Reason, d.Detail)
	}
}

// wantAmounts checks what a denial by a limit has in limit, used, asked and remaining.
func wantAmounts(t *testing.T, d *api.Denial, want ...string) {
	t.Helper()
	var got []string
	for _, n := range []*policy.Decimal{d.Limit, d.Used, d.Asked, d.Remaining} {
		got = append(got, fmt.Sprint(n))
	}
	if !slices.Equal(got, want) || d.Tracker == nil {
		t.Errorf("%s has limit, used, asked and remaining %v and tracker %v, want %v", d.Reason, got, d.Tracker, want)
	}
}

// denials provokes each reason of the guide's table that a request can get.
var denials = map[string]func(t *testing.T) *api.Denial{
	"sessionNotActive": func(t *testing.T) *api.Denial {
		a, sess := guideAgent(t)
		if _, err := a.operator.RevokeSession(t.Context(), sess.ID); err != nil {
			t.Fatal(err)
		}
		pending := a.pending()
		if d := a.sign(map[string]any{"session": pending.ID}); d == nil || d.Reason != "sessionNotActive" {
			t.Errorf("a pending one: %+v", d)
		}
		return a.sign(map[string]any{"session": sess.ID})
	},
	// The agent stops its margin, here a minute, before the end.
	"sessionExpired": func(t *testing.T) *api.Denial {
		a, _ := guideAgent(t)
		end := time.Unix(4_000_000_000, 0)
		a.ahead.Store(int64(time.Until(end.Add(-2 * time.Minute))))
		a.mustSign(map[string]any{"data": mintOf(7, 1)})
		a.ahead.Store(int64(time.Until(end.Add(-time.Minute).Add(time.Second))))
		return a.sign(map[string]any{"data": mintOf(7, 1), "nonce": 2})
	},
	"callNotAllowed": denied(map[string]any{"data": "0x40c10f18" + word(7)}),
	"transferNotAllowed": func(t *testing.T) *api.Denial {
		a, _ := guideAgent(t)
		a.mustSign(map[string]any{"data": "0x40c10f", "value": 1}) // 3 bytes: a transfer
		return a.sign(map[string]any{"to": testOther, "data": "0x40c10f"})
	},
	"constraintNotMet": func(t *testing.T) *api.Denial {
		d := denied(map[string]any{"data": mintOf(8, 1)})(t)
		if d.Policy == nil || *d.Policy != 0 || d.Constraint == nil || *d.Constraint != 0 {
			t.Errorf("policy %v, constraint %v, want 0 and 0", d.Policy, d.Constraint)
		}
		return d
	},
	"calldataTooShort": denied(map[string]any{"data": "0x40c10f19" + word(7)}),
	"valueTooHigh":     denied(map[string]any{"data": mintOf(7, 1), "value": 6}),
	"lifetimeLimitExceeded": func(t *testing.T) *api.Denial {
		a, _ := guideAgent(t)
		a.mustSign(map[string]any{"data": "0x", "value": 60})
		d := a.sign(map[string]any{"data": "0x", "value": 50, "nonce": 2})
		wantAmounts(t, d, "100", "60", "50", "40")
		return d
	},
	"allowanceLimitExceeded": func(t *testing.T) *api.Denial {
		a, _ := guideAgent(t)
		a.mustSign(map[string]any{"data": mintOf(7, 99)})
		d := a.sign(map[string]any{"data": mintOf(7, 2), "nonce": 2})
		wantAmounts(t, d, "100", "99", "2", "1")
		a.ahead.Store(int64(24 * time.Hour)) // the next period
		a.mustSign(map[string]any{"data": mintOf(7, 2), "nonce": 2})
		return d
	},
	"overflow": func(t *testing.T) *api.Denial {
		a, _ := guideAgent(t)
		a.mustSign(map[string]any{"data": mintOf(7, 1)})
		return a.sign(map[string]any{"data": "0x40c10f19" + word(7) + strings.Repeat("f", 64), "nonce": 2})
	},
	"approvalBasedPaymaster": denied(map[string]any{"data": mintOf(7, 1), "paymaster": testGame,
		"paymasterInput": "0x949431dc"}),
	"targetSelf":      denied(map[string]any{"to": testAccount}),
	"targetValidator": denied(map[string]any{"to": "0x34ca1501FAE231cC2ebc995CE013Dbe882d7d081"}),
	"wrongChain": func(t *testing.T) *api.Denial {
		return naming(t, denied(map[string]any{"chainId": 5})(t), "2741")
	},
	"wrongAccount": func(t *testing.T) *api.Denial {
		a, sess := guideAgent(t)
		return naming(t, a.sign(map[string]any{"from": testOther, "session": sess.ID}), testAccountName)
	},
	"wrongType": func(t *testing.T) *api.Denial {
		a := startAgent(t)
		sess := a.session("eoa", testSpec)
		data := typedData(map[string]any{"from": asInteger(sess.Signer.String())}) // type 0x71, of an eoa session
		return goclient.Details(a.app.Call(t.Context(), nil, "eth_signTypedData_v4", sess.Signer, data)).Denial()
	},
	"refusedType": func(t *testing.T) *api.Denial {
		a, _ := guideAgent(t)
		for _, changes := range []map[string]any{{"to": nil}, {"type": 3}} {
			if d := a.sign(changes); d == nil || d.Reason != "refusedType" {
				t.Errorf("%v: %+v", changes, d)
			}
		}
		return a.sign(map[string]any{"type": 4})
	},
	"productionRules":   notCreated(strings.Replace(testSpec, "0x40c10f19", "0x095ea7b3", 1)), // approve of any spender
	"unlimitedFeeLimit": notCreated(strings.Replace(testSpec, `"limitType":1`, `"limitType":0`, 1)),
	"guardRule": func(t *testing.T) *api.Denial {
		a, _ := guideAgent(t)
		set, err := rules.Compile([]rules.Rule{{Name: "calm", Use: "rate", Per: "client", Limit: "1", Window: time.Hour}})
		if err != nil {
			t.Fatal(err)
		}
		a.Signer.Guard.Store(set)
		a.mustSign(map[string]any{"data": mintOf(7, 1)})
		d := a.sign(map[string]any{"data": mintOf(7, 1), "nonce": 2})
		if d == nil || fmt.Sprint(d.Limit, d.Used, d.Asked, d.Remaining) != "1 1 1 0" || d.Tracker != nil {
			t.Errorf("%+v, want 1 of 1 used", d)
		}
		a.ahead.Store(int64(time.Hour))
		a.mustSign(map[string]any{"data": mintOf(7, 1), "nonce": 2})
		return naming(t, d, `guard rule "calm"`)
	},
	"messageNotAllowed": func(t *testing.T) *api.Denial {
		a, sess := guideAgent(t)
		return goclient.Details(a.app.Call(t.Context(), nil, "personal_sign", "0x00", sess.Signer)).Denial()
	},
	"invalidSigner":    invalidSpec(policy.Spec{}),
	"unknownEnum":      invalidSpec(policy.Spec{FeeLimit: policy.UsageLimit{LimitType: 3}}),
	"tooFewPeriodIds":  simulated(`"periodIds":[]`),
	"periodOutOfRange": simulated(`"periodIds":["0","0","0","1"]`),
}

// denied is a request to an agent that has done nothing else.
func denied(changes map[string]any) func(t *testing.T) *api.Denial {
	return func(t *testing.T) *api.Denial {
		a, _ := guideAgent(t)
		d := a.sign(changes)
		if again := a.sign(changes); cmp.Diff(d, again) != "" {
			t.Errorf("asked again: %+v, want %+v", again, d)
		}
		return d
	}
}

// naming checks that a denial names what belongs there.
func naming(t *testing.T, d *api.Denial, name string) *api.Denial {
	t.Helper()
	if !strings.Contains(d.Detail, name) {
		t.Errorf("%s: %s, want it to name %s", d.Reason, d.Detail, name)
	}
	return d
}

// notCreated has the operator make a session on Abstract's mainnet.
func notCreated(spec string) func(t *testing.T) *api.Denial {
	return func(t *testing.T) *api.Denial {
		a := startAgent(t)
		req := &api.CreateSession{Kind: "agw", Spec: json.RawMessage(spec), Chain: "abstract", Clients: []string{"uid:1"},
			Account: new(policy.Address), Unchecked: true}
		if err := req.Account.UnmarshalText([]byte(testAccount)); err != nil {
			t.Fatal(err)
		}
		_, err := a.operator.CreateSession(t.Context(), req)
		reply := goclient.Details(err)
		if reply == nil || reply.Denial() == nil {
			t.Fatalf("%v, want a denial", err)
		}
		return reply.Denial()
	}
}

// invalidSpec is what the chain would say of a spec. The agent refuses the file of one with an unknown enum before
// that.
func invalidSpec(spec policy.Spec) func(t *testing.T) *api.Denial {
	return func(t *testing.T) *api.Denial {
		a := startAgent(t)
		text := strings.Replace(testSpec, `"limitType":1`, `"limitType":3`, 1)
		err := a.operator.Call(t.Context(), nil, "admin_createSession",
			map[string]any{"kind": "eoa", "chain": "other", "clients": []string{"uid:1"}, "spec": json.RawMessage(text)})
		if reply := goclient.Details(err); reply == nil || reply.Code != api.CodeInvalidParams ||
			!strings.HasSuffix(reply.Details().Path, "feeLimit.limitType") {
			t.Errorf("a session with limitType 3: %v, want -32602 at feeLimit.limitType", err)
		}
		denial := new(policy.Denial)
		if err := spec.Validate(); !errors.As(err, &denial) {
			t.Fatalf("%v, want a denial", err)
		}
		return &api.Denial{Reason: denial.Reason, Revert: denial.Revert}
	}
}

// simulated is the verdict of policy simulate on guideSpec, with a member of the step.
func simulated(member string) func(t *testing.T) *api.Denial {
	return func(t *testing.T) *api.Denial {
		spec := strings.Replace(strings.ReplaceAll(guideSpec, "\n", ""), "{", `{"signer":"`+testOther+`",`, 1)
		line := fmt.Sprintf(`{"name":"x","chainId":2741,"account":%q,"session":%s,"steps":[{"now":"1800000000","tx":{"to":%q,"value":"0","data":%q,`+
			`"gasLimit":"20000","maxFeePerGas":"1"},%s}]}`, testAccount, spec, testGame, mintOf(7, 1), member)
		c, err := policy.ParseCase([]byte(line))
		if err != nil {
			t.Fatal(err)
		}
		results := c.Run(policy.Address{1})
		if len(results) != 1 || results[0].Denial == nil {
			t.Fatalf("%+v, want a denial", results)
		}
		return &api.Denial{Reason: results[0].Denial.Reason, Revert: results[0].Denial.Revert}
	}
}

// elsewhere has the tests of reasons that take more than a request.
var elsewhere = map[string]string{"blockedByRegistry": "session.TestRegistryStopsAndReleases"}

// docs/app-guide.md has a table of denials: each reason occurs, with the chain's words that the table has for it.
func TestGuideDenials(t *testing.T) {
	for _, row := range guideTable(t) {
		reasons, words := namesIn(row[0]), strings.Split(row[1], ", ")
		for i, reason := range reasons {
			if test := elsewhere[reason]; test != "" {
				checkTestExists(t, test)
				continue
			}
			provoke := denials[reason]
			if provoke == nil {
				t.Errorf("nothing provokes %q", reason)
				continue
			}
			t.Run(reason, func(t *testing.T) {
				d := provoke(t)
				if d == nil || d.Reason != reason {
					t.Fatalf("%+v, want %s", d, reason)
				}
				want := words[min(i, len(words)-1)]
				switch want {
				case "–", "(the SDK's own words)":
					want = ""
				case "(reverts without text)":
					want = "empty"
				}
				if d.Revert != want {
					t.Errorf("revert is %q, the guide has %q", d.Revert, want)
				}
			})
		}
	}
}

// docs/app-guide.md says of each reason of -32000 whether to send the request again.
func TestGuideUnavailable(t *testing.T) {
	documented := map[string]bool{}
	for _, row := range guideTable(t) {
		for _, reason := range namesIn(row[0]) {
			if _, ok := documented[reason]; ok {
				t.Errorf("the table has %s twice", reason)
			}
			documented[reason] = strings.HasPrefix(row[1], "yes")
		}
	}
	own := map[string]bool{"internal": replyTo(os.ErrInvalid, false).Details().Retryable}
	for _, r := range replies {
		if r.code == api.CodeUnavailable {
			own[r.data.Reason] = r.data.Retryable
		}
	}
	if diff := cmp.Diff(own, documented); diff != "" {
		t.Errorf("retryable (-agent +guide):\n%s", diff)
	}
}

// What docs/app-guide.md says of fees and nonces: what is counted, and what is not.
func TestGuideFeesAndNonces(t *testing.T) {
	a, sess := guideAgent(t)
	steps := []struct {
		name    string
		changes map[string]any
		fee     string // that is used after it
	}{
		{"gas times maxFeePerGas", map[string]any{"gas": 20_000, "maxFeePerGas": 10}, "200000"},
		{"the same again", map[string]any{"gas": 20_000, "maxFeePerGas": 10}, "200000"},
		{"a cheaper replacement", map[string]any{"gas": 15_000, "maxFeePerGas": 10}, "200000"},
		{"a dearer replacement", map[string]any{"gas": 20_000, "maxFeePerGas": 11}, "220000"},
		{"three times the estimate", map[string]any{"gas": 60_000, "maxFeePerGas": 10, "nonce": 2}, "820000"},
		{"a paymaster pays", map[string]any{"gas": 60_000, "nonce": 3, "paymaster": testGame, "paymasterInput": "0x8c5a3445"},
			"820000"},
	}
	for _, s := range steps {
		s.changes["data"] = mintOf(7, 1)
		a.mustSign(s.changes)
		shown, err := a.app.Session(t.Context(), sess.ID)
		if err != nil {
			t.Fatal(err)
		}
		fee := slices.IndexFunc(shown.Limits, func(l api.Limit) bool { return l.Tracker.String() == "fee" })
		if fee < 0 || shown.Limits[fee].Used.String() != s.fee {
			t.Errorf("%s: %+v, want %s used", s.name, shown.Limits, s.fee)
		}
	}
	// Nothing of it was sent, and all of it counts.
	if shown, err := a.app.Session(t.Context(), sess.ID); err != nil || *shown.Outstanding != 3 {
		t.Errorf("%+v, %v: want 3 nonces outstanding", shown, err)
	}
}
