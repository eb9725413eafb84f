package openpgp

import (
	"context"
	"crypto/ecdsa"
	"fmt"

	"github.com/ethereum/go-ethereum/crypto"
	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/internal/pcsc"
)

// key is a key of ours on the card.
type key struct {
	b   *Backend
	uri uri
	pub *ecdsa.PublicKey
}

var _ backends.Key = (*key)(nil)

func (k *key) URI() string                     { return k.uri.String() }
func (k *key) Public() *ecdsa.PublicKey        { return k.pub }
func (k *key) Protection() backends.Protection { return backends.Resident }

// keyIn makes a key of what was found in a slot.
func (b *Backend) keyIn(sl *slot, st *slotState) *key {
	return &key{b: b, uri: uri{serial: b.cfg.Serial, slot: sl, signer: st.signer}, pub: st.pub}
}

// Key finds a key by its URI, and reads its public key from the card.
func (b *Backend) Key(ctx context.Context, uri string) (backends.Key, error) {
	u, err := b.parse(uri)
	if err != nil {
		return nil, err
	}
	k, err := do(ctx, b, "finding a key", func(s *session) (*key, error) {
		st, err := s.find(u)
		if err != nil {
			return nil, err
		}
		return b.keyIn(u.slot, st), nil
	})
	if err != nil {
		return nil, err
	}
	return k, nil
}

// parse reads a URI. A key of another card is not found here.
func (b *Backend) parse(s string) (uri, error) {
	u, err := parseURI(s)
	if err != nil {
		return uri{}, b.wrap("finding a key", err)
	}
	if u.serial != b.cfg.Serial {
		return uri{}, b.wrap("finding a key", fmt.Errorf("%w: %q is on another card, this is %s", backends.ErrKeyNotFound, s,
			b.cfg.Serial))
	}
	return u, nil
}

// find looks into the slot and takes nothing for the key but that key.
func (s *session) find(u uri) (*slotState, error) {
	st, err := s.inspect(u.slot)
	if err != nil {
		return nil, err
	}
	if st.usage != ours || st.signer != u.signer {
		return nil, fmt.Errorf("%w: %q: card %s has no such %s", backends.ErrKeyNotFound, u, s.data.serial, u.slot.what)
	}
	return st, nil
}

// SignDigest signs on the card, and verifies what came.
func (k *key) SignDigest(ctx context.Context, digest [32]byte) (backends.Signature, error) {
	var sending backends.Sending
	sig, err := do(ctx, k.b, "signing", func(s *session) (backends.Signature, error) {
		var none backends.Signature
		if _, err := s.find(k.uri); err != nil {
			return none, err
		}
		touch, err := k.b.wantsTouch(s, k.uri.slot)
		if err != nil {
			return none, err
		}
		// Also if a signature takes no PIN away (PW status, byte 0, is 1): it was reset with the card.
		if err := k.b.verify(s, k.uri.slot.password); err != nil {
			return none, err
		}
		raw, err := k.b.sign(s, k.uri.slot, digest, touch, &sending)
		if err != nil {
			return none, err
		}
		return check(k.pub, digest, raw)
	})
	if err != nil {
		return sig, sending.End(err)
	}
	return sig, nil
}

// check makes a Signature of what the card returned, r ‖ s, if it is one by pub.
func check(pub *ecdsa.PublicKey, digest [32]byte, raw []byte) (backends.Signature, error) {
	if len(raw) != 64 {
		return backends.Signature{}, fmt.Errorf("%w: it has %d bytes", backends.ErrBadSignature, len(raw))
	}
	sig, err := backends.Normalize(raw[:32], raw[32:])
	if err != nil {
		return backends.Signature{}, err
	}
	if _, err := backends.Recoverable(crypto.FromECDSAPub(pub), digest, sig); err != nil {
		return backends.Signature{}, err
	}
	return sig, nil
}

// wantsTouch reports whether a signature may take a touch. It is an error if there is no time for one, unless the
// operator leaves no operation that much.
func (b *Backend) wantsTouch(s *session, sl *slot) (bool, error) {
	policy, _, err := s.touchPolicy(sl)
	if err != nil || policy == touchPolicies["off"] {
		return false, err
	}
	if b.cfg.Timeout < backends.TouchTime {
		return true, nil
	}
	return true, backends.TimeForTouch(s.ctx)
}

// sign asks the card for a signature, and tells who looks if that takes a touch.
func (b *Backend) sign(s *session, sl *slot, digest [32]byte, touch bool, sending *backends.Sending) ([]byte, error) {
	cmd := pcsc.Command{INS: insPSO, P1: 0x9E, P2: 0x9A, Data: digest[:]} // COMPUTE DIGITAL SIGNATURE, 7.2.10
	if sl.password == pwOther {
		cmd = pcsc.Command{INS: insAuthenticate, Data: digest[:]} // 7.2.13
	}
	if touch {
		what := fmt.Sprintf("waiting for a touch of %s, which blinks: touch its metal contact", s.name())
		for _, tell := range []func(string){b.setWaiting, s.held.Tell} { // this process, and others that want the card
			tell(what)
			defer tell("")
		}
	}
	if err := s.ctx.Err(); err != nil || !sending.Begin() {
		return nil, fmt.Errorf("%w: %w", backends.ErrUnavailable, context.Cause(s.ctx))
	}
	raw, first, sw, err := s.card.DoFirst(cmd)
	if err == nil && refusesToSign(first) {
		sending.Refused()
	}
	switch {
	case err != nil:
		return nil, err
	case sw == pcsc.OK:
		return raw, nil
	case touch && (sw == swNotSatisfied || sw == swConditions || sw == swSecurity):
		// The PIN was taken a moment ago: it is the touch that is missing.
		return nil, fmt.Errorf("%w (status %v); sign again, and touch %s when it blinks", backends.ErrNotTouched, sw,
			s.name())
	}
	return nil, &refusal{"signing", sw}
}

// refusesToSign reports whether a status word says that the card has signed nothing, as its first answer to the
// command. After 61xx the card has signed, and then it gives its answer in parts.
func refusesToSign(sw pcsc.Status) bool {
	switch sw {
	case 0x6600, 0x6700, 0x6982, 0x6983, 0x6985, 0x6A80, 0x6A88, 0x6B00, 0x6D00, 0x6E00:
		return true
	}
	return false
}

// touchPolicies are the values of a slot's user interaction flag, DO D6 and D8. The
// cached ones are YubiKey's.
var touchPolicies = map[string]byte{"off": 0, "on": 1, "fixed": 2, "cached": 3, "cached-fixed": 4}

// touchPolicy reads a slot's touch policy; known is false if the card has none.
func (s *session) touchPolicy(sl *slot) (policy byte, known bool, err error) {
	if policy, known = s.data.uif[sl.number]; known {
		return policy, true, nil
	}
	raw, sw, err := s.do(pcsc.Command{INS: insGetData, P2: byte(sl.uif)})
	if err != nil || sw != pcsc.OK || len(raw) == 0 {
		return touchPolicies["off"], false, err
	}
	return raw[0], true, nil
}

// fixed reports whether a touch policy can't be changed any more.
func fixed(policy byte) bool {
	return policy == touchPolicies["fixed"] || policy == touchPolicies["cached-fixed"]
}
