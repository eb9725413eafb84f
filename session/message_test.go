package session

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ethereum/go-ethereum/crypto"
	"github.com/holiman/uint256"

	"github.com/keyward/keyward/policy"
	"github.com/keyward/keyward/rules"
)

const (
	tokenContract   = "0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913"
	channelContract = "0x7777777777777777777777777777777777777777"
	voucherType     = "Voucher(bytes32 channelId,uint96 cumulativeAmount)"
)

// payer is an active eoa session whose spec allows transfers and approvals of the token without a limit.
func (a *agent) payer(t *testing.T) *Session {
	t.Helper()
	req := a.createRequest()
	req.Kind, req.Account, req.Validator, req.ChainID = EOA, policy.Address{}, policy.Address{}, 8453
	for _, f := range []string{"transfer(address,uint256)", "approve(address,uint256)"} {
		call := policy.CallSpec{Selector: policy.SelectorOf(f)}
		if err := call.Target.UnmarshalText([]byte(tokenContract)); err != nil {
			t.Fatal(err)
		}
		req.Spec.CallPolicies = append(req.Spec.CallPolicies, call)
	}
	sess, err := a.Create(t.Context(), operator, req)
	if err != nil {
		t.Fatal(err)
	}
	return sess
}

func domainOf(name, contract string) map[string]string {
	return map[string]string{"name": name, "version": "2", "chainId": "8453", "verifyingContract": contract}
}

func voucherRule(limit string) rules.Rule {
	return rules.Rule{
		Name: "vouchers", Then: rules.Allow, Domain: domainOf("Channels", channelContract), Type: voucherType,
		Channel: "channelId", Count: "message.cumulativeAmount", Per: "account", Limit: limit,
	}
}

func x402Rule(limit string) rules.Rule {
	return rules.Rule{
		Name: "x402", Use: "transfer-with-authorization", Domain: domainOf("USD Coin", tokenContract), Per: "account",
		Limit: limit,
		List:  []string{"0x2222222222222222222222222222222222222222"},
	}
}

// typed is a request for typed data with these fields, "type name=value".
func typed(t *testing.T, sess *Session, name, contract, primary string, fields ...string) *SignRequest {
	t.Helper()
	var types, values []string
	for _, f := range fields {
		typ, rest, _ := strings.Cut(f, " ")
		field, value, _ := strings.Cut(rest, "=")
		types = append(types, fmt.Sprintf(`{"name":%q,"type":%q}`, field, typ))
		values = append(values, fmt.Sprintf("%q:%q", field, value))
	}
	data, err := policy.ParseJSON(fmt.Appendf(nil,
		`{"types":{%q:[%s]},"primaryType":%q,"domain":{"name":%q,"version":"2","chainId":8453,"verifyingContract":%q},"message":{%s}}`,
		primary, strings.Join(types, ","), primary, name, contract, strings.Join(values, ",")))
	if err != nil {
		t.Fatal(err)
	}
	return &SignRequest{Signer: sess.Signer(), Message: &rules.Message{Typed: data}, What: "typed data",
		Method: "eth_signTypedData_v4"}
}

func voucher(t *testing.T, sess *Session, channel byte, amount uint64) *SignRequest {
	t.Helper()
	return typed(t, sess, "Channels", channelContract, "Voucher",
		fmt.Sprintf("bytes32 channelId=0x%064x", channel), fmt.Sprintf("uint96 cumulativeAmount=%d", amount))
}

func payment(t *testing.T, sess *Session, to string, value, nonce uint64) *SignRequest {
	t.Helper()
	return typed(t, sess, "USD Coin", tokenContract, "TransferWithAuthorization",
		"address from="+sess.Account.String(), "address to="+to, fmt.Sprintf("uint256 value=%d", value),
		"uint256 validAfter=0", "uint256 validBefore=1900000000", fmt.Sprintf("bytes32 nonce=0x%064x", nonce))
}

func (a *agent) mustSign(t *testing.T, req *SignRequest) *Signed {
	t.Helper()
	signed, err := a.Sign(t.Context(), app, req)
	if err != nil {
		t.Fatal(err)
	}
	return signed
}

// refused wants a denial whose text has the words.
func (a *agent) refused(t *testing.T, req *SignRequest, words string) {
	t.Helper()
	_, err := a.Sign(t.Context(), app, req)
	var d *policy.Denial
	if !errors.As(err, &d) || !strings.Contains(err.Error(), words) {
		t.Errorf("%v, want a denial with %q", err, words)
	}
}

