package socket

import (
	"context"
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

// ownFields are the members of a transaction request that are ours and no transaction's.
var ownFields = []string{"session", "signer", "hooks"}

// parseTransaction reads a transaction request, finds the session that it means, which decides how the rest is to be
// read, and names that session in the request by its signer.
func (s *Server) parseTransaction(ctx context.Context, c *call) (*transactionRequest, error) {
	fields, err := zktx.OpenRequest(c.param(0), ownFields)
	if err != nil {
		return nil, err
	}
	req := &transactionRequest{sign: session.SignRequest{Method: c.method.Name}}
	ref, err := req.readOwn(fields)
	if err != nil {
		return nil, err
	}
	sess, err := s.Signer.Sessions.Find(c.peer, ref)
	if errors.Is(err, session.ErrAmbiguous) {
		return nil, err
	}
	if sess == nil {
		req.sign.Tx, err = parseUnknown(fields)
		return req, err
	}
	req.sign.ByAccount = ref.ID == "" && ref.Signer.IsZero()
	req.sign.Session, req.sign.Signer = "", sess.Signer()
	if err := req.checkHooks(sess); err != nil {
		return nil, err
	}
	req.sign.Tx, err = parseFor(sess, fields)
	if errors.Is(err, zktx.ErrRefusedType) {
		return nil, s.Signer.Refuse(ctx, c.peer, sess.Signer(), c.method.Name, session.ReasonType, err.Error())
	}
	return req, err
}

// readOwn reads the members that are ours, and what else says which session the request means. What is wrong with
// chainId the parser says, in its own words.
func (r *transactionRequest) readOwn(fields *zktx.Request) (ref session.Ref, err error) {
	name, signer := fields.Get("session"), fields.Get("signer")
	switch {
	case name != nil && signer != nil:
		return ref, badParam("session", "give a session or a signer, not both")
	case name != nil:
		ref, err = parseName("session", name)
	case signer != nil:
		ref.Signer, err = parseSigner("signer", signer)
	}
	if err != nil {
		return ref, err
	}
	if hooks := fields.Get("hooks"); hooks != nil {
		if r.hooks, err = readHooks(hooks); err != nil {
			return ref, err
		}
	}
	r.sign.Session, r.sign.Signer = ref.ID, ref.Signer
	if from := fields.Get("from"); from != nil {
		if ref.Account, err = parseAddress("from", from); err != nil {
			return ref, err
		}
	} else if name == nil && signer == nil {
		return ref, badParam("from", "missing: it is the account, and says which session is meant")
	}
	if chainID := fields.Get("chainId"); chainID != nil {
		ref.ChainID, _ = strconv.ParseUint(strings.Trim(string(chainID), `"`), 0, 64)
	}
	return ref, nil
}

// readHooks reads the account's list of validation hooks, in its order (listHooks(true)).
func readHooks(v policy.JSONValue) ([]policy.Address, error) {
	var hooks []policy.Address
	if v.Kind() == policy.KindArray {
		items := v.Inside()
		for item, ok := items.Next(); ok && len(hooks) <= maxHooks; item, ok = items.Next() {
			hook, err := parseAddress("hooks["+strconv.Itoa(len(hooks))+"]", item)
			if err != nil {
				return nil, err
			}
			if slices.Contains(hooks, hook) {
				return nil, badParam("hooks", "%s is there twice", hook)
			}
			hooks = append(hooks, hook)
		}
	}
	if len(hooks) == 0 || len(hooks) > maxHooks {
		return nil, badParam("hooks", "want an array of 1 to %d addresses", maxHooks)
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

// parseFor reads the transaction as sess's kind has it. Without chainId it is for the session's chain.
func parseFor(sess *session.Session, fields *zktx.Request) (*zktx.Transaction, error) {
	kind := uint8(zktx.TypeZKsync)
	if sess.Kind == session.EOA {
		kind = zktx.TypeDynamicFee
	}
	return fields.Transaction(kind, sess.ChainID)
}

// parseUnknown reads the transaction of a request that means no session. It only has to be a transaction of some
// kind, for the record of the refusal that follows.
func parseUnknown(fields *zktx.Request) (*zktx.Transaction, error) {
	for _, kind := range []uint8{zktx.TypeZKsync, zktx.TypeDynamicFee} {
		if tx, err := fields.Transaction(kind, 0); err == nil {
			return tx, nil
		}
	}
	return nil, fmt.Errorf("%w: and no complete transaction", session.ErrUnknownSigner)
}
