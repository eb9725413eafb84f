package session

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/keyward/keyward/audit"
	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/internal/zktx"
	"github.com/keyward/keyward/policy"
	"github.com/keyward/keyward/rules"
)

// SignRequest asks for a signature over a transaction. Session or Signer names the
// key; with neither, From and ChainID of Tx do. See [Sessions.Find].
type SignRequest struct {
	Session ID             // "": not given
	Signer  policy.Address // zero: not given
	Tx      *zktx.Transaction
	Message *rules.Message // instead of Tx; guard rules decide whether it is signed
	What    string         // Message in a few words, for its refusal
	Method  string         // as the client called it, for the audit trail
	// the client's connection, comparable: each gets its share of a device. nil: one for all without
	Conn any
	// ByAccount: the client named neither a session nor a signer, and the caller found Signer by the account.
	ByAccount bool
}

// Signed is a released signature. Its charge and audit record are on disk.
type Signed struct {
	Session   *Session
	Digest    policy.Hash
	Signature [65]byte // R ‖ S ‖ V, low S, V 27 or 28
	PeriodIDs []uint64 // at the time of signing
	Record    uint64   // the number of its audit record
	Pass      *Pass    // for [Signer.Release], before the signature is written to the client
}

// Verdict is what [Signer.Simulate] finds.
type Verdict struct {
	Session   *Session
	Digest    policy.Hash
	Denial    *policy.Denial  // nil: signing would be allowed now
	Charges   []policy.Charge // what signing would count now
	PeriodIDs []uint64
}

// Counts is what an agent did since it was started.
type Counts struct {
	Granted, Denied, Failed uint64
}

// Signer is the only way to a session's key. It judges by one configuration.
type Signer struct {
	Sessions *Sessions
	Watcher  *Watcher // nil: the agent is offline
	// Rules are what the nodes of each chain refuse, by chain id. A chain that is missing is an unknown one.
	Rules map[uint64]zktx.ChainRules
	// Guard is the operator's guard rules; nil: none. Stored anew while requests run, each of them is judged by one
	// version.
	Guard atomic.Pointer[rules.Set]
}

// counters are those of [Counts].
type counters struct{ granted, denied, failed atomic.Uint64 }

// Counts returns what was granted, denied and failed so far, with any configuration.
func (s *Signer) Counts() Counts {
	c := &s.Sessions.counts
	return Counts{Granted: c.granted.Load(), Denied: c.denied.Load(), Failed: c.failed.Load()}
}

// Sign judges, counts, records and signs: this function is the order of these steps.
//
// The digest that is signed is computed here from the very transaction that the policy
// judged. Sign returns the signature once the charge and the audit record are on disk and it
// recovers to the session's key; the device signs while they are being written. The caller hands
// it to the client by [Signer.Release].
//
// Before it counts anything, it waits for its turn at the device; see queue.
//
// Errors: [ErrLocked], [ErrUnknownSigner], [ErrAmbiguous], [ErrOverloaded], a *policy.Denial, a *zktx.NotIncludable,
// [ErrClock], [ErrRegistryStale], [ErrHalted], [ErrNotApproved], those of package backends, or the context's.
func (s *Signer) Sign(ctx context.Context, peer audit.Peer, req *SignRequest) (*Signed, error) {
	if s.Locked() {
		return nil, ErrLocked
	}
	sess, err := s.find(peer, req)
	if err != nil {
		return nil, s.refuseAccess(ctx, peer, req, err)
	}
	cfg := &s.Sessions.cfg
	begun := time.Now()
	j := s.judge(peer, sess, req)
	cfg.observe(StagePolicy, time.Since(begun))
	var key backends.Key
	leave := func() {}
	if j.unapproved {
		return nil, ErrNotApproved
	}
	if j.refused == nil && j.denied == nil { // what fails here fails before anything is counted
		if key, err = s.Sessions.key(ctx, sess); err != nil {
			return nil, err
		}
		var waited bool
		begun = time.Now()
		if leave, waited, err = s.Sessions.queue(sess.Backend).enter(ctx, peer.UID, req.Conn); err != nil {
			return nil, err
		}
		defer leave()
		cfg.observe(StageQueue, time.Since(begun))
		if waited {
			if j = s.judge(peer, sess, req); j.unapproved { // time has passed
				return nil, ErrNotApproved
			}
		}
	}
	rec := s.grantRecord(peer, req, j)
	counted := s.Sessions.asks(sess)
	defer counted.end()
	begun = time.Now()
	res, err := s.reserve(j, rec)
	if err != nil {
		leave()
		return nil, s.deny(ctx, rec, j, req.Tx, err)
	}
	defer res.abandon() // a panic must not leave it in the device
	s.Sessions.forecast.use(sess.ID)
	atDevice := time.Now()
	signature, signErr := counted.signDigest(ctx, key, sess, j.digest)
	cfg.observe(StageDevice, time.Since(atDevice))
	leave()
	if signErr != nil { // first: a request whose time is over has failed on its grant's record too
		return nil, s.fail(ctx, res, rec, signErr)
	}
	res.signed()
	if err := res.Durable(ctx); err != nil {
		return nil, s.late(rec, err)
	}
	cfg.observe(StageLedger, res.entry.at.Sub(begun))
	s.Sessions.counts.granted.Add(1)
	return &Signed{Session: sess, Digest: j.digest, Signature: signature, PeriodIDs: j.periodIDs, Record: res.Record(),
		Pass: res.pass}, nil
}

