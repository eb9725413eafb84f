package tpm

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/internal/secret"
)

// Lockout is the TPM's count of wrong PINs and passwords, of all programs together: TPM 2.0 Library, part 1, 19.8.
type Lockout struct {
	// tries that failed lately, of any program; a crash of the machine may count as one
	Failed   int           `json:"failed"`
	Max      int           `json:"max"`      // with so many, the TPM tries none
	Interval time.Duration `json:"interval"` // after which one of Failed is forgotten; 0: never
}

// Left is how many tries there are.
func (l Lockout) Left() int { return max(l.Max-l.Failed, 0) }

func readLockout(t transport.TPM) (Lockout, error) {
	properties, err := readProperties(t, tpm2.TPMPTLockoutCounter, tpm2.TPMPTMaxAuthFail, tpm2.TPMPTLockoutInterval)
	if err != nil {
		return Lockout{}, explain("reading the count of wrong PINs", err)
	}
	return Lockout{
		Failed: int(properties[tpm2.TPMPTLockoutCounter]), Max: int(properties[tpm2.TPMPTMaxAuthFail]),
		Interval: time.Duration(properties[tpm2.TPMPTLockoutInterval]) * time.Second,
	}, nil
}

// readProperties reads those properties. One that the TPM does not have is an error.
func readProperties(t transport.TPM, wanted ...tpm2.TPMPT) (map[tpm2.TPMPT]uint32, error) {
	values := map[tpm2.TPMPT]uint32{}
	for _, property := range wanted {
		answer, err := tpm2.GetCapability{Capability: tpm2.TPMCapTPMProperties, Property: uint32(property),
			PropertyCount: 1}.Execute(t)
		if err != nil {
			return nil, err
		}
		list, err := answer.CapabilityData.Data.TPMProperties()
		if err != nil {
			return nil, err
		}
		if len(list.TPMProperty) != 1 || list.TPMProperty[0].Property != property {
			return nil, fmt.Errorf("the TPM does not tell property 0x%x", uint32(property))
		}
		values[property] = list.TPMProperty[0].Value
	}
	return values, nil
}

// tries returns how many tries of the PIN the TPM has left. A right PIN does not raise that number; only time does.
// Wrong PINs of other programs and crashes of the machine lower it. So the number does not show whether our own last
// try failed: a mark on disk does.
func (d *device) tries(l Lockout) secret.Tries {
	return secret.Tries{Left: l.Left(), Device: d.keyName(), Fixed: true}
}

// authorize calls f with the storage key's auth value, which it uses in one command: that is a try of the PIN, if the
// key has one.
func authorize[T any](ctx context.Context, d *device, c *conn, s *storage, f func(auth []byte) (T, error)) (result T,
	err error) {
	if !s.needsPIN() {
		return f(nil)
	}
	l, err := readLockout(c)
	if err != nil {
		return result, err
	}
	var outcome error // of f, whose class may be none of the PIN's
	err = d.cfg.PINs.Try(ctx, d.tries(l), func(pin []byte) error {
		auth := authValue("PIN", pin)
		defer clear(auth)
		result, outcome = f(auth)
		return verdict(outcome)
	})
	if err != nil && outcome != nil && !isClassified(verdict(outcome)) {
		return result, outcome
	}
	return result, err
}

// checkPIN has the TPM look at the PIN, and do nothing else.
func (d *device) checkPIN(ctx context.Context, c *conn, s *storage) error {
	session, end, err := tpm2.PolicySession(c, tpm2.TPMAlgSHA256, 16, tpm2.Trial())
	if err != nil {
		return explain("starting a session", err)
	}
	_, err = authorize(ctx, d, c, s, func(auth []byte) (*tpm2.PolicySecretResponse, error) {
		key := s.authorized(auth)
		key.Auth = tpm2.HMAC(tpm2.TPMAlgSHA256, 16, s.salted(tpm2.Auth(auth))...)
		return tpm2.PolicySecret{AuthHandle: key, PolicySession: session.Handle(), NonceTPM: session.NonceTPM()}.Execute(c)
	})
	return errors.Join(explain("trying the PIN", err), explain("ending a session", end()))
}

// needed refuses a PIN for a key without one, and a key with a PIN without a source of it.
func (d *device) needed(s *storage) error {
	switch {
	case s.needsPIN() && d.cfg.PINs == nil:
		return fmt.Errorf("%w: the storage key has a PIN, and the backend's section has no source of one: add pin_file, "+
			"pin_credential, pin_env or pin_prompt = true", backends.ErrRefused)
	case !s.needsPIN() && d.cfg.PINs != nil:
		return fmt.Errorf("%w: the storage key has no PIN: remove the source of one from the backend's section",
			backends.ErrRefused)
	}
	return nil
}
