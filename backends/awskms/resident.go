package awskms

import (
	"context"
	"crypto/ecdsa"
	"errors"
	"fmt"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/backends/internal/kmscall"
)

// Tags of a resident key. Policies can name them (aws:ResourceTag, aws:RequestTag).
const (
	tagSession = "keyward:session" // the label, escaped as in aliases
	tagAccount = "keyward:account"
	tagChain   = "keyward:chain"
	tagHost    = "keyward:host"
)

// Backend keeps each key in KMS.
type Backend struct {
	c *client
}

var (
	_ backends.Backend = (*Backend)(nil)
	_ backends.Lister  = (*Backend)(nil)
	_ backends.Prober  = (*Backend)(nil)
)

// Open makes a Backend whose keys are in KMS. AWS is not called: credentials and
// permissions show in Status and in errors.
func Open(ctx context.Context, cfg Config) (*Backend, error) {
	c, err := newClient(ctx, cfg)
	if err != nil {
		return nil, err
	}
	return &Backend{c}, nil
}

// key is a KMS key.
type key struct {
	c      *client
	arn    string
	public *ecdsa.PublicKey
}

var _ backends.Key = (*key)(nil)

func (k *key) URI() string                     { return scheme + k.arn }
func (k *key) Public() *ecdsa.PublicKey        { return k.public }
func (k *key) Protection() backends.Protection { return backends.Resident }

func (k *key) SignDigest(ctx context.Context, digest [32]byte) (backends.Signature, error) {
	ctx, end, err := k.c.begin(ctx)
	if err != nil {
		return backends.Signature{}, backends.NotSigned(k.c.wrap("signing", err))
	}
	defer end()
	var sending backends.Sending
	sig, err := k.c.sign(kmscall.WithSending(ctx, &sending), k.arn, digest)
	if err != nil {
		return backends.Signature{}, sending.End(k.c.wrap("signing", err))
	}
	return sig, nil
}

func (c *client) sign(ctx context.Context, arn string, digest [32]byte) (backends.Signature, error) {
	out, err := call(ctx, c, operation{name: "Sign", on: arn}, c.api.Sign, &kms.SignInput{
		KeyId: &arn, Message: digest[:], MessageType: types.MessageTypeDigest,
		SigningAlgorithm: types.SigningAlgorithmSpecEcdsaSha256,
	})
	if err != nil {
		return backends.Signature{}, err
	}
	if text(out.KeyId) != arn {
		return backends.Signature{}, fmt.Errorf("%w: KMS says it is of %q", backends.ErrBadSignature, text(out.KeyId))
	}
	r, s, err := backends.ParseDERSignature(out.Signature)
	if err != nil {
		return backends.Signature{}, err
	}
	return backends.Normalize(r, s)
}

// Generate makes a KMS key and gives it its alias. If that fails half way, the key is
// scheduled for deletion; the error says so if it could not be.
func (b *Backend) Generate(ctx context.Context, attrs backends.KeyAttributes) (backends.Key, error) {
	ctx, end, err := b.c.begin(ctx)
	if err != nil {
		return nil, backends.NotMade(b.c.wrap("generating a key", err))
	}
	defer end()
	k, err := b.c.generate(ctx, attrs)
	if err != nil {
		return nil, b.c.wrap("generating a key", err)
	}
	return k, nil
}

func (c *client) generate(ctx context.Context, attrs backends.KeyAttributes) (*key, error) {
	if len(c.aliasName(attrs.Label, "")) > maxAlias-len("00000000-0000-0000-0000-000000000000") {
		return nil, fmt.Errorf("label %q is too long for an alias", attrs.Label)
	}
	out, err := call(ctx, c, operation{name: "CreateKey", on: "*", once: true}, c.api.CreateKey, &kms.CreateKeyInput{
		KeySpec: types.KeySpecEccSecgP256k1, KeyUsage: types.KeyUsageTypeSignVerify,
		Description: aws.String("Keyward: signer of session " + escape(attrs.Label)),
		Tags:        c.tags(attrs),
	})
	if errors.Is(err, backends.ErrUnavailable) && !errors.Is(err, ErrThrottled) {
		return nil, fmt.Errorf("a key with the tag %s=%s may have been made all the same; listing keys finds it: %w",
			tagSession, escape(attrs.Label), err)
	}
	if err != nil && !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) {
		err = backends.NotMade(err) // KMS has answered
	}
	if err != nil {
		return nil, err
	}
	if out.KeyMetadata == nil || !keyARN.MatchString(text(out.KeyMetadata.Arn)) {
		return nil, errors.New("KMS made a key and did not say which; listing keys finds it")
	}
	arn := *out.KeyMetadata.Arn
	k, err := c.finish(ctx, arn, attrs.Label)
	if err == nil {
		return k, nil
	}
	// The caller may have given up, but somebody pays for the key.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.cfg.Timeout)
	defer cancel()
	if undo := c.scheduleDeletion(ctx, operation{on: arn, fresh: true}, 7); undo != nil {
		err = fmt.Errorf("%w; and the key %s is left behind, delete it with aws kms schedule-key-deletion: %w", err, arn,
			undo)
	}
	return nil, err
}

