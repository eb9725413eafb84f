package socket

import (
	"context"
	"encoding/hex"
	"errors"
	"strconv"
	"strings"

	"github.com/keyward/keyward/internal/zktx"
	"github.com/keyward/keyward/policy"
	"github.com/keyward/keyward/rules"
	"github.com/keyward/keyward/session"
	"github.com/keyward/keyward/socket/api"
)

// ethMethods are those of a wallet (EIP-1193, EIP-1474).
func ethMethods() []Method {
	accounts := Result{"accounts", "Addresses", "signer addresses of the sessions that this client may use, oldest first"}
	signature := Result{"signature", "Signature", "R, S and V; V is 27 or 28, S is low"}
	return []Method{{
		Name: "eth_accounts", Summary: "Signers that this client may use",
		Result: accounts, do: listSigners,
	}, {
		Name: "eth_requestAccounts", Summary: "The same as eth_accounts",
		Result: accounts, do: listSigners,
	}, {
		Name: "eth_chainId", Summary: "Chain of this client's sessions",
		Result: Result{"chainId", "Quantity", "of several chains, that of the oldest session; without a session, error 4100"},
		do:     chainID,
	}, {
		Name: "net_version", Summary: "Chain of this client's sessions, in decimal",
		Result: Result{"chainId", "String", "as eth_chainId has it"}, do: netVersion,
	}, {
		Name: "web3_clientVersion", Summary: "Name and version of the agent",
		Result: Result{"version", "String", `"Keyward/" and its version`}, do: clientVersion,
	}, {
		Name: "eth_signTypedData_v4", Summary: "Sign a ZKsync transaction given as EIP-712 typed data, or other typed " +
			"data that a guard rule allows",
		Params: typedDataParams(),
		Result: signature, Errors: signingErrors, signs: true, do: signTypedData,
	}, {
		Name: "eth_signTransaction", Summary: "Sign a transaction, and give it complete",
		Params: []Param{transactionParam},
		Result: Result{"raw", "Bytes", "the raw transaction: of an agw session type 0x71 with its customSignature, of an " +
			"eoa session type 0, 1 or 2"},
		Errors: signingErrors, signs: true, do: signRaw,
	}, {
		Name: "personal_sign", Summary: "Sign a text by EIP-191, if a guard rule allows it",
		Params: []Param{
			{"message", true, "String", "0x-hex, or the text itself"},
			{"address", true, "Address", "a signer"},
			{"password", false, "String", "not looked at"},
		},
		Result: signature, Errors: signingErrors, signs: true, do: personalSign,
	}, {
		Name: "eth_sign", Summary: "The same as personal_sign, never a bare digest",
		Params: []Param{{"address", true, "Address", "a signer"}, {"message", true, "String", "0x-hex, or the text itself"}},
		Result: signature, Errors: signingErrors, signs: true, do: ethSign,
	}}
}

// signingErrors are the codes of methods that ask for a signature.
var signingErrors = []int{api.CodeDenied, api.CodeUnauthorized, api.CodeUnavailable}

// typedDataParams are shared by eth_signTypedData_v4 and Clef's account_signTypedData.
func typedDataParams() []Param {
	return []Param{
		{"address", true, "Address", "the signer; message.from is the account"},
		{"typedData", true, "TypedData", "as a JSON object, or as a string that holds one"},
	}
}

// transactionParam is that of every method that signs or tries a transaction.
var transactionParam = Param{"transaction", true, "Transaction",
	"from is the account; chainId may be left out if the session is clear without it; session (an id or a signer; or " +
		"signer, an address) names the session, " +
		"and hooks the account's validation hooks (default: the session's validator alone)"}

func listSigners(s *Server, _ context.Context, c *call) (any, error) {
	signers := []policy.Address{}
	for _, sess := range s.Signer.Sessions.VisibleTo(c.peer) {
		signers = append(signers, sess.Signer())
	}
	return signers, nil
}

func chainID(s *Server, _ context.Context, c *call) (any, error) {
	id, err := s.chainOf(c)
	return "0x" + strconv.FormatUint(id, 16), err
}

func netVersion(s *Server, _ context.Context, c *call) (any, error) {
	id, err := s.chainOf(c)
	return strconv.FormatUint(id, 10), err
}

// chainOf is the chain of the client's oldest session: a younger one on another
// chain does not change what a client has been told.
func (s *Server) chainOf(c *call) (uint64, error) {
	sessions := s.Signer.Sessions.VisiblePage(c.peer, session.Page{Limit: 1})
	if len(sessions) == 0 {
		return 0, errNoSession
	}
	return sessions[0].ChainID, nil
}

func clientVersion(s *Server, _ context.Context, _ *call) (any, error) {
	return "Keyward/" + s.Version, nil
}

func signTypedData(s *Server, ctx context.Context, c *call) (any, error) {
	signer, err := signerParam(c, 0)
	if err != nil {
		return nil, err
	}
	data, err := zktx.UnwrapTypedData(c.param(1))
	if err != nil {
		return nil, err
	}
	return s.signTypedData(ctx, c, signer, data)
}

