package azurekv

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azkeys"
	"golang.org/x/sync/errgroup"

	"github.com/keyward/keyward/backends"
)

// Keys lists the keys of the vault that this agent, or one like it, made, each in its latest
// version. Deleted and disabled ones are left out.
func (b *Backend) Keys(ctx context.Context, prefix string) ([]backends.ListedKey, error) {
	pager := b.client.NewListKeyPropertiesPager(nil)
	var found []backends.ListedKey
	for {
		page, err := do(ctx, b, opList, pager.NextPage) // a page that fails can be asked for again
		if err != nil {
			return nil, b.wrap(opList, b.vault.url, err)
		}
		keys, err := b.usable(ctx, page.Value, prefix)
		if err != nil {
			return nil, err
		}
		found = append(found, keys...)
		if !pager.More() {
			return found, nil
		}
	}
}

// usable returns those keys of a page that have the prefix and can be used. The page has neither
// versions nor public keys, so each is read.
func (b *Backend) usable(ctx context.Context, page []*azkeys.KeyProperties, prefix string) ([]backends.ListedKey, error) {
	keys := make([]*backends.ListedKey, len(page))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(8) // a list leaves room for signatures
	for i, p := range page {
		if p == nil || p.KID == nil {
			return nil, b.wrap(opList, b.vault.url, fmt.Errorf("%w: it lists a key without a name", errGarbled))
		}
		label, ours := sessionLabel(p)
		if !ours || !strings.HasPrefix(label, prefix) {
			continue
		}
		name, ok := strings.CutPrefix(string(*p.KID), b.vault.url+"/keys/")
		if !ok || notInNameRE.MatchString(name) {
			return nil, b.wrap(opList, b.vault.url, fmt.Errorf("%w: it lists %q", errGarbled, *p.KID))
		}
		group.Go(func() error {
			k, err := b.lookUp(ctx, name)
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

// lookUp reads a key, nil if it has been deleted meanwhile or is none that can be used.
func (b *Backend) lookUp(ctx context.Context, name string) (*key, error) {
	k, err := b.find(ctx, keyID{name: name})
	switch {
	case errors.Is(err, backends.ErrKeyNotFound):
		return nil, nil
	case errors.Is(err, errKey), errors.Is(err, errDisabled):
		b.log.Warn("a key is left out of a list", "key", name, "error", err)
		return nil, nil
	case err != nil:
		return nil, b.wrap(opGet, name, err)
	}
	return k, nil
}
