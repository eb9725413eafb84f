package socket

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"strings"

	"github.com/keyward/keyward/internal/zktx"
	"github.com/keyward/keyward/policy"
)

// clefVersion is the version of Clef's external API that clients of it look for.
const clefVersion = "6.1.0"

// mimeTypedData is the content type with which Clef's clients send typed data.
const mimeTypedData = "data/typed"

// clefMethods are those of Clef's external API, for go-ethereum's accounts/external.
func clefMethods() []Method {
	signature := Result{"signature", "Signature", "R, S and V; V is 27 or 28, S is low"}
	return []Method{{
		Name: "account_version", Summary: "Version of Clef's external API that this is",
		Result: Result{"version", "String", clefVersion}, do: accountVersion,
	}, {
		Name: "account_list", Summary: "The same as eth_accounts",
		Result: Result{"accounts", "Addresses", "signer addresses of the sessions that this client may use, oldest first"},
		do:     listSigners,
	}, {
		Name: "account_signTypedData", Summary: "The same as eth_signTypedData_v4",
		Params: typedDataParams(),
		Result: signature, Errors: signingErrors, signs: true, do: signTypedData,
	}, {
		Name: "account_signData", Summary: "Sign typed data; other content is refused",
		Params: []Param{
			{"contentType", true, "String", `"data/typed" is signed, as by eth_signTypedData_v4; everything else is refused`},
			{"address", true, "Address", "the signer"},
			{"data", true, "SignData", "of data/typed, its JSON text as hex or as eth_signTypedData_v4 takes it"},
		},
		Result: signature, Errors: signingErrors, signs: true, do: signData,
	}, {
		Name: "account_signTransaction", Summary: "Sign a transaction, in Clef's shape",
		Params: []Param{transactionParam, {"methodSelector", false, "String", "not looked at"}},
		Result: Result{"transaction", "ClefTransaction", "the raw transaction and its fields"},
		Errors: signingErrors, signs: true, do: accountSignTransaction,
	}}
}

func accountVersion(*Server, context.Context, *call) (any, error) { return clefVersion, nil }

func signData(s *Server, ctx context.Context, c *call) (any, error) {
	mime, err := parseString("params[0]", c.param(0))
	if err != nil {
		return nil, err
	}
	if mime != mimeTypedData {
		return s.refuseParam(ctx, c, 1, "data of type "+shorten(mime))
	}
	signer, err := signerParam(c, 1)
	if err != nil {
		return nil, err
	}
	data, err := typedDataOf(c.param(2))
	if err != nil {
		return nil, err
	}
	return s.signTypedData(ctx, c, signer, data)
}

// typedDataOf reads typed data whose text may also be written in hex.
func typedDataOf(param policy.JSONValue) (policy.JSONValue, error) {
	digits, found := "", false
	if param.Kind() == policy.KindString {
		text, err := param.Text()
		if err != nil {
			return nil, err
		}
		digits, found = strings.CutPrefix(string(text), "0x")
	}
	if !found {
		return zktx.UnwrapTypedData(param)
	}
	data, err := hex.DecodeString(digits)
	if err != nil {
		return nil, badParam("params[2]", "%v", err)
	}
	return policy.ParseJSON(data)
}

// clefTransaction is Clef's SignTransactionResult.
type clefTransaction struct {
	Raw hexBytes        `json:"raw"`
	Tx  json.RawMessage `json:"tx"`
}

func accountSignTransaction(s *Server, ctx context.Context, c *call) (any, error) {
	signed, err := s.signTransaction(ctx, c)
	if err != nil {
		return nil, err
	}
	tx, err := signed.tx.RPCJSON(signed.rawSignature)
	if err != nil {
		return nil, err
	}
	return clefTransaction{signed.reply.Raw, tx}, nil
}