const shop = "0x2222222222222222222222222222222222222222"

func TestVoucherChargesTheRise(t *testing.T) {
	a := newAgent(t)
	sess := a.payer(t)
	a.guard(t, voucherRule("100"))
	first := a.mustSign(t, voucher(t, sess, 1, 60))
	rsv := first.Signature
	rsv[64] -= 27
	if pub, err := crypto.SigToPub(first.Digest[:], rsv[:]); err != nil ||
		policy.Address(crypto.PubkeyToAddress(*pub)) != sess.Signer() {
		t.Errorf("it recovers to %v, %v", pub, err)
	}
	a.refused(t, voucher(t, sess, 1, 59), "signed up to 60")
	a.mustSign(t, voucher(t, sess, 1, 60)) // free
	a.mustSign(t, voucher(t, sess, 1, 90))
	a.refused(t, voucher(t, sess, 1, 101), "90 of 100 are used")
	a.refused(t, voucher(t, sess, 2, 11), "90 of 100 are used")
	a.mustSign(t, voucher(t, sess, 2, 10))
	a.restart(t) // and the app has lost its state
	a.guard(t, voucherRule("100"))
	a.refused(t, voucher(t, sess, 1, 1), "signed up to 90")
	a.mustSign(t, voucher(t, sess, 1, 60)) // the same digest as before
	a.refused(t, voucher(t, sess, 1, 91), "100 of 100 are used")
	other := voucherRule("100")
	other.Name = "renamed"
	a.guard(t, other)
	a.refused(t, voucher(t, sess, 1, 89), "signed up to 90") // the mark is not the rule's
}

// TestVouchersUnderLoad signs 1,000 vouchers of ten channels in parallel against a budget for a part of them.
func TestVouchersUnderLoad(t *testing.T) {
	a := newAgent(t)
	sess := a.payer(t)
	a.guard(t, voucherRule("370"))
	var mu sync.Mutex
	most := map[byte]uint64{}
	var requests sync.WaitGroup
	for i := range uint64(1000) {
		requests.Go(func() {
			channel, amount := byte(i%10), 1+i/10
			req := voucher(t, sess, channel, amount)
			_, err := a.Sign(t.Context(), app, req)
			for errors.Is(err, ErrOverloaded) {
				time.Sleep(10 * time.Millisecond)
				_, err = a.Sign(t.Context(), app, req)
			}
			var d *policy.Denial
			switch {
			case err == nil:
				mu.Lock()
				most[channel] = max(most[channel], amount)
				mu.Unlock()
			case !errors.As(err, &d) || d.Reason != ReasonGuardRule:
				t.Errorf("%v", err)
			}
		})
	}
	requests.Wait()
	var sum uint64
	for _, amount := range most {
		sum += amount
	}
	if sum > 370 || sum < 270 { // a rise that does not fit is refused whole
		t.Errorf("vouchers for %d are out, the budget is 370", sum)
	}
}

// TestPaymentsByAuthorization has ERC-3009 authorizations, which x402's scheme "exact" uses: each nonce costs, one
// nonce costs the most of it.
func TestPaymentsByAuthorization(t *testing.T) {
	a := newAgent(t)
	sess := a.payer(t)
	a.guard(t, x402Rule("100"))
	a.mustSign(t, payment(t, sess, shop, 40, 1))
	a.mustSign(t, payment(t, sess, shop, 40, 1)) // the same digest
	a.mustSign(t, payment(t, sess, shop, 30, 1)) // the same nonce: one of the two can be used
	a.mustSign(t, payment(t, sess, shop, 60, 2))
	a.refused(t, payment(t, sess, shop, 1, 3), "100 of 100 are used")
	a.refused(t, payment(t, sess, shop, 41, 1), "100 of 100 are used")
	a.refused(t, payment(t, sess, "0x3333333333333333333333333333333333333333", 1, 1), "is not in the list")
	a.pass(12 * time.Hour)
	a.refused(t, payment(t, sess, shop, 1, 4), "100 of 100 are used") // without a window nothing is given back
	mine := payment(t, sess, shop, 1, 1)
	mine.Message.Typed = policy.JSONValue(strings.Replace(string(mine.Message.Typed), sess.Account.String(), shop, 1))
	a.refused(t, mine, "is not the session's account")
	if last := a.events(t); last[len(last)-1] != "message.refused" || !strings.Contains(a.auditText(t), `"rule":"x402"`) {
		t.Errorf("trail %v", last)
	}
}