// Simulate gives the verdict that Sign would give now. Nothing is counted or recorded.
func (s *Signer) Simulate(_ context.Context, peer audit.Peer, req *SignRequest) (*Verdict, error) {
	sess, err := s.find(peer, req)
	if err != nil {
		return nil, err
	}
	j := s.judge(peer, sess, req)
	v := &Verdict{Session: sess, Digest: j.digest, PeriodIDs: j.periodIDs}
	if j.refused == nil {
		v.Charges, j.refused = s.Sessions.ledger.Preview(sess.ID, j.grant())
	}
	if j.refused != nil && !errors.As(j.refused, &v.Denial) {
		return nil, j.refused
	}
	if j.refused == nil && j.unapproved {
		v.Denial = &policy.Denial{Reason: ReasonGuardRule, Policy: -1, Constraint: -1,
			Detail: "guard rule " + strings.Join(needed(j.guard.Approvals), ", ") +
				": an operator has to approve it when it is to be signed"}
	}
	return v, nil
}

// reserve counts the charges, unless the transaction was refused before that.
func (s *Signer) reserve(j *judgement, rec *audit.Record) (*Reservation, error) {
	if j.refused != nil {
		return nil, j.refused
	}
	if j.message {
		return s.Sessions.ledger.grantMessage(j.sess.ID, j, rec)
	}
	return s.Sessions.ledger.Reserve(j.sess.ID, j.grant(), rec)
}

// signDigest asks the device and believes it only what recovers to the session's key.
func signDigest(ctx context.Context, key backends.Key, sess *Session, digest policy.Hash) ([65]byte, error) {
	sig, err := key.SignDigest(ctx, digest)
	if err != nil {
		return [65]byte{}, fmt.Errorf("signing with %s: %w", sess.KeyURI, err)
	}
	return backends.Recoverable(sess.PublicKey, digest, sig)
}

// grantRecord is the record of a granted signature; deny and fail make theirs from it.
func (s *Signer) grantRecord(peer audit.Peer, req *SignRequest, j *judgement) *audit.Record {
	rec := s.Sessions.record(audit.SignGranted, &peer, j.sess)
	rec.Method, rec.Digest, rec.Transaction = req.Method, j.digest.String(), req.Tx
	if j.message {
		rec.Transaction, rec.Detail = nil, recordMessage(req, j)
	}
	return rec
}

// deny records a denial and returns it.
func (s *Signer) deny(ctx context.Context, rec *audit.Record, j *judgement, tx *zktx.Transaction, err error) error {
	var d *policy.Denial
	if !errors.As(err, &d) {
		return err
	}
	s.Sessions.counts.denied.Add(1)
	denied := *rec
	denied.Event, denied.Transaction = audit.SignDenied, nil
	if tx != nil {
		denied.Transaction = brief(tx)
	} else {
		denied.Event, denied.Digest, denied.Detail = audit.MessageRefused, "", nil
	}
	denied.Verdict = &audit.Verdict{Reason: d.Reason, Message: d.Error(), Rules: j.rules}
	return s.Sessions.refused(ctx, denied, d.Reason, err)
}

