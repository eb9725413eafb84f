package socket

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/keyward/keyward/internal/zktx"
	"github.com/keyward/keyward/policy"
	"github.com/keyward/keyward/session"
)

// transactionRequest is the first parameter of the methods that sign a transaction.
type transactionRequest struct {
	sign  session.SignRequest
	hooks []policy.Address // nil: the validator alone
}

// parseTransaction reads a transaction request, finds the session that it means, which decides how the rest is to be
// read, and names that session in the request by its signer.
func (s *Server) parseTransaction(ctx context.Context, c *call) (*transactionRequest, error) {
	fields, err := members(c.param(0))
	if err != nil {
		return nil, badParam("params[0]", "a transaction is %v", err)
	}
	req := &transactionRequest{sign: session.SignRequest{Method: c.method.Name}}
	if fields, err = req.takeOwn(fields); err != nil {
		return nil, err
	}
	ref, err := req.ref(fields)
	if err != nil {
		return nil, err
	}
	sess, err := s.Signer.Sessions.Find(c.peer, ref)
	if errors.Is(err, session.ErrAmbiguous) {
		return nil, err
	}
	if sess == nil {
		req.sign.Tx, err = parseUnknown(object(fields))
		return req, err
	}
	req.sign.Session, req.sign.Signer = "", sess.Signer()
	if err := req.checkHooks(sess); err != nil {
		return nil, err
	}
	req.sign.Tx, err = parseFor(sess, object(fields))
	if errors.Is(err, zktx.ErrRefusedType) {
		return nil, s.Signer.Refuse(ctx, c.peer, sess.Signer(), c.method.Name, session.ReasonType, err.Error())
	}
	return req, err
}

// takeOwn takes the members that are ours and no transaction's; null is as if they were not there.
func (r *transactionRequest) takeOwn(fields []member) (rest []member, err error) {
	named := false
	for _, f := range fields {
		switch {
		case f.key != "session" && f.key != "signer" && f.key != "hooks":
			rest = append(rest, f)
			continue
		case string(f.value) == "null":
			continue
		case f.key == "hooks":
			r.hooks, err = readHooks(f.value)
		case named:
			err = badParam("session", "give a session or a signer, not both")
		default:
			named = true
			err = r.readName(f)
		}
		if err != nil {
			return nil, err
		}
	}
	return rest, nil
}

// readName reads the member that names the session.
func (r *transactionRequest) readName(f member) (err error) {
	var name session.Ref
	if f.key == "signer" {
		name.Signer, err = parseSigner(f.key, f.value)
	} else {
		name, err = parseName(f.key, f.value)
	}
	r.sign.Session, r.sign.Signer = name.ID, name.Signer
	return err
}

// readHooks reads the account's list of validation hooks, in its order (listHooks(true)).
func readHooks(value json.RawMessage) ([]policy.Address, error) {
	var items []json.RawMessage
	if value[0] != '[' || json.Unmarshal(value, &items) != nil || len(items) == 0 || len(items) > maxHooks {
		return nil, badParam("hooks", "want an array of 1 to %d addresses", maxHooks)
	}
	var hooks []policy.Address
	for i, item := range items {
		hook, err := parseAddress("hooks["+strconv.Itoa(i)+"]", item)
		if err != nil {
			return nil, err
		}
		if slices.Contains(hooks, hook) {
			return nil, badParam("hooks", "%s is there twice", hook)
		}
		hooks = append(hooks, hook)
	}
	return hooks, nil
}

// checkHooks refuses a list with which the account would not ask the session's validator.
func (r *transactionRequest) checkHooks(sess *session.Session) error {
	switch {
	case r.hooks == nil || sess == nil:
		return nil
	case sess.Kind != session.AGW:
		return badParam("hooks", "an %s session has no validation hooks", sess.Kind)
	case !slices.Contains(r.hooks, sess.Validator):
		return badParam("hooks", "the session's validator %s is not among them", sess.Validator)
	}
	return nil
}

// ref is what says which session the request means. What is wrong with chainId the parser says, in its own words.
func (r *transactionRequest) ref(fields []member) (session.Ref, error) {
	ref := session.Ref{ID: r.sign.Session, Signer: r.sign.Signer}
	named := ref != session.Ref{}
	for _, f := range fields {
		switch f.key {
		case "from":
			from, err := parseAddress("from", f.value)
			if err != nil {
				return ref, err
			}
			ref.Account, named = from, true
		case "chainId":
			text := strings.Trim(string(f.value), `"`)
			ref.ChainID, _ = strconv.ParseUint(text, 0, 64)
		}
	}
	if !named {
		return ref, badParam("from", "missing: it is the account, and says which session is meant")
	}
	return ref, nil
}

// parseFor reads the transaction as sess's kind has it. Without chainId it is for the session's chain.
func parseFor(sess *session.Session, data []byte) (*zktx.Transaction, error) {
	kind := uint8(zktx.TypeZKsync)
	if sess.Kind == session.EOA {
		kind = zktx.TypeDynamicFee
	}
	return zktx.ParseTransaction(data, kind, sess.ChainID)
}

// parseUnknown reads the transaction of a request that means no session. It only has to be a transaction of some
// kind, for the record of the refusal that follows.
func parseUnknown(data []byte) (*zktx.Transaction, error) {
	for _, kind := range []uint8{zktx.TypeZKsync, zktx.TypeDynamicFee} {
		if tx, err := zktx.ParseTransaction(data, kind, 0); err == nil {
			return tx, nil
		}
	}
	return nil, fmt.Errorf("%w: and no complete transaction", session.ErrUnknownSigner)
}

// object writes members as a JSON object.
func object(fields []member) []byte {
	var text strings.Builder
	text.WriteByte('{')
	for i, f := range fields {
		if i > 0 {
			text.WriteByte(',')
		}
		text.Write(quote(f.key))
		text.WriteByte(':')
		text.Write(f.value)
	}
	text.WriteByte('}')
	return []byte(text.String())
}
