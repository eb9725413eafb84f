package socket

import (
	"context"
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holiman/uint256"

	"github.com/keyward/keyward/audit"
	"github.com/keyward/keyward/chain"
	"github.com/keyward/keyward/chain/chaintest"
	"github.com/keyward/keyward/policy"
	"github.com/keyward/keyward/session"
	"github.com/keyward/keyward/socket/api"
)

// A session that can't sign is not meant by a request that names only the account.
func TestOnlyWhatCanSignIsMeant(t *testing.T) {
	a := startAgent(t)
	first := a.active()
	a.wantMeant("one", byAccount, string(first.ID))
	waiting := a.pending()
	a.wantMeant("with a pending one", byAccount, string(first.ID))
	ended := a.active()
	a.revoke(ended)
	a.wantMeant("with one that has ended", byAccount, string(first.ID))
	a.pending(forClients(them))
	a.active(forClients(them))
	a.wantMeant("with those of another client", byAccount, string(first.ID))
	a.wantMeant("the pending one by id", named("session", waiting.ID), "4001 sessionNotActive", string(waiting.ID),
		"pending")
	a.wantMeant("the ended one by id", named("session", ended.ID), "4001 sessionNotActive", string(ended.ID), "revoked")

	soon := a.pending(func(r *session.CreateRequest) {
		r.Spec.ExpiresAt = *uint256.NewInt(uint64(time.Now().Unix()) +
			3600)
	})
	a.revoke(first)
	a.activate(soon)
	a.wantMeant("the first revoked", byAccount, string(soon.ID))
	a.ahead.Store(int64(2 * time.Hour)) // nothing has made it expired yet: only Run does
	later := a.active()
	a.wantMeant("past the end of the older one", byAccount, string(later.ID))
}

// Where no session can sign, the answer has the reason of the newest that this client may use.
func TestNewestOfThoseThatCannotSign(t *testing.T) {
	a := startAgent(t)
	a.wantMeant("no session", byAccount, "4100 unknownSigner")
	a.active(forClients(them))
	a.wantMeant("another client's", byAccount, "4100 unknownSigner")
	older := a.pending()
	a.wantMeant("one that is pending", byAccount, "4001 sessionNotActive", string(older.ID), "pending")
	newer := a.pending()
	a.wantMeant("two that are pending", byAccount, "4001 sessionNotActive", string(newer.ID), "pending")
	a.revoke(older)
	a.wantMeant("an older one revoked", byAccount, "4001 sessionNotActive", string(newer.ID), "pending")
	a.activate(newer)
	last := a.active()
	a.revoke(last)
	a.revoke(newer) // after it, and still the older
	a.wantMeant("all revoked", byAccount, "4001 sessionNotActive", string(last.ID), "revoked")
	a.wantMeant("all revoked, without a chain", named("chainId", nil), "4001 sessionNotActive", string(last.ID), "revoked")
}

func TestSeveralSessionsFit(t *testing.T) {
	a := startAgent(t)
	sessions := []*session.Session{a.active(), a.active()}
	hidden := []*session.Session{a.pending(), a.active(forClients(them))}
	a.wantMeant("two", byAccount, "-32602 ambiguousSession", testAccountName, string(sessions[0].ID)+", "+
		string(sessions[1].ID), `"session"`)
	got := a.meant(byAccount)
	for _, sess := range hidden {
		if strings.Contains(got, string(sess.ID)) {
			t.Errorf("%s names %s, which is %s and of %v", got, sess.ID, sess.Status, sess.Clients)
		}
	}
	for _, sess := range sessions {
		a.wantMeant("by id", named("session", sess.ID), string(sess.ID))
		a.wantMeant("by signer", named("signer", sess.Signer()), string(sess.ID))
		a.wantMeant("by signer as session", named("session", strings.ToLower(sess.Signer().String())), string(sess.ID))
	}
	for range 10 {
		sessions = append(sessions, a.active())
	}
	a.wantMeant("twelve", byAccount, "-32602 ambiguousSession", string(sessions[9].ID)+", and more")
	if got := a.meant(byAccount); strings.Contains(got, string(sessions[10].ID)) {
		t.Errorf("%s names more than ten", got)
	}
	a.revoke(sessions[0])
	for _, sess := range sessions[2:] {
		a.revoke(sess)
	}
	a.wantMeant("one left", byAccount, string(sessions[1].ID))
}

// A session whose clients are a user and that user's groups is one session.
func TestSessionOfUserAndGroup(t *testing.T) {
	a := startAgent(t)
	group := session.Client{Group: true, ID: uint32(os.Getgid())}
	both := a.active(forClients(us, group, us))
	a.wantMeant("both", byAccount, string(both.ID))
	second := a.active(forClients(group))
	a.wantMeant("another of the group", byAccount, "-32602 ambiguousSession", string(both.ID)+", "+string(second.ID)+":")
	a.revoke(both)
	a.wantMeant("the group's alone", byAccount, string(second.ID))
}

