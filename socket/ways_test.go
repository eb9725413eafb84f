package socket

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"

	goclient "github.com/keyward/keyward/socket/client"
)

// ways are all ways to hand in one transaction: as typed data and as a request.
func (a *agent) ways(signer any, inTypedData, inRequest map[string]any) map[string]func() string {
	return map[string]func() string{
		"typed data": func() string { return a.detail("eth_signTypedData_v4", signer, typedData(inTypedData)) },
		"Clef's typed data": func() string {
			return a.detail("account_signTypedData", signer,
				typedData(inTypedData))
		},
		"Clef's data": func() string {
			return a.detail("account_signData", "data/typed", signer,
				typedData(inTypedData))
		},
		"eth_signTransaction":      func() string { return a.detail("eth_signTransaction", tx(inRequest)) },
		"account_signTransaction":  func() string { return a.detail("account_signTransaction", tx(inRequest)) },
		"session_signTransaction":  func() string { return a.detail("session_signTransaction", tx(inRequest)) },
		"session_simulate":         func() string { return a.detail("session_simulate", tx(inRequest)) },
		"eip712Meta":               func() string { return a.detail("eth_signTransaction", tx(asMeta(inRequest))) },
		"session_simulate of meta": func() string { return a.detail("session_simulate", tx(asMeta(inRequest))) },
	}
}

// asMeta moves gasPerPubdata into eip712Meta.
func asMeta(request map[string]any) map[string]any {
	moved := map[string]any{}
	for k, v := range request {
		if k == "gasPerPubdata" {
			k, v = "eip712Meta", map[string]any{k: v}
		}
		moved[k] = v
	}
	return moved
}

// detail is ask, with the detail of a refusal instead of its path.
func (a *agent) detail(method string, params ...any) string {
	a.t.Helper()
	var result json.RawMessage
	err := a.app.Call(a.t.Context(), &result, method, params...)
	if err == nil {
		return "ok"
	}
	reply := goclient.Details(err)
	if reply == nil {
		a.t.Fatalf("%s: %v", method, err)
	}
	rule, _, _ := strings.Cut(reply.Details().Detail, ":")
	return strings.TrimSpace(fmt.Sprintf("%d %s %s", reply.Code, reply.Details().Reason, rule))
}

// One field has one rule, whatever the way in. What no node includes is neither signed nor counted.
func TestOneRuleWhateverTheWayIn(t *testing.T) {
	a := startAgent(t)
	sess := a.session("agw", testSpec)
	no := func(rule string) string { return "-32602 notIncludable " + rule }
	for _, tt := range []struct {
		name               string
		typed, request     map[string]any
		inTyped, inRequest string
	}{
		{"a tip above the fee", map[string]any{"maxPriorityFeePerGas": "11"}, map[string]any{"maxPriorityFeePerGas": "11"},
			no("priorityFeeAboveMaxFee"), no("priorityFeeAboveMaxFee")},
		{"gasPerPubdata 0", map[string]any{"gasPerPubdataByteLimit": "0"}, map[string]any{"gasPerPubdata": "0x00"},
			no("gasPerPubdataZero"), "ok"}, // in a request 0 says nothing
		{"gasPerPubdata above 32 bits", map[string]any{"gasPerPubdataByteLimit": "4294967296"},
			map[string]any{"gasPerPubdata": "0x100000000"},
			no("gasPerPubdataSize"), no("gasPerPubdataSize")},
		{"little gas", map[string]any{"gasLimit": "14069"}, map[string]any{"gas": 14069}, no("intrinsicGas"),
			no("intrinsicGas")},
		{"much gas", map[string]any{"gasLimit": "1125899906842625", "maxFeePerGas": "0"},
			map[string]any{"gas": "0x4000000000001", "maxFeePerGas": 0},
			no("batchGasLimit"), no("batchGasLimit")},
		{"a nonce above 32 bits", map[string]any{"nonce": "4294967296"}, map[string]any{"nonce": "0x100000000"},
			no("nonceSize"), no("nonceSize")},
		{"an input without a paymaster", map[string]any{"paymasterInput": "0x8c5a344500"},
			map[string]any{"paymaster": "0x" + strings.Repeat("00", 20), "paymasterInput": "0x8c5a344500"}, no("paymasterInput"),
			no("paymasterInput")},
		{"gas above what a transaction is given", map[string]any{"gasLimit": "90000000"}, map[string]any{"gas": 90_000_000},
			"ok", "ok"},
		{"gasPerPubdata above the default", map[string]any{"gasPerPubdataByteLimit": "50001"},
			map[string]any{"gasPerPubdata": 50001}, "ok", "ok"},
	} {
		for way, ask := range a.ways(sess.Signer, tt.typed, tt.request) {
			want := tt.inRequest
			if strings.Contains(way, "data") {
				want = tt.inTyped
			}
			if strings.Contains(way, "meta") && tt.request["paymaster"] != nil || strings.Contains(way, "eip712Meta") &&
				tt.request["paymaster"] != nil {
				continue // the node's API has a paymaster in another member
			}
			if got := ask(); got != want {
				t.Errorf("%s, %s: %s, want %s", tt.name, way, got, want)
			}
		}
	}
	// Nothing of what was refused is counted: one nonce was signed for.
	if shown, err := a.app.Session(t.Context(), sess.ID); err != nil || *shown.Outstanding != 1 {
		t.Errorf("outstanding after that: %v, %v, want 1", *shown.Outstanding, err)
	}
}