// signTypedData signs typed data that is a ZKsync transaction, and has anything else refused.
func (s *Server) signTypedData(ctx context.Context, c *call, signer policy.Address, data policy.JSONValue) (any,
	error) {
	tx, err := zktx.ParseTypedData(data)
	switch {
	case errors.Is(err, zktx.ErrForeign):
		return s.signMessage(ctx, c, signer, err.Error(), &rules.Message{Typed: data})
	case errors.Is(err, zktx.ErrRefusedType):
		return nil, s.Signer.Refuse(ctx, c.peer, signer, c.method.Name, session.ReasonType, err.Error())
	case err != nil:
		return nil, err
	}
	signed, err := s.sign(ctx, c, &session.SignRequest{Signer: signer, Tx: tx, Method: c.method.Name})
	if no := new(zktx.NotIncludable); errors.As(err, &no) {
		return nil, errors.Join(no.InTypedData(), err) // err says that it is recorded
	}
	if err != nil {
		return nil, err
	}
	return hexBytes(signed.Signature[:]), nil
}

func signRaw(s *Server, ctx context.Context, c *call) (any, error) {
	signed, err := s.signTransaction(ctx, c)
	if err != nil {
		return nil, err
	}
	return signed.reply.Raw, nil
}

func personalSign(s *Server, ctx context.Context, c *call) (any, error) {
	return s.signPersonal(ctx, c, 0, 1)
}

func ethSign(s *Server, ctx context.Context, c *call) (any, error) {
	return s.signPersonal(ctx, c, 1, 0)
}

// signPersonal has a text signed by EIP-191, which a guard rule has to allow. messageAt and signerAt are the positions
// of the parameters.
func (s *Server) signPersonal(ctx context.Context, c *call, messageAt, signerAt int) (any, error) {
	const what = "a message (EIP-191)"
	if !s.Signer.Guard.Load().AllowsMessages() { // the message is not looked at
		return s.refuseParam(ctx, c, signerAt, what)
	}
	signer, err := signerParam(c, signerAt)
	if err != nil {
		return nil, err
	}
	text, err := parseString("params["+strconv.Itoa(messageAt)+"]", c.param(messageAt))
	if err != nil {
		return nil, err
	}
	message := []byte(text)
	if digits, found := strings.CutPrefix(text, "0x"); found {
		if message, err = hex.DecodeString(digits); err != nil {
			return nil, badParam("params["+strconv.Itoa(messageAt)+"]", "%v", err)
		}
	}
	return s.signMessage(ctx, c, signer, what, &rules.Message{Personal: message})
}

// signMessage has a message signed, if a guard rule allows it.
func (s *Server) signMessage(ctx context.Context, c *call, signer policy.Address, what string, m *rules.Message) (any,
	error) {
	if !s.Signer.Guard.Load().AllowsMessages() {
		return nil, s.refuseMessage(ctx, c, signer, what)
	}
	signed, err := s.sign(ctx, c, &session.SignRequest{Signer: signer, Message: m, What: what, Method: c.method.Name})
	if err != nil {
		return nil, err
	}
	return hexBytes(signed.Signature[:]), nil
}

// refuseParam has the refusal of anything that is no transaction recorded. The signer is the
// parameter at that position.
func (s *Server) refuseParam(ctx context.Context, c *call, signerAt int, what string) (any, error) {
	signer, err := signerParam(c, signerAt)
	if err != nil {
		return nil, err
	}
	return nil, s.refuseMessage(ctx, c, signer, what)
}

func (s *Server) refuseMessage(ctx context.Context, c *call, signer policy.Address, what string) error {
	return s.Signer.Refuse(ctx, c.peer, signer, c.method.Name, session.ReasonMessage,
		what+" is not signed: a session key signs transactions only")
}

// signerParam reads the parameter at that position as a signer's address.
func signerParam(c *call, i int) (policy.Address, error) {
	return parseSigner("params["+strconv.Itoa(i)+"]", c.param(i))
}

// parseSigner reads the address of a signer. Zero, which package session takes for none, is no key's.
func parseSigner(path string, value policy.JSONValue) (policy.Address, error) {
	signer, err := parseAddress(path, value)
	if err == nil && signer.IsZero() {
		err = badParam(path, "the zero address is no signer's")
	}
	return signer, err
}

// parseAddress reads a JSON string that is an address.
func parseAddress(path string, value policy.JSONValue) (policy.Address, error) {
	var address policy.Address
	text, err := parseString(path, value)
	if err != nil {
		return address, err
	}
	if err := address.UnmarshalText([]byte(text)); err != nil {
		return address, badParam(path, "%v", err)
	}
	return address, nil
}

// parseString reads a JSON string.
func parseString(path string, value policy.JSONValue) (string, error) {
	if value == nil || value.Kind() != policy.KindString {
		return "", badParam(path, "want a string")
	}
	text, err := value.Text()
	return string(text), err
}

// hexBytes is bytes as 0x-hex in JSON.
type hexBytes = api.Bytes