func TestRenewedSessionIsMeant(t *testing.T) {
	a := startAgent(t)
	old := a.active()
	next := a.renew(old)
	bySigner := named("signer", old.Signer())
	a.wantMeant("pending successor, by account", byAccount, string(old.ID))
	a.wantMeant("pending successor, by id", named("session", old.ID), string(old.ID))
	a.activate(next)
	a.wantMeant("by account", byAccount, string(next.ID))
	a.wantMeant("by the old id", named("session", old.ID), string(next.ID))
	a.wantMeant("by the old signer", bySigner, string(old.ID))
	last := a.activate(a.renew(next))
	a.revoke(next)
	a.wantMeant("the one between revoked, by account", byAccount, string(last.ID))
	a.wantMeant("the one between revoked, by the first id", named("session", old.ID), string(last.ID))
	a.wantMeant("the one between revoked, by its id", named("session", next.ID), string(last.ID))
	a.wantMeant("the one between revoked, by its signer", named("signer", next.Signer()), "4001 sessionNotActive")
	a.revoke(last)
	a.wantMeant("all successors revoked, by account", byAccount, string(old.ID))
	a.wantMeant("all successors revoked, by id", named("session", old.ID), string(old.ID))
	again := a.renew(old)
	a.revoke(old)
	a.wantMeant("its successor pending", byAccount, "4001 sessionNotActive", string(again.ID), "pending")
	a.wantMeant("its successor pending, by id", named("session", old.ID), "4001 sessionNotActive", string(old.ID),
		"revoked")
	a.activate(again)
	a.wantMeant("renewed once it had ended", named("session", old.ID), string(again.ID))
}

// A session that the policy registry has stopped can't sign, so it is not meant either.
func TestBlockedSessionIsNotMeant(t *testing.T) {
	a := startAgent(t)
	node := chaintest.Start(t)
	client, err := chain.New(chaintest.Config(node.URL))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	a.Signer.Watcher = session.NewWatcher(a.Signer.Sessions,
		session.WatchConfig{Interval: time.Millisecond, RegistryInterval: time.Millisecond},
		[]session.WatchedChain{{Client: client, Validator: a.validator, Registry: true}})
	onNode := onChain(chaintest.ChainID)
	transfersOnly := func(r *session.CreateRequest) { r.Spec.CallPolicies = nil }
	calls, transfers := a.active(onNode), a.active(onNode, transfersOnly)
	for _, q := range calls.Spec.RegistryQueries() {
		node.SetRegistry(q, policy.Blocked)
	}
	for _, q := range transfers.Spec.RegistryQueries() {
		node.SetRegistry(q, policy.Allowed)
	}
	ctx, stop := context.WithCancel(t.Context())
	stopped := make(chan struct{})
	go func() { defer close(stopped); a.Signer.Watcher.Run(ctx) }()
	defer func() { stop(); <-stopped }()
	blocked := func(want *session.Session) {
		t.Helper()
		for shown := (&api.Session{}); shown.Blocked == ""; time.Sleep(time.Millisecond) {
			if shown, err = a.app.Session(t.Context(), string(want.ID)); err != nil {
				t.Fatal(err)
			}
		}
	}
	blocked(calls)
	transfer := map[string]any{"chainId": chaintest.ChainID, "data": "0x", "value": 1}
	a.wantMeant("one of two", transfer, string(transfers.ID))
	a.wantMeant("the blocked one by its signer", map[string]any{"chainId": chaintest.ChainID, "signer": calls.Signer()},
		"4001 blockedByRegistry")
	next := a.activate(a.pending(onNode, func(r *session.CreateRequest) { r.Predecessor = transfers.ID }))
	blocked(next) // unlike the one that it renews
	a.wantMeant("renewed by one that is blocked", transfer, string(transfers.ID))
	transfer["session"] = transfers.ID
	a.wantMeant("renewed by one that is blocked, by id", transfer, string(transfers.ID))
	delete(transfer, "session")
	a.revoke(transfers)
	a.wantMeant("none that can sign", transfer, "4001 blockedByRegistry", string(next.ID))
}