// What is wrong with typed data is told in the names of its message, of a request in those of the request.
func TestNotIncludableNamesTheField(t *testing.T) {
	a := startAgent(t)
	sess := a.session("agw", testSpec)
	for _, tt := range []struct{ typed, request, value string }{
		{"gasLimit", "gas", "1"},
		{"gasPerPubdataByteLimit", "gasPerPubdata", "4294967296"},
		{"maxPriorityFeePerGas", "maxPriorityFeePerGas", "11"},
		{"nonce", "nonce", "4294967296"},
	} {
		const code = "-32602 notIncludable "
		for _, method := range []string{"eth_signTypedData_v4", "account_signTypedData"} {
			if got, want := a.refusal(method, sess.Signer, typedData(map[string]any{tt.typed: tt.value})), code+"message."+
				tt.typed; got != want {
				t.Errorf("%s of %s: %s, want %s", method, tt.typed, got, want)
			}
		}
		if got, want := a.refusal("eth_signTransaction", tx(map[string]any{tt.request: tt.value})), code+
			tt.request; got != want {
			t.Errorf("a request: %s, want %s", got, want)
		}
	}
	err := a.app.Call(t.Context(), nil, "eth_signTypedData_v4", sess.Signer, typedData(map[string]any{"gasLimit": "1"}))
	if reply := goclient.Details(err); reply == nil ||
		reply.Message != "no node can include this transaction: message.gasLimit: 1 is below what every transaction "+
			"costs, 14070" {
		t.Errorf("%v: want the message's field, once", err)
	}
}

// gasPerPubdata 0 in a request is 50,000 in what is signed.
func TestGasPerPubdataOfNothing(t *testing.T) {
	a := startAgent(t)
	a.session("agw", testSpec)
	want := a.ask("eth_signTransaction", tx(nil))
	for name, changes := range map[string]map[string]any{
		"0":          {"gasPerPubdata": 0},
		"alias":      {"gasPerPubdataByteLimit": "0x0"},
		"eip712Meta": {"eip712Meta": map[string]any{"gasPerPubdata": "0x00"}},
		"null":       {"gasPerPubdata": json.RawMessage("null")},
	} {
		if got := a.ask("eth_signTransaction", tx(changes)); got != want {
			t.Errorf("%s: %.90s, want what is signed without it", name, got)
		}
	}
}