// TestMessagesOnlyNarrow has messages that a rule allows and the spec, the session's state or another rule does not.
func TestMessagesOnlyNarrow(t *testing.T) {
	a := newAgent(t)
	sess := a.payer(t)
	permit := func(token string) *SignRequest {
		return typed(t, sess, "USD Coin", token, "Permit", "address owner="+sess.Account.String(), "address spender="+shop,
			"uint256 value=5", "uint256 nonce=0", "uint256 deadline=1900000000")
	}
	const elsewhere = "0x9999999999999999999999999999999999999999"
	a.guard(t)
	a.refused(t, permit(tokenContract), "no guard rule allows it")
	list := []rules.Rule{
		{Name: "permits", Use: "permit", Domain: domainOf("USD Coin", tokenContract)},
		{Name: "elsewhere", Use: "permit", Domain: domainOf("USD Coin", elsewhere)},
		{Name: "texts", Then: rules.Allow, Type: rules.PersonalType,
			When: `message.text.startsWith("login ") && message.size < 100`},
	}
	a.guard(t, list...)
	a.mustSign(t, permit(tokenContract))
	a.refused(t, permit(elsewhere), "Call to this contract is not allowed")
	a.refused(t, permit("0x8888888888888888888888888888888888888888"), "no guard rule allows it")
	text := func(s string) *SignRequest {
		return &SignRequest{Signer: sess.Signer(), Message: &rules.Message{Personal: []byte(s)}, What: "a message",
			Method: "personal_sign"}
	}
	a.mustSign(t, text("login 1"))
	a.refused(t, text("transfer everything"), "no guard rule allows it")
	a.guard(t, append(list, rules.Rule{Name: "nobody", When: fmt.Sprintf("client.uid == %d", app.UID)})...)
	a.refused(t, text("login 1"), `guard rule "nobody"`)
	a.guard(t, append(list, rules.Rule{Name: "large", When: `tx.value > wei("1")`})...)
	a.mustSign(t, text("login 1")) // that rule is about transactions
	a.guard(t, append(list, rules.Rule{Name: "ask", When: "true", Then: rules.Approve})...)
	a.refused(t, text("login 1"), "it wants an approval, which is for transactions only")
	a.guard(t, append(list, rules.Rule{Name: "calm", Use: "rate", Per: "client", Limit: "2", Window: time.Hour})...)
	a.mustSign(t, text("login 2"))
	a.mustSign(t, text("login 3"))
	a.refused(t, text("login 4"), `guard rule "calm": 2 of 2 are used`)
	a.guard(t, list...)
	if _, err := a.Sign(t.Context(), stranger, text("login 1")); !errors.Is(err, ErrUnknownSigner) {
		t.Errorf("a stranger: %v", err)
	}
	account := a.active(t) // agw
	req := text("login 1")
	req.Signer = account.Signer()
	a.refused(t, req, "refuses messages (ERC-1271) of session keys on chain")
	if _, err := a.Revoke(t.Context(), operator, sess.ID); err != nil {
		t.Fatal(err)
	}
	a.refused(t, text("login 1"), "Session is not active")
}

// TestSpecsLimitsForbidMessages has a spec that limits transfers of the token: messages would pass by it.
func TestSpecsLimitsForbidMessages(t *testing.T) {
	a := newAgent(t)
	req := a.createRequest()
	req.Kind, req.Account, req.Validator, req.ChainID = EOA, policy.Address{}, policy.Address{}, 8453
	limited := policy.CallSpec{Selector: policy.SelectorOf("transfer(address,uint256)"), Constraints: []policy.Constraint{{
		Index: 1, Limit: policy.UsageLimit{LimitType: policy.Lifetime, Limit: *uint256.NewInt(50)},
	}}}
	if err := limited.Target.UnmarshalText([]byte(tokenContract)); err != nil {
		t.Fatal(err)
	}
	req.Spec.CallPolicies = []policy.CallSpec{limited}
	sess, err := a.Create(t.Context(), operator, req)
	if err != nil {
		t.Fatal(err)
	}
	a.guard(t, x402Rule("100"))
	a.refused(t, payment(t, sess, shop, 5, 1), "its limits count transactions only")
}
