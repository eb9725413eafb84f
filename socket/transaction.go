package socket

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/keyward/keyward/audit"
	"github.com/keyward/keyward/internal/zktx"
	"github.com/keyward/keyward/policy"
	"github.com/keyward/keyward/session"
)

// transactionRequest is the first parameter of the methods that sign a transaction.
type transactionRequest struct {
	sign  session.SignRequest
	hooks []policy.Address // nil: the validator alone
}

// clue is what says which session a transaction request means, read ahead of it: the kind of session
// decides how the rest is to be read. It decides nothing else: package session finds
// the session again from the transaction.
type clue struct {
	from    policy.Address
	chainID uint64 // 0: not given
	session string // "": not given
}

// parseTransaction reads a transaction request.
func (s *Server) parseTransaction(ctx context.Context, c *call) (*transactionRequest, error) {
	fields, err := members(c.param(0))
	if err != nil {
		return nil, badParam("params[0]", "a transaction is %v", err)
	}
	req := &transactionRequest{sign: session.SignRequest{Method: c.method.Name}}
	if strings.HasPrefix(c.method.Name, "session_") {
		if fields, err = req.takeOwn(fields); err != nil {
			return nil, err
		}
	}
	hint, err := readClue(fields, req.sign)
	if err != nil {
		return nil, err
	}
	sess, chainID := s.candidate(c.peer, hint, &req.sign)
	if err := req.checkHooks(sess); err != nil {
		return nil, err
	}
	req.sign.Tx, err = parseFor(sess, object(fields), chainID)
	if errors.Is(err, zktx.ErrRefusedType) && sess != nil {
		return nil, s.Signer.Refuse(ctx, c.peer, sess.Signer(), c.method.Name, session.ReasonType, err.Error())
	}
	if err != nil {
		return nil, err
	}
	return req, nil
}

// takeOwn takes the members that are ours and no transaction's.
func (r *transactionRequest) takeOwn(fields []member) (rest []member, err error) {
	for _, f := range fields {
		switch f.key {
		case "session":
			err = r.readSession(f.value)
		case "signer":
			r.sign.Signer, err = parseAddress("signer", f.value)
		case "hooks":
			r.hooks, err = readHooks(f.value)
		default:
			rest = append(rest, f)
		}
		if err != nil {
			return nil, err
		}
	}
	if r.sign.Session != "" && !r.sign.Signer.IsZero() {
		return nil, badParam("session", "give a session or a signer, not both")
	}
	return rest, nil
}

// readSession reads an id, or the address of a signer.
func (r *transactionRequest) readSession(value json.RawMessage) error {
	text, err := parseString("session", value)
	if err != nil {
		return err
	}
	if strings.HasPrefix(text, "0x") {
		r.sign.Signer, err = parseAddress("session", value)
		return err
	}
	if text == "" {
		return badParam("session", "want an id or a signer's address")
	}
	r.sign.Session = session.ID(text)
	return nil
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

// readClue reads ahead. What is wrong with from and chainId the parser says, in its own words.
func readClue(fields []member, named session.SignRequest) (clue, error) {
	var hint clue
	for _, f := range fields {
		switch f.key {
		case "from":
			from, err := parseAddress("from", f.value)
			if err != nil {
				return clue{}, err
			}
			hint.from = from
		case "chainId":
			text := strings.Trim(string(f.value), `"`)
			hint.chainID, _ = strconv.ParseUint(text, 0, 64)
		}
	}
	if named.Session != "" {
		hint.session = string(named.Session)
	} else if !named.Signer.IsZero() {
		hint.session = named.Signer.String()
	}
	return hint, nil
}

// candidate finds the session whose kind the request is read as, or nil, and the chain that a
// request without chainId means, 0 if that is not clear.
func (s *Server) candidate(peer audit.Peer, hint clue, req *session.SignRequest) (*session.Session, uint64) {
	if hint.session != "" {
		return withChain(s.named(peer, hint.session))
	}
	var found *session.Session
	for _, sess := range s.Signer.Sessions.VisibleTo(peer) {
		if sess.Account != hint.from || (hint.chainID != 0 && sess.ChainID != hint.chainID) {
			continue
		}
		if found != nil && found.ChainID != sess.ChainID {
			return found, 0
		}
		found = sess
	}
	if found != nil {
		return found, found.ChainID
	}
	// An ended session's account, or a signer in place of its account: named so, it is
	// refused with the reason, and recorded.
	if sess, err := s.Signer.FindAccount(peer, hint.from, hint.chainID); err == nil {
		return sess, sess.ChainID
	}
	req.Signer = hint.from
	return withChain(s.Signer.Lookup(peer, hint.from))
}

// withChain adds the session's chain to a lookup's result.
func withChain(sess *session.Session, err error) (*session.Session, uint64) {
	if err != nil {
		return nil, 0
	}
	return sess, sess.ChainID
}

// parseFor reads the transaction as sess's kind has it. Without a session it only
// has to be a transaction of some kind, for the record of the refusal that follows.
func parseFor(sess *session.Session, data []byte, chainID uint64) (*zktx.Transaction, error) {
	if sess != nil {
		kind := uint8(zktx.TypeZKsync)
		if sess.Kind == session.EOA {
			kind = zktx.TypeDynamicFee
		}
		return zktx.ParseTransaction(data, kind, chainID)
	}
	for _, kind := range []uint8{zktx.TypeZKsync, zktx.TypeDynamicFee} {
		if tx, err := zktx.ParseTransaction(data, kind, chainID); err == nil {
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
