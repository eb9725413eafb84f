package sealed

import (
	"time"

	"github.com/ethereum/go-ethereum/common"
	"github.com/keyward/keyward/internal/secret"
)

// maxOpened bounds the keys that are kept open, each of which locks a page of memory.
// With more in use, the rest are opened for each signature.
const maxOpened = 256

// opened is a key that is kept open.
type opened struct {
	scalar *secret.Buffer
	file   string // marshalled: another file in its place must be opened again
	timer  *time.Timer
}

// kept returns f's key if it is kept open, or nil. It may be wiped at any time.
func (b *Backend) kept(f *file) *secret.Buffer {
	if b.cfg.CacheFor == 0 {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	o := b.cache[f.signer()]
	if o == nil || o.file != string(f.marshal()) {
		return nil
	}
	return o.scalar
}

// keep takes scalar over, if it is to be kept open.
func (b *Backend) keep(f *file, scalar *secret.Buffer) bool {
	if b.cfg.CacheFor == 0 {
		return false
	}
	signer := f.signer()
	o := &opened{scalar: scalar, file: string(f.marshal())}
	b.mu.Lock()
	b.forgetLocked(signer)
	if len(b.cache) >= maxOpened {
		b.mu.Unlock()
		return false
	}
	b.cache[signer] = o
	o.timer = time.AfterFunc(b.cfg.CacheFor, func() { b.expire(signer, o) })
	b.mu.Unlock()
	// Destroy removes the file and then forgets the key. If it did so before the key was
	// kept, the file is gone now.
	if !b.dir.Has(signer) {
		b.forget(signer)
	}
	return true
}

// expire wipes o, when its time is up.
func (b *Backend) expire(signer common.Address, o *opened) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.cache[signer] == o {
		b.forgetLocked(signer)
	}
}

// forget wipes a key, if it is kept open.
func (b *Backend) forget(signer common.Address) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.forgetLocked(signer)
}

func (b *Backend) forgetLocked(signer common.Address) {
	o := b.cache[signer]
	if o == nil {
		return
	}
	delete(b.cache, signer)
	o.timer.Stop()
	if err := o.scalar.Close(); err != nil {
		b.log.Error("a key that was kept open could not be wiped", "backend", b.cfg.Name, "error", err)
	}
}
