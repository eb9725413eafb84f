package socket

import (
	"fmt"
	"strings"
	"testing"

	"github.com/ethereum/go-ethereum/accounts"
	"github.com/ethereum/go-ethereum/common/hexutil"
	"github.com/ethereum/go-ethereum/crypto"

	"github.com/keyward/keyward/policy"
	"github.com/keyward/keyward/rules"
)

// TestMessagesThatRulesAllow signs a text and typed data over the socket, and has everything else refused as before.
func TestMessagesThatRulesAllow(t *testing.T) {
	a := startAgent(t)
	sess := a.sessionOn("other", "eoa", testSpec)
	signer := sess.Signer.String()
	const contract = "0x7777777777777777777777777777777777777777"
	set, err := rules.Compile([]rules.Rule{
		{Name: "logins", Then: rules.Allow, Type: rules.PersonalType, When: `message.text.startsWith("login")`},
		{
			Name: "vouchers", Then: rules.Allow, Type: "Voucher(bytes32 channelId,uint96 cumulativeAmount)",
			Channel: "channelId",
			Domain:  map[string]string{"chainId": fmt.Sprint(ethereumChain), "verifyingContract": contract},
			Count:   "message.cumulativeAmount",
			Per:     "session", Limit: "100",
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	const text = "login at noon"
	voucher := func(amount int) map[string]any {
		return map[string]any{
			"types": map[string]any{"Voucher": []map[string]string{
				{"name": "channelId", "type": "bytes32"}, {"name": "cumulativeAmount", "type": "uint96"},
			}},
			"primaryType": "Voucher", "domain": map[string]any{"chainId": ethereumChain, "verifyingContract": contract},
			"message": map[string]any{"channelId": "0x" + strings.Repeat("01", 32), "cumulativeAmount": fmt.Sprint(amount)},
		}
	}
	if got := a.ask("personal_sign", text, signer); got != "4001 messageNotAllowed" {
		t.Errorf("without rules: %s", got)
	}
	a.Signer.Guard.Store(set)
	for _, got := range []string{
		a.ask("personal_sign", text, signer), a.ask("personal_sign", hexutil.Encode([]byte(text)), signer),
		a.ask("eth_sign", signer, text),
	} {
		sig, err := hexutil.Decode(strings.Trim(got, `"`))
		if err != nil {
			t.Fatalf("%s: %v", got, err)
		}
		sig[64] -= 27
		pub, err := crypto.SigToPub(accounts.TextHash([]byte(text)), sig)
		if err != nil || policy.Address(crypto.PubkeyToAddress(*pub)) != sess.Signer {
			t.Errorf("the text's signature recovers to %v, %v", pub, err)
		}
	}
	for _, tc := range []struct{ what, got, want string }{
		{"another text", a.ask("personal_sign", "pay", signer), "4001 messageNotAllowed"},
		{"a digest", a.ask("eth_sign", signer, "0x"+strings.Repeat("ab", 32)), "4001 messageNotAllowed"},
		{"no hex", a.ask("personal_sign", "0x0", signer), "-32602 invalidParams"},
		{"another mime type", a.ask("account_signData", "text/plain", signer, hexutil.Encode([]byte(text))),
			"4001 messageNotAllowed"},
		{"nobody's signer", a.ask("personal_sign", text, contract), "4100 unknownSigner"},
		{"over budget", a.ask("eth_signTypedData_v4", signer, voucher(101)), "4001 guardRule"},
		{"another type", a.ask("eth_signTypedData_v4", signer, typedDataOfAnother(voucher(1))), "4001 messageNotAllowed"},
	} {
		if tc.got != tc.want {
			t.Errorf("%s: %s, want %s", tc.what, tc.got, tc.want)
		}
	}
	if got := a.ask("eth_signTypedData_v4", signer, voucher(60)); len(got) != 134 {
		t.Errorf("a voucher: %s", got)
	}
	if got := a.ask("eth_signTypedData_v4", signer, voucher(59)); got != "4001 guardRule" {
		t.Errorf("a voucher below it: %s", got)
	}
}

func typedDataOfAnother(data map[string]any) map[string]any {
	data["primaryType"] = "Vouchers"
	return data
}
