package session

import (
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/keyward/keyward/audit"
	"github.com/keyward/keyward/internal/zktx"
	"github.com/keyward/keyward/policy"
	"github.com/keyward/keyward/rules"
)

// judgement is what can be said of a transaction without the ledger.
type judgement struct {
	sess      *Session
	nonce     uint64
	digest    policy.Hash
	periodIDs []uint64
	charges   []policy.Charge
	denied    error          // by the policy; a limit among charges may deny before it
	guard     *rules.Verdict // nil: the rules were not asked
	rules     string         // the version of the rules that were asked
	// unapproved: rules want an approval, and nobody has decided. What is denied anyway never waits for one.
	unapproved bool
	message    bool // it is about a message, which has neither nonce nor charges
	at         time.Time
	refused    error // whatever the policy says: the state of the session, not its transaction, or no node's
}

func (j *judgement) grant() Grant {
	g := Grant{Nonce: j.nonce, Digest: j.digest, Charges: j.charges, Denied: j.denied, Rules: j.rules, At: j.at}
	if j.guard != nil {
		g.Counters = j.guard.Counters
	}
	return g
}

// judge computes the digest and asks the policy.
func (s *Signer) judge(peer audit.Peer, sess *Session, req *SignRequest) *judgement {
	if req.Message != nil {
		return s.judgeMessage(peer, sess, req)
	}
	now, tx := s.Sessions.cfg.Now(), req.Tx
	j := &judgement{sess: sess, nonce: tx.Nonce, digest: tx.Digest(), at: now}
	if tx.ChainID != sess.ChainID {
		j.refused = s.wrongChain(peer, sess, req)
		return j
	}
	if j.refused = s.checkFits(sess, tx, now); j.refused != nil {
		return j
	}
	call := tx.Call(sess.Validator)
	j.periodIDs = sess.Spec.PeriodIDs(call, uint64(now.Unix()))
	j.charges, j.denied = sess.Spec.Check(call, j.periodIDs, uint64(now.Unix()))
	if j.denied == nil {
		j.refused = s.checkIncludable(sess, tx, j.periodIDs)
	}
	if j.denied == nil && j.refused == nil {
		s.judgeByRules(peer, j, tx)
	}
	return j
}

// judgeByRules asks the operator's guard rules about what the spec allows.
func (s *Signer) judgeByRules(peer audit.Peer, j *judgement, tx *zktx.Transaction) {
	set := s.Guard.Load()
	if set.Hash() == "" {
		return
	}
	sess := j.sess
	j.rules = set.Hash()
	in := s.ruleInput(peer, sess, j.at)
	in.Tx = tx
	j.guard = set.Judge(in)
	if d := j.guard.Denied; d != nil {
		j.refused = guardDenial(d)
		return
	}
	if len(j.guard.Approvals) > 0 {
		known, denied := s.Sessions.approvals.decision(approvalKey{sess.ID, j.digest, j.rules})
		j.unapproved, j.refused = !known, denied
	}
}

// ruleInput is what the rules look at, without the transaction or message.
func (s *Signer) ruleInput(peer audit.Peer, sess *Session, now time.Time) *rules.Input {
	return &rules.Input{
		Now: now, Client: rules.Client{UID: peer.UID, GID: peer.GID},
		Session: rules.Session{
			ID: string(sess.ID), Kind: string(sess.Kind), Account: sess.Account, ChainID: sess.ChainID, Signer: sess.Signer(),
			Backend: sess.Backend, Protection: string(sess.Protection),
			ExpiresAt: time.Unix(int64(min(sess.expiresAt(), math.MaxInt64)), 0),
		},
	}
}

// checkIncludable refuses what the session allows and no node would include: it would be charged for nothing.
func (s *Signer) checkIncludable(sess *Session, tx *zktx.Transaction, periodIDs []uint64) error {
	rules := s.Rules[sess.ChainID]
	size := 65
	if rules.MaxTxSize != 0 && tx.Type == zktx.TypeZKsync {
		size = len(zktx.CustomSignature([65]byte{}, sess.Validator, [][]byte{sess.Spec.HookData(periodIDs)}))
	}
	return tx.Includable(&rules, size)
}

// wrongChain is the denial of a transaction for another chain than the session's. It names each chain that the account
// has sessions on which peer may use and which can sign, unless the request names its session.
func (s *Signer) wrongChain(peer audit.Peer, sess *Session, req *SignRequest) error {
	which := fmt.Sprintf("the session is for chain %d", sess.ChainID)
	if req.ByAccount || req.Session == "" && req.Signer.IsZero() {
		if chains := s.Sessions.chainsOf(peer, req.Tx.From); len(chains) > 1 {
			which = "the sessions are for the chains " + strings.Join(chains, ", ")
		}
	}
	return &policy.Denial{Reason: "wrongChain", Detail: fmt.Sprintf("%s, the transaction for chain %d", which,
		req.Tx.ChainID), Policy: -1, Constraint: -1}
}

// checkFits refuses a transaction that is not the session's, or comes too early or too late. The account comes first:
// what the request got wrong does not change with the session's state.
func (s *Signer) checkFits(sess *Session, tx *zktx.Transaction, now time.Time) error {
	refuse := func(reason, format string, args ...any) error {
		return &policy.Denial{Reason: reason, Detail: fmt.Sprintf(format, args...), Policy: -1, Constraint: -1}
	}
	zk := tx.Type == zktx.TypeZKsync
	switch {
	case tx.From == sess.Signer() && sess.Kind == AGW:
		return refuse("wrongAccount", "from is the address of the session's signer, %s: give the session's account there, %s",
			tx.From, sess.Account)
	case tx.From != sess.Account:
		return refuse("wrongAccount", "the session is for account %s, the transaction is from %s", sess.Account, tx.From)
	case !sess.signs():
		return notActive(sess)
	case now.Unix() < 0 || s.Sessions.pastExpiry(sess, now):
		return s.Sessions.expired(sess)
	case zk != (sess.Kind == AGW):
		return refuse("wrongType", "transaction type 0x%02x is not one that a session of kind %q signs", tx.Type, sess.Kind)
	}
	return s.Watcher.refuse(sess, now)
}
