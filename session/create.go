package session

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/ethereum/go-ethereum/crypto"

	"github.com/keyward/keyward/audit"
	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/internal/suggest"
	"github.com/keyward/keyward/policy"
)

// KeyLabelPrefix starts the label, in its device, of every key that keyward makes; the
// session's ID follows.
const KeyLabelPrefix = "keyward-"

// CreateRequest is what the operator gives to make a session.
type CreateRequest struct {
	Kind      Kind
	Spec      *policy.Spec   // without a signer
	Account   policy.Address // AGW only; of an EOA session it is the new signer
	ChainID   uint64
	Validator policy.Address // AGW only
	Clients   []Client       // at least one
	Backend   string         // "" if there is only one
	Unchecked bool           // made although the policy registry could not be asked; see [Signer.CreateSession]

	Predecessor ID // the session that this one renews; "" if none
}

// Create makes a key and a pending session around it; an EOA session, which nobody
// else has to approve, is active at once. Errors wrap [ErrInvalid], [ErrLocked], a
// *policy.Denial, or one of package backends.
func (s *Sessions) Create(ctx context.Context, by audit.Peer, req *CreateRequest) (*Session, error) {
	if s.locked() {
		return nil, ErrLocked
	}
	backend, name, err := s.backend(req.Backend)
	if err != nil {
		return nil, err
	}
	if err := s.checkCreate(req); err != nil {
		return nil, err
	}
	id, end := s.claimNew()
	defer end()
	// A crash between making the key and storing its session must not leave a key
	// that nobody knows of: the intent is on disk first, and Run cleans up after it.
	if err := s.putIntent(ctx, id, intent{Backend: name}); err != nil {
		return nil, err
	}
	key, err := backend.Generate(ctx, backends.KeyAttributes{
		Label: KeyLabelPrefix + string(id), Account: req.Account.String(), ChainID: req.ChainID,
	})
	if err != nil {
		err = fmt.Errorf("making the session's key in backend %q: %w", name, err)
		if errors.Is(err, backends.ErrNotMade) {
			err = errors.Join(err, s.enqueue(ctx, s.ledger.dropIntent(id, nil)))
		}
		if errors.Is(err, backends.ErrFull) {
			err = fmt.Errorf("%w%s", err, s.leftIn(name))
		}
		return nil, err
	}
	sess := s.newSession(req, id, name, key)
	if err := s.store(ctx, by, sess, audit.SessionCreated, nil); err != nil {
		return nil, err
	}
	s.keepKey(id, heldKey{backend, key})
	return sess, nil
}

func newID() ID {
	var b [8]byte
	rand.Read(b[:]) // never fails (crypto/rand)
	return ID(hex.EncodeToString(b[:]))
}

// backend returns the backend of that name, or the only one.
func (s *Sessions) backend(name string) (backends.Backend, string, error) {
	if name != "" {
		if b := s.cfg.Backends[name]; b != nil {
			return b, name, nil
		}
		return nil, "", s.noBackend(name)
	}
	for only, b := range s.cfg.Backends {
		if len(s.cfg.Backends) == 1 {
			return b, only, nil
		}
	}
	return nil, "", fmt.Errorf("%w: %d backends are configured, %s: say which one is to hold the key (--backend NAME)",
		ErrInvalid, len(s.cfg.Backends), strings.Join(s.backendNames(), " and "))
}

func (s *Sessions) noBackend(name string) error {
	return fmt.Errorf("%w: there is no backend %q in the configuration%s", ErrInvalid, name,
		suggest.DidYouMean(name, s.backendNames()))
}

func (s *Sessions) backendNames() []string { return slices.Sorted(maps.Keys(s.cfg.Backends)) }

// leftIn tells of the keys of ended sessions that are still in the backend, which may be full of them: only the agent
// knows whose keys they are and when it destroys them.
func (s *Sessions) leftIn(backend string) string {
	var left []string
	for _, sess := range s.filter(func(sess *Session) bool {
		return sess.Backend == backend && sess.Status.Ended() && sess.KeyDestroyedAt.IsZero()
	}) {
		when := "is destroyed at " + s.dueAt(sess).Format(time.RFC3339)
		if !s.dueAt(sess).After(s.cfg.Now()) {
			when = "is to be destroyed; the log says what hinders it"
		}
		left = append(left, fmt.Sprintf("; the key of session %s, which has ended, is still there and %s", sess.ID, when))
	}
	return strings.Join(left, "")
}

