package session

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"github.com/ethereum/go-ethereum/crypto"

	"github.com/keyward/keyward/audit"
	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/chain"
	"github.com/keyward/keyward/policy"
)

// ImportRequest says which session to recover.
type ImportRequest struct {
	ChainID uint64
	Account policy.Address
	Hash    policy.Hash
	Clients []Client // at least one
	Backend string   // that has the key; "": all of them are looked at
}

// Import recovers a session that this agent has lost and whose key a backend still has: the spec is
// that of its SessionCreated event, and what is used of its limits is what the chain has
// counted.
//
// What the lost ledger had signed and has not landed is not known. If it lands it looks like
// external usage; the chain's own limits hold in any case.
//
// Errors wrap [ErrInvalid], backends.ErrKeyNotFound, or are of package chain.
func (w *Watcher) Import(ctx context.Context, by audit.Peer, req *ImportRequest) (*Session, error) {
	if w == nil || w.chains[req.ChainID] == nil {
		return nil, fmt.Errorf("%w: chain %d has no rpc in the configuration, so nothing can be recovered from it",
			ErrInvalid, req.ChainID)
	}
	if len(req.Clients) == 0 {
		return nil, fmt.Errorf("%w: no client: nobody could use the session", ErrInvalid)
	}
	client := w.chains[req.ChainID].Client
	spec, err := client.FindSession(ctx, req.Account, req.Hash)
	if err != nil {
		return nil, err
	}
	snap, err := client.Snapshot(ctx, req.Account, spec)
	if err != nil {
		return nil, err
	}
	if snap.Status != chain.Active {
		return nil, fmt.Errorf("%w: the session is %v on chain", ErrInvalid, snap.Status)
	}
	v, err := viewOf(snap)
	if err != nil {
		return nil, err
	}
	return w.sessions.importSession(ctx, by, req, spec, v, w.chains[req.ChainID].Validator)
}

// importSession finds the key and stores the session, active.
func (s *Sessions) importSession(ctx context.Context, by audit.Peer, req *ImportRequest, spec *policy.Spec,
	v *ChainView, validator policy.Address) (*Session, error) {
	if err := spec.Validate(); err != nil {
		return nil, err
	}
	if s.pastExpiry(&Session{Spec: spec}, s.cfg.Now()) {
		return nil, fmt.Errorf("%w: the session has expired, or will within the margin of %v", ErrInvalid, s.cfg.ExpiryMargin)
	}
	if other := s.ledger.index.signer(spec.Signer); other != nil {
		return nil, fmt.Errorf("%w: session %s is the one with signer %s", ErrInvalid, other.ID, spec.Signer)
	}
	found, name, err := s.findKey(ctx, req.Backend, spec.Signer)
	if err != nil {
		return nil, err
	}
	id := s.idOf(found.Label)
	end, ok := s.claim(id)
	if !ok {
		return nil, backends.Busy(fmt.Errorf("the creation of session %s was cut short, and its key is being destroyed or "+
			"imported already: import it again in a minute", id))
	}
	defer end()
	// Again, since Run may have destroyed it before it was claimed.
	key, err := s.cfg.Backends[name].Key(ctx, found.Key.URI())
	if err != nil {
		return nil, fmt.Errorf("the key of signer %s: %w", spec.Signer, err)
	}
	now := s.cfg.Now().UTC()
	sess := &Session{
		ID: id, Kind: AGW, Account: req.Account, ChainID: req.ChainID, Validator: validator,
		Spec: spec, Hash: req.Hash, Clients: req.Clients,
		Backend: name, KeyURI: key.URI(), PublicKey: crypto.FromECDSAPub(key.Public()), Protection: key.Protection(),
		Status: Active, CreatedAt: now, ActivatedAt: now,
	}
	first, _ := (*settled)(nil).next(v, nil)
	counted := &carrying{chain: first}
	for t, used := range v.Used {
		counted.used = append(counted.used, cost{t, used})
	}
	if err := s.store(ctx, by, sess, audit.SessionImported, counted); err != nil {
		return nil, err
	}
	s.keepKey(id, heldKey{s.cfg.Backends[name], key})
	return sess, nil
}

// findKey finds the key of that address among those that keyward made. A backend that can't be
// asked may be the one, so its error is told if no other has the key.
func (s *Sessions) findKey(ctx context.Context, backend string, signer policy.Address) (found backends.ListedKey,
	name string, err error) {
	names := s.backendNames()
	if backend != "" {
		if _, name, err := s.backend(backend); err != nil {
			return found, name, err
		}
		names = []string{backend}
	}
	var errs []error
	for _, name := range names {
		lister, ok := s.cfg.Backends[name].(backends.Lister)
		if !ok {
			continue
		}
		keys, err := lister.Keys(ctx, KeyLabelPrefix)
		if err != nil {
			errs = append(errs, fmt.Errorf("backend %q: %w", name, err))
		}
		for _, k := range keys {
			if policy.Address(crypto.PubkeyToAddress(*k.Key.Public())) == signer {
				return k, name, nil
			}
		}
	}
	if len(errs) > 0 {
		return found, "", errors.Join(errs...)
	}
	return found, "", fmt.Errorf("%w: no backend has the key of signer %s", backends.ErrKeyNotFound, signer)
}

// idOf is the id in a key's label, or a new one if there is none or it is taken.
func (s *Sessions) idOf(label string) ID {
	text := strings.TrimPrefix(label, KeyLabelPrefix)
	if raw, err := hex.DecodeString(text); err == nil && len(raw) == 8 && text == strings.ToLower(text) {
		if _, err := s.Get(ID(text)); err != nil {
			return ID(text)
		}
	}
	return newID()
}
