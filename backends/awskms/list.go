package awskms

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"github.com/keyward/keyward/backends"
)

// Aliases are alias/keyward/HOST/LABEL/KEY-ID, host and label escaped. The host keeps agents that
// share an account apart, the key's ID makes the name unique.
const (
	aliasPrefix = "alias/keyward/"
	maxAlias    = 256
)

func (c *client) aliasName(label, keyID string) string {
	return c.aliases() + escape(label) + "/" + keyID
}

// aliases starts all aliases of this host.
func (c *client) aliases() string { return aliasPrefix + escape(c.cfg.Host) + "/" }

// escape writes s in the characters that an alias can have: letters, digits and dashes stand for
// themselves, every other byte for _XX. A prefix of s gives a prefix of the result.
func escape(s string) string {
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "_%02X", c)
		}
	}
	return b.String()
}

// unescape undoes escape; it accepts nothing else.
func unescape(s string) (string, bool) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '_' {
			b.WriteByte(s[i])
			continue
		}
		var c byte
		if n, err := fmt.Sscanf(s[i:min(i+3, len(s))], "_%02X", &c); n != 1 || err != nil {
			return "", false
		}
		b.WriteByte(c)
		i += 2
	}
	return b.String(), escape(b.String()) == s
}

// Keys lists this host's keys that are not destroyed. Those without an alias, which a crash
// can leave, are found by their tags; that takes a call for each key in the account and region
// that has no alias at all.
func (b *Backend) Keys(ctx context.Context, prefix string) ([]backends.ListedKey, error) {
	ctx, end, err := b.c.begin(ctx)
	if err != nil {
		return nil, b.c.wrap("listing keys", err)
	}
	defer end()
	list, err := b.c.list(ctx, prefix)
	if err != nil {
		return nil, b.c.wrap("listing keys", err)
	}
	return list, nil
}

func (c *client) list(ctx context.Context, prefix string) ([]backends.ListedKey, error) {
	found, aliased, err := c.withAlias(ctx, prefix)
	if err != nil {
		return nil, err
	}
	ids, err := c.keyARNs(ctx)
	if err != nil {
		return nil, err
	}
	var list []backends.ListedKey
	for _, id := range ids {
		label, ours := found[id.keyID]
		if !aliased[id.keyID] {
			if label, ours, err = c.tagged(ctx, id.arn, prefix); err != nil {
				return nil, err
			}
		}
		if !ours {
			continue
		}
		k, err := c.get(ctx, operation{on: id.arn})
		if errors.Is(err, backends.ErrKeyNotFound) {
			continue // destroyed
		}
		if errors.Is(err, ErrDisabled) {
			c.log.Warn("key is not usable", "label", label, "error", err)
			continue
		}
		if err != nil {
			return nil, err
		}
		list = append(list, backends.ListedKey{Key: k, Label: label})
	}
	return list, nil
}

// withAlias returns the labels of this host's keys by key ID, and which keys of the account
// have any alias.
func (c *client) withAlias(ctx context.Context, prefix string) (found map[string]string, aliased map[string]bool,
	err error) {
	found, aliased = map[string]string{}, map[string]bool{}
	var marker *string
	for {
		out, err := call(ctx, c, operation{name: "ListAliases", on: "*"}, c.api.ListAliases,
			&kms.ListAliasesInput{Marker: marker})
		if err != nil {
			return nil, nil, err
		}
		for _, a := range out.Aliases {
			id := text(a.TargetKeyId)
			aliased[id] = true
			rest, ours := strings.CutPrefix(text(a.AliasName), c.aliases())
			escaped, _, _ := strings.Cut(rest, "/")
			if label, ok := unescape(escaped); ours && ok && strings.HasPrefix(label, prefix) {
				found[id] = label
			}
		}
		if marker = out.NextMarker; !out.Truncated || marker == nil {
			return found, aliased, nil
		}
	}
}

// listedARN is a key as ListKeys has it.
type listedARN struct{ keyID, arn string }

// keyARNs are all keys of the account and region.
func (c *client) keyARNs(ctx context.Context) (all []listedARN, err error) {
	var marker *string
	for {
		out, err := call(ctx, c, operation{name: "ListKeys", on: "*"}, c.api.ListKeys, &kms.ListKeysInput{Marker: marker})
		if err != nil {
			return nil, err
		}
		for _, k := range out.Keys {
			all = append(all, listedARN{text(k.KeyId), text(k.KeyArn)})
		}
		if marker = out.NextMarker; !out.Truncated || marker == nil {
			return all, nil
		}
	}
}

// tagged returns a key's label if its tags say that it is this host's. A key whose tags
// may not be read is not.
func (c *client) tagged(ctx context.Context, arn, prefix string) (label string, ours bool, err error) {
	out, err := call(ctx, c, operation{name: "ListResourceTags", on: arn}, c.api.ListResourceTags,
		&kms.ListResourceTagsInput{KeyId: &arn})
	if errors.Is(err, ErrDenied) || errors.Is(err, backends.ErrKeyNotFound) {
		return "", false, nil
	}
	if err != nil {
		return "", false, err
	}
	label, ok := unescape(tagValue(out.Tags, tagSession))
	return label, ok && label != "" && tagValue(out.Tags, tagHost) == c.cfg.Host && strings.HasPrefix(label, prefix), nil
}

// tagValue is the value of a tag, or "".
func tagValue(tags []types.Tag, name string) string {
	for _, t := range tags {
		if text(t.TagKey) == name {
			return text(t.TagValue)
		}
	}
	return ""
}
