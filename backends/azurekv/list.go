package azurekv

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azkeys"
	"golang.org/x/sync/errgroup"

	"github.com/keyward/keyward/backends"
)

// Keys lists the keys of the vault that this agent, or one like it, made, each in its latest
// version. Deleted and disabled ones are left out.
func (b *Backend) Keys(ctx context.Context, prefix string) ([]backends.ListedKey, error) {
	var found []backends.ListedKey
	var at position
	for more := true; more; more = at.pager.More() {
		var err error
		if at, err = b.nextPage(ctx, at); err != nil {
			return nil, b.wrap(opList, b.vault.url, err)
		}
		keys, err := b.usable(ctx, at.page.Value, prefix)
		if err != nil {
			return nil, err
		}
		found = append(found, keys...)
	}
	return found, nil
}

// position is where a list is: after so many pages, the last of which is page.
type position struct {
	pager *runtime.Pager[azkeys.ListKeyPropertiesResponse] // nil: before the first
	pages int
	page  azkeys.ListKeyPropertiesResponse
}

// nextPage reads the page after at. A pager can't be used again once it has failed, nor beside a try
// that was given up, and can't begin in the middle: each further try starts
// anew and skips what is known.
func (b *Backend) nextPage(ctx context.Context, at position) (position, error) {
	var unused atomic.Pointer[runtime.Pager[azkeys.ListKeyPropertiesResponse]]
	unused.Store(at.pager)
	return do(ctx, b, opList, func(ctx context.Context) (position, error) {
		next := position{pager: unused.Swap(nil), pages: at.pages}
		if next.pager == nil {
			next = position{pager: b.client.NewListKeyPropertiesPager(nil)}
		}
		for next.pages <= at.pages && next.pager.More() {
			page, err := next.pager.NextPage(ctx)
			if err != nil {
				return position{}, err
			}
			next.page, next.pages = page, next.pages+1
		}
		if next.pages <= at.pages { // keys were deleted meanwhile
			next.page = azkeys.ListKeyPropertiesResponse{}
		}
		return next, nil
	})
}

// usable returns those keys of a page that have the prefix and can be used. The page has neither
// versions nor public keys, so each is read.
func (b *Backend) usable(ctx context.Context, page []*azkeys.KeyProperties, prefix string) ([]backends.ListedKey,
	error) {
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