// checkCreate refuses what could never be used.
func (s *Sessions) checkCreate(req *CreateRequest) error {
	var zero policy.Address
	switch {
	case req.Kind != AGW && req.Kind != EOA:
		return fmt.Errorf("%w: kind %q is neither agw nor eoa", ErrInvalid, req.Kind)
	case req.Spec.Signer != zero:
		return fmt.Errorf("%w: the spec names a signer: leave it out, every session gets a fresh key", ErrInvalid)
	case req.ChainID == 0:
		return fmt.Errorf("%w: chain id 0", ErrInvalid)
	case len(req.Clients) == 0:
		return fmt.Errorf("%w: no client: nobody could use the session", ErrInvalid)
	case req.Kind == AGW && req.Account == zero:
		return fmt.Errorf("%w: no account: an agw session needs the smart account's address", ErrInvalid)
	case req.Kind == AGW && req.Validator == zero:
		return fmt.Errorf("%w: chain %d has no validator in the configuration, so it can't have agw sessions", ErrInvalid,
			req.ChainID)
	case req.Kind == EOA && req.Account != zero:
		return fmt.Errorf("%w: an eoa session's account is its own fresh signer: leave the account out", ErrInvalid)
	}
	if probe := (&Session{Spec: req.Spec}); s.pastExpiry(probe, s.cfg.Now()) {
		return fmt.Errorf("%w: expiresAt %s is past, or nearer than the margin of %v", ErrInvalid, req.Spec.ExpiresAt.Dec(),
			s.cfg.ExpiryMargin)
	}
	if err := req.Spec.CheckExpiryUnit(); err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	spec := *req.Spec
	spec.Signer = policy.Address{19: 1} // any: what createSession checks must not wait for the key
	return spec.Validate()
}

func (s *Sessions) newSession(req *CreateRequest, id ID, backend string, key backends.Key) *Session {
	now := s.cfg.Now().UTC()
	spec := *req.Spec
	spec.Signer = policy.Address(crypto.PubkeyToAddress(*key.Public()))
	sess := &Session{
		ID: id, Kind: req.Kind, Account: req.Account, ChainID: req.ChainID, Validator: req.Validator,
		Spec: &spec, Hash: spec.Hash(), Clients: req.Clients, Unchecked: req.Unchecked,
		Backend: backend, KeyURI: key.URI(), PublicKey: crypto.FromECDSAPub(key.Public()), Protection: key.Protection(),
		Status: Pending, CreatedAt: now, Predecessor: req.Predecessor,
	}
	if req.Kind == EOA {
		sess.Account, sess.Validator = spec.Signer, policy.Address{}
		sess.Status, sess.ActivatedAt = Active, now
	}
	return sess
}

// store makes sess durable with its record and drops the intent. c, unless nil, is what the chain
// has counted of it already.
func (s *Sessions) store(ctx context.Context, by audit.Peer, sess *Session, event audit.Event, c *carrying) error {
	rec := s.record(event, &by, sess)
	rec.Detail = sess // the whole of it: the trail alone says what each session may do
	e := s.ledger.dropIntent(sess.ID, rec)
	e.change.session, e.change.spec = sess, sess.Spec
	if c != nil {
		e.change.used, e.change.costs, e.change.chain = c.used, c.raised, c.chain
	}
	over := e.after
	e.after = func() {
		over()
		b := s.ledger.books[sess.ID]
		s.ledger.index.details.keep(b.listed)
		if c != nil {
			b.carried(c)
		}
	}
	s.ledger.mu.Lock()
	// made while this one's key was
	if next := s.ledger.index.successor(sess.Predecessor); sess.Predecessor != "" && next != nil {
		s.ledger.mu.Unlock()
		return renewedAlready(next)
	}
	if other := s.ledger.index.signer(sess.Signer()); other != nil {
		s.ledger.mu.Unlock()
		return fmt.Errorf("backend %q gave the key of session %s again; it must make a fresh one each time", sess.Backend,
			other.ID)
	}
	err := s.ledger.enqueueLocked(e)
	if err == nil {
		s.ledger.addLocked(sess)
		if c != nil {
			s.ledger.books[sess.ID].carry(c)
		}
	}
	s.ledger.mu.Unlock()
	if err != nil {
		return err
	}
	return e.wait(ctx)
}