// fail records that a granted signature was not released. Its charge is taken back if the device has certainly made
// none, in this call and in all others for the digest. Else it stays: somebody may have seen a signature.
func (s *Signer) fail(ctx context.Context, res *Reservation, granted *audit.Record, err error) error {
	s.Sessions.counts.failed.Add(1)
	rec := *granted // the committer may still read the granted one
	rec.Event, rec.Verdict, rec.Transaction, rec.Detail = audit.SignFailed, nil, nil, err.Error()
	rec.Time = s.Sessions.cfg.Now().UTC()
	ctx = context.WithoutCancel(ctx)
	var number uint64
	reverted, recErr := res.failed(errors.Is(err, backends.ErrNotSigned), rec)
	switch {
	case recErr != nil:
	case reverted != nil:
		if recErr = reverted.wait(ctx); recErr == nil {
			number = reverted.seq
		}
	default:
		number, recErr = s.Sessions.numbered(ctx, rec)
	}
	if recErr != nil {
		return recorded{error: errors.Join(err, recErr)}
	}
	return recorded{err, number}
}

// late records that a signature was made and not released, because the request's time was over before its charge and
// record were on disk. They may still get there: the charge stays. A disk that hangs holds it up for a second at most.
func (s *Signer) late(granted *audit.Record, err error) error {
	s.Sessions.counts.failed.Add(1)
	if errors.Is(err, ErrHalted) { // nothing can be recorded
		return recorded{error: err}
	}
	rec := *granted // the committer may still read the granted one
	rec.Event, rec.Verdict, rec.Transaction, rec.Detail = audit.SignFailed, nil, nil, err.Error()
	rec.Time = s.Sessions.cfg.Now().UTC()
	ctx, cancel := context.WithTimeout(context.Background(), writerPatience)
	defer cancel()
	number, recErr := s.Sessions.numbered(ctx, rec)
	if recErr != nil {
		return recorded{error: errors.Join(err, recErr)}
	}
	return recorded{err, number}
}

// refuseAccess records that peer named a signer that it may not use, or that there is none.
func (s *Signer) refuseAccess(ctx context.Context, peer audit.Peer, req *SignRequest, err error) error {
	if !errors.Is(err, ErrUnknownSigner) {
		return err
	}
	rec := audit.Record{Event: audit.AccessRefused, Peer: &peer, Method: req.Method, Session: string(req.Session)}
	if req.Signer != (policy.Address{}) {
		rec.Signer = req.Signer.String()
	}
	if req.Tx != nil {
		rec.Transaction, rec.Digest = brief(req.Tx), req.Tx.Digest().String()
	}
	return s.Sessions.refused(ctx, rec, reasonUnknownSigner, err)
}

// Reasons of the denials that [Signer.Refuse] makes; part of the protocol, like those of package policy.
const (
	ReasonMessage = "messageNotAllowed" // a message or foreign typed data
	ReasonType    = "refusedType"       // a contract creation, a blob or a set-code transaction

	reasonUnknownSigner = "unknownSigner" // of ErrUnknownSigner, as clients are told it
)

// Refuse records that peer asked for a signature over what no session signs, and returns the
// error to answer with: ErrUnknownSigner or a *policy.Denial.
func (s *Signer) Refuse(ctx context.Context, peer audit.Peer, signer policy.Address, method, reason,
	detail string) error {
	sess, err := s.Sessions.Find(peer, Ref{Signer: signer})
	if err != nil {
		return s.refuseAccess(ctx, peer, &SignRequest{Signer: signer, Method: method}, err)
	}
	s.Sessions.counts.denied.Add(1)
	d := &policy.Denial{Reason: reason, Policy: -1, Constraint: -1, Detail: detail}
	rec := s.Sessions.record(audit.MessageRefused, &peer, sess)
	rec.Method, rec.Verdict = method, &audit.Verdict{Reason: d.Reason, Message: d.Error()}
	return s.Sessions.refused(ctx, *rec, reason, d)
}
