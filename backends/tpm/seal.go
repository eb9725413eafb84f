package tpm

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/backends/sealed"
	"github.com/keyward/keyward/internal/secret"
)

// bound is the auth value of what is sealed for bind: the TPM opens it for nobody else.
func bound(bind sealed.Binding) []byte { return authValue("binding", bind.Bytes()) }

// Wrap implements [sealed.Wrapper].
func (d *device) Wrap(ctx context.Context, key *secret.Buffer, bind sealed.Binding) (w sealed.Wrapped, err error) {
	err = d.withTPM(ctx, func(ctx context.Context, c *conn, s *storage) error {
		b := &blob{pcrs: d.cfg.PCRs}
		if b.pcrDigest, err = b.pcrs.digestNow(c); err != nil {
			return err
		}
		template, err := b.template()
		if err != nil {
			return err
		}
		made, err := authorize(ctx, d, c, s, func(auth []byte) (*tpm2.CreateResponse, error) {
			var answer *tpm2.CreateResponse
			err := key.Use(func(plain []byte) (err error) {
				data := bytes.Clone(plain)
				defer clear(data)
				answer, err = tpm2.Create{
					ParentHandle: s.authorized(auth),
					InSensitive: tpm2.TPM2BSensitiveCreate{Sensitive: &tpm2.TPMSSensitiveCreate{
						UserAuth: tpm2.TPM2BAuth{Buffer: bound(bind)},
						Data:     tpm2.NewTPMUSensitiveCreate(&tpm2.TPM2BSensitiveData{Buffer: data}),
					}},
					InPublic: tpm2.New2B(template),
				}.Execute(c)
				return err
			})
			return answer, err
		})
		if err != nil {
			return explain("sealing", err)
		}
		b.public, b.private = made.OutPublic.Bytes(), made.OutPrivate.Buffer
		w = sealed.Wrapped{Key: d.keyName(), Blob: b.marshal()}
		return b.check()
	})
	return w, err
}

// digestNow is digest, or nil of no PCRs.
func (p PCRs) digestNow(c *conn) ([]byte, error) {
	if p == 0 {
		return nil, nil
	}
	return p.digest(c)
}

// Unwrap implements [sealed.Wrapper].
func (d *device) Unwrap(ctx context.Context, w sealed.Wrapped, bind sealed.Binding) (*secret.Buffer, error) {
	if w.Key != d.keyName() {
		return nil, fmt.Errorf("%w: the key is sealed to %s, and this backend has %s", backends.ErrUnavailable, w.Key,
			d.keyName())
	}
	b, err := parseBlob(w.Blob)
	if err != nil {
		return nil, err
	}
	if err := b.check(); err != nil {
		return nil, err
	}
	var plain []byte
	err = d.withTPM(ctx, func(ctx context.Context, c *conn, s *storage) error {
		plain, err = d.open(ctx, c, s, b, bind)
		return err
	})
	if err != nil {
		return nil, err
	}
	return secret.Take(plain)
}

// open loads what is sealed and has the TPM open it.
func (d *device) open(ctx context.Context, c *conn, s *storage, b *blob, bind sealed.Binding) (_ []byte, err error) {
	loaded, err := authorize(ctx, d, c, s, func(auth []byte) (*tpm2.LoadResponse, error) {
		return tpm2.Load{
			ParentHandle: s.authorized(auth),
			InPrivate:    tpm2.TPM2BPrivate{Buffer: b.private},
			InPublic:     tpm2.BytesAs2B[tpm2.TPMTPublic](b.public),
		}.Execute(c)
	})
	if isNotOurs(err) {
		return nil, fmt.Errorf("%w: the TPM does not load it: %w", sealed.ErrDamaged, err)
	}
	if err != nil {
		return nil, explain("loading what is sealed", err)
	}
	defer func() { err = errors.Join(err, flush(c, loaded.ObjectHandle)) }()
	session, end, err := tpm2.PolicySession(c, tpm2.TPMAlgSHA256, 16,
		s.salted(tpm2.Auth(bound(bind)), tpm2.AESEncryption(128, tpm2.EncryptOut))...)
	if err != nil {
		return nil, explain("starting a session", err)
	}
	defer func() { err = errors.Join(err, explain("ending a session", end())) }()
	if err := b.satisfy(c, session.Handle()); err != nil {
		return nil, err
	}
	opened, err := tpm2.Unseal{ItemHandle: tpm2.AuthHandle{Handle: loaded.ObjectHandle, Name: loaded.Name,
		Auth: session}}.Execute(c)
	switch {
	case errors.Is(err, tpm2.TPMRCBadAuth), errors.Is(err, tpm2.TPMRCAuthFail):
		return nil, fmt.Errorf("%w: the TPM does not open it for this session: %w", sealed.ErrDamaged, err)
	case err != nil:
		return nil, explain("opening what is sealed", err)
	}
	return opened.OutData.Buffer, nil
}

// isNotOurs reports whether err is TPM2_Load's answer to a blob that the storage key did not make, or that was altered:
// TPM 2.0 Library, part 3, 12.2.2.
func isNotOurs(err error) bool {
	for _, code := range []tpm2.TPMRC{
		tpm2.TPMRCIntegrity, tpm2.TPMRCSize, tpm2.TPMRCInsufficient, tpm2.TPMRCTag, tpm2.TPMRCType, tpm2.TPMRCBinding,
		tpm2.TPMRCSensitive, tpm2.TPMRCHash,
	} {
		if errors.Is(err, code) {
			return true
		}
	}
	return false
}

// satisfy makes a session fulfil the blob's policy.
func (b *blob) satisfy(c *conn, session tpm2.TPMHandle) error {
	for _, step := range b.policySteps(session) {
		var err error
		switch step := step.(type) {
		case tpm2.PolicyPCR:
			_, err = step.Execute(c)
			if errors.Is(err, tpm2.TPMRCValue) {
				return fmt.Errorf("%w: PCRs %v have other values than when the key was made: other firmware, settings or "+
					"software was started; "+
					"start what was started then, or end the session and make another", backends.ErrRefused, b.pcrs)
			}
		case tpm2.PolicyAuthValue:
			_, err = step.Execute(c)
		}
		if err != nil {
			return explain("fulfilling the policy", err)
		}
	}
	return nil
}
