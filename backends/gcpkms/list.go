package gcpkms

import (
	"context"
	"errors"
	"strings"

	"cloud.google.com/go/kms/apiv1/kmspb"
	"golang.org/x/sync/errgroup"
	"google.golang.org/api/iterator"

	"github.com/keyward/keyward/backends"
)

// markGone remembers that a version is destroyed. The service lists destroyed keys for ever and does
// not say that they are, so without this memory each list would ask for each of them, at
// the cost of a quota of 300 a minute. One that is restored by hand is in no list
// until the agent is started again; Key finds it.
func (b *Backend) markGone(name string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.gone[name] = true
}

func (b *Backend) isGone(name string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.gone[name]
}

// pageSize is the most that the service gives in one page.
const pageSize = 1000

// Keys lists the keys of the key ring that this agent, or one like it, made. Versions
// that are destroyed, scheduled to be, or disabled are left out.
func (b *Backend) Keys(ctx context.Context, prefix string) ([]backends.ListedKey, error) {
	var found []backends.ListedKey
	for token := ""; ; {
		page, err := b.page(ctx, token)
		if err != nil {
			return nil, b.wrap(opList, b.cfg.KeyRing, err)
		}
		keys, err := b.usable(ctx, page.keys, prefix)
		if err != nil {
			return nil, err
		}
		found = append(found, keys...)
		if token = page.next; token == "" {
			return found, nil
		}
	}
}

// page is one of a list, and the token of the one that follows, "" if it is the last.
type page struct {
	keys []*kmspb.CryptoKey
	next string
}

func (b *Backend) page(ctx context.Context, token string) (page, error) {
	return do(ctx, b, opList, b.cfg.KeyRing, func(ctx context.Context) (p page, err error) {
		it := b.client.ListCryptoKeys(ctx, &kmspb.ListCryptoKeysRequest{Parent: b.cfg.KeyRing})
		p.next, err = iterator.NewPager(it, pageSize, token).NextPage(&p.keys)
		return p, err
	})
}

// usable returns those keys of a page that have the prefix and can be used.
func (b *Backend) usable(ctx context.Context, listed []*kmspb.CryptoKey, prefix string) ([]backends.ListedKey, error) {
	keys := make([]*backends.ListedKey, len(listed))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(8) // a list leaves room for signatures
	for i, ck := range listed {
		label, ours := sessionLabel(ck.Labels)
		if !ours || !strings.HasPrefix(label, prefix) {
			continue
		}
		group.Go(func() error {
			id := ck.Name[strings.LastIndex(ck.Name, "/")+1:]
			k, err := b.lookUp(ctx, b.version(id))
			if k != nil {
				keys[i] = &backends.ListedKey{Key: k, Label: label}
			}
			return err
		})
	}
	err := group.Wait()
	var found []backends.ListedKey
	for _, k := range keys {
		if k != nil {
			found = append(found, *k)
		}
	}
	return found, err
}

// lookUp returns a version's key, nil if it is destroyed. Of a disabled one the public key
// can't be read, so it is left out too.
func (b *Backend) lookUp(ctx context.Context, name string) (*key, error) {
	if b.isGone(name) {
		return nil, nil
	}
	k, err := b.find(ctx, name)
	switch err = b.explainState(ctx, name, err); {
	case errors.Is(err, backends.ErrKeyNotFound):
		b.markGone(name)
		return nil, nil
	case errors.Is(err, errState) && errors.Is(err, backends.ErrRefused):
		b.log.Warn("a key is left out of a list", "key", name, "error", err)
		return nil, nil
	case err != nil:
		return nil, b.wrap(opPublicKey, name, err)
	}
	return k, nil
}