// Foreign typed data is answered with what differs.
func TestForeignTypedDataSaysWhatDiffers(t *testing.T) {
	a := startAgent(t)
	sess := a.session("agw", testSpec)
	foreign := func(edit func(data map[string]any)) map[string]any {
		data := typedData(nil)
		edit(data)
		return data
	}
	for _, tt := range []struct {
		data map[string]any
		want []string
	}{
		{foreign(func(d map[string]any) { d["domain"].(map[string]any)["name"] = "zksync" }),
			[]string{`domain.name is "zksync", want "zkSync"`}},
		{foreign(func(d map[string]any) {
			d["domain"].(map[string]any)["name"] = "zksync"
			d["domain"].(map[string]any)["version"] = "1"
		}), []string{`domain.name is "zksync"`, `domain.version is "1", want "2"`}},
		{foreign(func(d map[string]any) { d["primaryType"] = "Mail" }),
			[]string{`primaryType is "Mail", want "Transaction"`}},
		{foreign(func(d map[string]any) { d["domain"] = map[string]any{} }),
			[]string{"domain.name is missing", "domain.version is missing"}},
	} {
		err := a.app.Call(t.Context(), nil, "eth_signTypedData_v4", sess.Signer, tt.data)
		for _, want := range tt.want {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%v, want %s", err, want)
			}
		}
	}
}

// docs/protocol.md lists what is taken and what is refused. Each line is sent.
func TestDocumentedForms(t *testing.T) {
	doc, err := os.ReadFile("../docs/protocol.md")
	if err != nil {
		t.Fatal(err)
	}
	a := startAgent(t)
	a.session("agw", testSpec)
	counts := map[string]int{}
	section := ""
	for _, line := range strings.Split(string(doc), "\n") {
		switch {
		case strings.HasPrefix(line, "<!-- forms: "):
			section = strings.TrimSuffix(strings.TrimPrefix(line, "<!-- forms: "), " -->")
		case strings.HasPrefix(line, "<!-- end forms"):
			section = ""
		case section != "" && strings.HasPrefix(line, "| `"):
			form := strings.Split(line, "`")[1]
			counts[section]++
			got := a.sendForm(t, form)
			if ok := got == "ok"; ok != (section == "taken") {
				t.Errorf("%s: %s, but the document lists it as %s", form, got, section)
			}
		}
	}
	if counts["taken"] < 10 || counts["refused"] < 10 {
		t.Errorf("the document lists %d forms that are taken and %d that are refused, want 10 of each at least",
			counts["taken"], counts["refused"])
	}
}

// sendForm sends a request that is allowed, with members in place of its own: of the transaction, or of the envelope if
// form begins with "envelope ".
func (a *agent) sendForm(t *testing.T, form string) string {
	t.Helper()
	request := tx(nil)
	extra, isEnvelope := strings.CutPrefix(form, "envelope ")
	if isEnvelope {
		c := dial(t, a.appPath)
		c.send(`{"jsonrpc":"2.0","id":1,"method":"eth_accounts",` + extra + "}\n")
		if line := c.line(); !strings.Contains(line, `"result"`) {
			return line
		}
		return "ok"
	}
	// A member of the form stands in for the request's own of that name. A name that the form has twice stays twice.
	for _, name := range memberNames(t, extra) {
		delete(request, name)
	}
	text, err := json.Marshal(request)
	if err != nil {
		t.Fatal(err)
	}
	c := dial(t, a.appPath)
	c.send(fmt.Sprintf(`{"jsonrpc":"2.0","id":1,"method":"eth_signTransaction","params":[%s]}`+"\n",
		strings.TrimSuffix(string(text), "}")+","+extra+"}"))
	if got := outcome(t, []byte(c.line())); !strings.HasPrefix(got, `"0x71`) {
		return got
	}
	return "ok"
}

// memberNames are the names of the members that extra has, of which the text is without its braces.
func memberNames(t *testing.T, extra string) (names []string) {
	t.Helper()
	dec := json.NewDecoder(strings.NewReader("{" + extra + "}"))
	for depth := 0; ; {
		token, err := dec.Token()
		if err != nil {
			return names
		}
		switch v := token.(type) {
		case json.Delim:
			if v == '{' || v == '[' {
				depth++
			} else {
				depth--
			}
		case string:
			if depth == 1 {
				names = append(names, v)
			}
		}
	}
}