// tags are a new key's.
func (c *client) tags(attrs backends.KeyAttributes) []types.Tag {
	var tags []types.Tag
	for _, t := range [][2]string{
		{tagSession, escape(attrs.Label)}, {tagAccount, attrs.Account}, {tagChain, fmt.Sprint(attrs.ChainID)},
		{tagHost, c.cfg.Host},
	} {
		tags = append(tags, types.Tag{TagKey: &t[0], TagValue: &t[1]})
	}
	return tags
}

// finish makes a new KMS key one of ours.
func (c *client) finish(ctx context.Context, arn, label string) (*key, error) {
	k, err := c.get(ctx, operation{on: arn, fresh: true})
	if err != nil {
		return nil, err
	}
	alias := c.aliasName(label, keyARN.FindStringSubmatch(arn)[2])
	_, err = call(ctx, c, operation{name: "CreateAlias", on: alias + " and " + arn, once: true, fresh: true},
		c.api.CreateAlias,
		&kms.CreateAliasInput{AliasName: &alias, TargetKeyId: &arn})
	return k, err
}

// Key finds a key by its ARN.
func (b *Backend) Key(ctx context.Context, uri string) (backends.Key, error) {
	ctx, end, err := b.c.begin(ctx)
	if err != nil {
		return nil, b.c.wrap("finding a key", err)
	}
	defer end()
	arn, err := b.c.parseURI(uri)
	if err != nil {
		return nil, b.c.wrap("finding a key", err)
	}
	k, err := b.c.get(ctx, operation{on: arn})
	if err != nil {
		return nil, b.c.wrap("finding a key", err)
	}
	return k, nil
}

// get asks for the public key of op.on, which says whether there is one that signs.
func (c *client) get(ctx context.Context, op operation) (*key, error) {
	op.name = "GetPublicKey"
	out, err := call(ctx, c, op, c.api.GetPublicKey, &kms.GetPublicKeyInput{KeyId: &op.on})
	if err != nil {
		return nil, err
	}
	if text(out.KeyId) != op.on || out.KeySpec != types.KeySpecEccSecgP256k1 ||
		out.KeyUsage != types.KeyUsageTypeSignVerify {
		return nil, fmt.Errorf("%s is no key that Keyward made: KMS says %s, %s, %s", op.on, text(out.KeyId), out.KeySpec,
			out.KeyUsage)
	}
	public, err := backends.ParseSPKI(out.PublicKey)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", op.on, err)
	}
	return &key{c: c, arn: op.on, public: public}, nil
}

// Destroy schedules the key's deletion. It can't be used from then on. AWS deletes it, its alias
// with it, when the waiting period ends, and charges nothing meanwhile.
func (b *Backend) Destroy(ctx context.Context, uri string) error {
	ctx, end, err := b.c.begin(ctx)
	if err != nil {
		return b.c.wrap("destroying a key", err)
	}
	defer end()
	arn, err := b.c.parseURI(uri)
	if err != nil {
		return b.c.wrap("destroying a key", err)
	}
	if err := b.c.scheduleDeletion(ctx, operation{on: arn}, b.c.cfg.DeletionDays); err != nil {
		return b.c.wrap("destroying a key", err)
	}
	return nil
}

func (c *client) scheduleDeletion(ctx context.Context, op operation, days int) error {
	op.name, op.once = "ScheduleKeyDeletion", true
	_, err := call(ctx, c, op, c.api.ScheduleKeyDeletion,
		&kms.ScheduleKeyDeletionInput{KeyId: &op.on, PendingWindowInDays: aws.Int32(int32(days))})
	return err
}

// Close waits for operations under way.
func (b *Backend) Close() error { return b.c.close() }

// Status costs no signing quota; see [client.status].
func (b *Backend) Status(ctx context.Context) backends.Status {
	return b.c.status(ctx, "a KMS key for each session, "+b.c.where(), func(ctx context.Context) error {
		_, err := call(ctx, b.c, operation{name: "ListAliases", on: "*"}, b.c.api.ListAliases,
			&kms.ListAliasesInput{Limit: aws.Int32(1)})
		return err
	})
}
