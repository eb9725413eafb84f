package socket

import (
	"context"
	"encoding/pem"
	"strings"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/session"
	"github.com/keyward/keyward/socket/api"
)

func adminAttest(s *Server, ctx context.Context, c *call) (any, error) {
	var params api.Attest
	if err := c.object(&params); err != nil {
		return nil, err
	}
	sess := s.sessionWithKey(params.Key)
	if sess == nil {
		return nil, badParam("key", "no session has the id, signer or key %q, or its key is destroyed", shorten(params.Key))
	}
	backend, ok := s.Backends[sess.Backend]
	if !ok {
		return nil, badParam("key", "backend %q of session %s is not in the configuration", sess.Backend, sess.ID)
	}
	attester, ok := backend.Backend.(backends.Attester)
	if !ok {
		return nil, badParam("key", "backend %q (%s) makes no statements on its keys", sess.Backend, backend.Type)
	}
	at, err := attester.Attest(ctx, sess.KeyURI)
	if err != nil {
		return nil, err
	}
	return &api.Attestation{
		Session: string(sess.ID), Backend: sess.Backend, KeyURI: sess.KeyURI, Protection: string(sess.Protection),
		Chain: certificates(at.Chain), Verified: at.Verified, Detail: at.Detail,
	}, nil
}

// adminRewrapKey is refused while the agent is locked: it would have the device open keys.
func adminRewrapKey(s *Server, ctx context.Context, c *call) (any, error) {
	var params api.RewrapKey
	if err := c.object(&params); err != nil {
		return nil, err
	}
	if s.Signer.Locked() {
		return nil, session.ErrLocked
	}
	sess := s.sessionWithKey(params.Key)
	if sess == nil {
		return nil, badParam("key", "no session has the id, signer or key %q, or its key is destroyed", shorten(params.Key))
	}
	done, err := s.Signer.Sessions.Rewrap(ctx, c.peer, sess.ID)
	if err != nil {
		return nil, err
	}
	return &api.RewrappedKey{Session: string(sess.ID), Backend: sess.Backend, KeyURI: sess.KeyURI, Rewrapped: done}, nil
}

// sessionWithKey is the session that name, its ID or signer or the URI of its key, stands for; nil if
// there is none with a key.
func (s *Server) sessionWithKey(name string) *session.Session {
	for _, sess := range s.Signer.Sessions.List() {
		is := name == string(sess.ID) || name == sess.KeyURI || strings.EqualFold(name, sess.Signer().String())
		if is && sess.KeyDestroyedAt.IsZero() {
			return sess
		}
	}
	return nil
}

// certificates encodes a chain in PEM.
func certificates(chain [][]byte) string {
	var out strings.Builder
	for _, der := range chain {
		out.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	}
	return out.String()
}