// A session that renews one for other clients changes nothing for those that may not use it.
func TestRenewedForOtherClients(t *testing.T) {
	a := startAgent(t)
	old := a.active()
	theirs := a.activate(a.renew(old, them))
	a.wantMeant("by account", byAccount, string(old.ID))
	a.wantMeant("by id", named("session", old.ID), string(old.ID))
	a.wantMeant("theirs by id", named("session", theirs.ID), "4100 unknownSigner")
	a.wantMeant("theirs by signer", named("signer", theirs.Signer()), "4100 unknownSigner")
	ours := a.activate(a.renew(theirs, us))
	a.wantMeant("renewed by theirs and then ours", byAccount, string(ours.ID))
	a.wantMeant("renewed by theirs and then ours, by id", named("session", old.ID), string(ours.ID))
	a.wantMeant("theirs by id, which ours renews", named("session", theirs.ID), "4100 unknownSigner")
}

func TestWrongChain(t *testing.T) {
	a := startAgent(t)
	sess := a.active()
	a.active(forClients(them), onChain(77))
	ended := a.active()
	a.revoke(ended)
	const says = "for chain 2741, the transaction for chain 77"
	for name, changes := range map[string]map[string]any{
		"by account":         {"chainId": 77},
		"as hex":             {"chainId": "0x4d"},
		"by id":              {"chainId": 77, "session": sess.ID},
		"by signer":          {"chainId": 77, "signer": sess.Signer()},
		"ended, by id":       {"chainId": 77, "session": ended.ID},
		"from is the signer": {"chainId": 77, "from": sess.Signer()},
	} {
		a.wantMeant(name, changes, "4001 wrongChain", says)
	}
	data := typedData(nil)
	data["domain"].(map[string]any)["chainId"] = 77
	text, err := json.Marshal(data)
	if err != nil {
		t.Fatal(err)
	}
	for name, params := range map[string][]any{
		"eth_signTypedData_v4":  {sess.Signer(), data},
		"account_signTypedData": {sess.Signer(), data},
		"account_signData":      {"data/typed", sess.Signer(), api.Bytes(text)},
	} {
		if got := errorText(a.app.Call(t.Context(), nil, name, params...)); !strings.HasPrefix(got, "4001 wrongChain: ") ||
			!strings.Contains(got, says) {
			t.Errorf("%s: %s, want wrongChain", name, got)
		}
	}
	a.revoke(sess)
	a.wantMeant("none that can sign", named("chainId", 77), "4001 wrongChain", says)
	// What other clients have on that chain stays theirs.
	a.active(forClients(them), onChain(5), func(r *session.CreateRequest) { r.Account = policy.Address{1} })
	a.wantMeant("another client's account", map[string]any{"chainId": 77, "from": policy.Address{1}}, "4100 unknownSigner")
	a.wantMeant("another client's account on its chain", map[string]any{"chainId": 5, "from": policy.Address{1}},
		"4100 unknownSigner")
}

func TestTwoChains(t *testing.T) {
	a := startAgent(t)
	here := a.active()
	there := a.pending(onChain(5))
	noChain := named("chainId", nil)
	a.wantMeant("pending on the other chain", noChain, string(here.ID))
	a.wantMeant("pending on the chain that is named", named("chainId", 5), "4001 sessionNotActive", string(there.ID))
	a.activate(there)
	a.wantMeant("active on both", noChain, "-32602 ambiguousSession", string(here.ID)+" on chain 2741, "+string(there.ID)+
		" on chain 5", `"chainId"`)
	a.wantMeant("on one", named("chainId", testChain), string(here.ID))
	a.wantMeant("on the other", named("chainId", 5), string(there.ID))
	a.active(forClients(them), onChain(8)) // which this client is not told of
	a.wantMeant("on neither", named("chainId", 6), "4001 wrongChain",
		"the sessions are for the chains 5, 2741, the transaction for chain 6")
	a.wantMeant("on neither, by id", map[string]any{"chainId": 6, "session": there.ID}, "4001 wrongChain",
		"the session is for chain 5, the transaction for chain 6")
	a.wantMeant("by id, without a chain", map[string]any{"chainId": nil, "session": there.ID}, string(there.ID))
	a.wantMeant("by id, with the other's chain", map[string]any{"chainId": testChain, "session": there.ID},
		"4001 wrongChain")
	a.revoke(here)
	a.wantMeant("ended on one, without a chain", noChain, string(there.ID))
	a.wantMeant("ended on one, which is named", named("chainId", testChain), "4001 sessionNotActive", string(here.ID))
}

// from is the account. In its place the signer's address is what several clients send: the answer says what belongs
// there.
func TestFromIsTheSigner(t *testing.T) {
	a := startAgent(t)
	sess := a.active()
	says := "give the session's account there, " + testAccountName
	a.wantMeant("from alone", named("from", sess.Signer()), "4001 wrongAccount", sess.Signer().String(), says)
	a.wantMeant("with the signer", map[string]any{"from": sess.Signer(), "signer": sess.Signer()}, "4001 wrongAccount",
		says)
	a.wantMeant("with the id", map[string]any{"from": sess.Signer(), "session": sess.ID}, "4001 wrongAccount", says)
	a.wantMeant("without a chain", map[string]any{"from": sess.Signer(), "chainId": nil}, "4001 wrongAccount", says)
	data := typedData(named("from", asInteger(sess.Signer().String())))
	for _, method := range []string{"eth_signTypedData_v4", "account_signTypedData"} {
		got := errorText(a.app.Call(t.Context(), nil, method, sess.Signer(), data))
		if !strings.HasPrefix(got, "4001 wrongAccount: ") || !strings.Contains(got, says) {
			t.Errorf("%s: %s", method, got)
		}
	}
	waiting := a.renew(sess)
	a.wantMeant("a pending one's", named("from", waiting.Signer()), "4001 wrongAccount", says)
	a.activate(waiting)
	a.wantMeant("a renewed one's", named("from", sess.Signer()), "4001 wrongAccount", says)
	a.revoke(sess)
	a.wantMeant("an ended one's", named("from", sess.Signer()), "4001 wrongAccount", says)
	theirs := a.active(forClients(them))
	a.wantMeant("another client's", named("from", theirs.Signer()), "4100 unknownSigner")
	a.wantMeant("another account with the id", map[string]any{"from": testOther, "session": waiting.ID},
		"4001 wrongAccount",
		"for account "+testAccountName, "from "+policy.Address{19: 0xaa}.String())
	eoa := a.session("eoa", testSpec)
	a.wantMeant("an eoa session's", named("from", eoa.Signer), eoa.ID)
}

func TestNamesInTransactions(t *testing.T) {
	a := startAgent(t)
	sess, other := a.active(), a.active()
	a.wantMeant("null names", map[string]any{"session": sess.ID, "signer": json.RawMessage("null"),
		"hooks": json.RawMessage("null")}, string(sess.ID))
	a.wantMeant("null session", map[string]any{"session": json.RawMessage("null"), "signer": other.Signer()},
		string(other.ID))
	a.wantMeant("hooks", map[string]any{"session": sess.ID, "hooks": []any{testOther, a.validator}}, string(sess.ID))
	both := "-32602 invalidParams"
	for name, changes := range map[string]map[string]any{
		"session and signer":                {"session": sess.ID, "signer": sess.Signer()},
		"session as an address, and signer": {"session": sess.Signer(), "signer": other.Signer()},
		"empty":                             {"session": ""},
		"a number":                          {"session": 7},
		"the zero address":                  {"signer": policy.Address{}},
		"the zero address as session":       {"session": policy.Address{}},
		"a wrong checksum":                  {"signer": "0x9976c0267aE33ef761b6ad01313c2f8f2024C0DD"},
		"hooks without the validator":       {"session": sess.ID, "hooks": []any{testOther}},
		"no from":                           {"from": nil},
		"no from with a session":            {"session": sess.ID, "from": nil},
		"no chain that the parser knows":    {"session": sess.ID, "chainId": "x"},
	} {
		a.wantMeant(name, changes, both)
	}
	a.wantMeant("no from", named("from", nil), "from: missing")
	a.wantMeant("unknown id", named("session", "0123456789abcdef"), "4100 unknownSigner")
	a.wantMeant("unknown signer", named("signer", testOther), "4100 unknownSigner")
	if got := a.ask("eth_signTypedData_v4", policy.Address{}, typedData(nil)); got != both {
		t.Errorf("typed data of the zero address: %s, want %s", got, both)
	}
	for name, id := range map[string]any{"id": sess.ID, "signer": sess.Signer()} {
		var shown api.Session
		if err := a.app.Call(t.Context(), &shown, "session_get", id); err != nil || shown.ID != string(sess.ID) {
			t.Errorf("session_get by %s = %+v, %v", name, shown, err)
		}
	}
	renewed := a.activate(a.renew(sess))
	var shown api.Session
	if err := a.app.Call(t.Context(), &shown, "session_get", sess.ID); err != nil || shown.ID != string(sess.ID) ||
		shown.Successor != string(renewed.ID) {
		t.Errorf("session_get of a renewed session = %+v, %v, want that very session", shown, err)
	}
	theirs := a.active(forClients(them))
	for _, name := range []any{theirs.ID, theirs.Signer(), "0123456789abcdef", testOther} {
		if got := a.ask("session_get", name); got != "4100 unknownSigner" {
			t.Errorf("session_get %v = %s", name, got)
		}
	}
	list := a.Signer.Sessions.VisibleTo(audit.Peer{UID: us.ID})
	if slices.ContainsFunc(list, func(s *session.Session) bool { return s.ID == theirs.ID }) {
		t.Error("another client's session is listed")
	}
}
