package pkcs11

import (
	"container/list"
	"sync"

	"github.com/ethereum/go-ethereum/common"
	p11 "github.com/miekg/pkcs11"
)

// held are the unwrapped keys of a connection, the least recently used last, and what else of it serves wrapped keys.
// A key is an object of the p11Session that unwrapped it, and ends with that, so those p11Sessions are not the
// lanes': a lane closes its own after an error.
type held struct {
	mu       sync.Mutex
	bySigner map[common.Address]*list.Element // of *heldKey
	order    list.List
	sessions []p11Session // that hold keys and that no call uses
	keks     map[string]*kek
	good     *wrappedFile // the last that was unwrapped; nil: none
}

// heldKey is an unwrapped key.
type heldKey struct {
	signer common.Address
	handle p11.ObjectHandle
	users  int  // calls that use it
	gone   bool // it is not among the held ones; its last user destroys it
}

// get returns a key for use, or nil.
func (h *held) get(signer common.Address) *heldKey {
	h.mu.Lock()
	defer h.mu.Unlock()
	e := h.bySigner[signer]
	if e == nil {
		return nil
	}
	h.order.MoveToFront(e)
	k := e.Value.(*heldKey)
	k.users++
	return k
}

// put takes in an unwrapped key for use, unless another call has done so meanwhile, whose key it then returns. What it
// returns beside is to be destroyed: keys beyond limit that nobody uses, or handle.
func (h *held) put(signer common.Address, handle p11.ObjectHandle, limit int) (k *heldKey, destroy []p11.ObjectHandle) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if e := h.bySigner[signer]; e != nil {
		k := e.Value.(*heldKey)
		k.users++
		return k, []p11.ObjectHandle{handle}
	}
	k = &heldKey{signer: signer, handle: handle, users: 1}
	if h.bySigner == nil {
		h.bySigner = map[common.Address]*list.Element{}
	}
	h.bySigner[signer] = h.order.PushFront(k)
	return k, h.shrinkLocked(limit)
}

// shrink makes room: it returns the handles of the least recently used keys, so that limit are left, or as many as
// are in use.
func (h *held) shrink(limit int) (destroy []p11.ObjectHandle) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.shrinkLocked(limit)
}

func (h *held) shrinkLocked(limit int) (destroy []p11.ObjectHandle) {
	for e := h.order.Back(); e != nil && h.order.Len() > limit; {
		k, before := e.Value.(*heldKey), e.Prev()
		if k.users == 0 {
			h.removeLocked(e)
			destroy = append(destroy, k.handle)
		}
		e = before
	}
	return destroy
}

func (h *held) removeLocked(e *list.Element) {
	k := h.order.Remove(e).(*heldKey)
	delete(h.bySigner, k.signer)
	k.gone = true
}

// done ends a use, and reports whether the caller has to destroy the key.
func (h *held) done(k *heldKey) (destroy bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	k.users--
	return k.gone && k.users == 0
}

// forget drops a signer's key, and returns the handle if it is to be destroyed now.
func (h *held) forget(signer common.Address) (destroy []p11.ObjectHandle) {
	h.mu.Lock()
	defer h.mu.Unlock()
	e := h.bySigner[signer]
	if e == nil {
		return nil
	}
	k := e.Value.(*heldKey)
	h.removeLocked(e)
	if k.users == 0 {
		destroy = append(destroy, k.handle)
	}
	return destroy
}

func (h *held) has(signer common.Address) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.bySigner[signer] != nil
}

func (h *held) len() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.order.Len()
}

// takeSession takes a p11Session that holds keys, or has open make one.
func (h *held) takeSession(open func() (p11Session, error)) (p11Session, error) {
	h.mu.Lock()
	if n := len(h.sessions); n > 0 {
		s := h.sessions[n-1]
		h.sessions = h.sessions[:n-1]
		h.mu.Unlock()
		return s, nil
	}
	h.mu.Unlock()
	return open()
}

func (h *held) setGood(f *wrappedFile) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.good = f
}

func (h *held) getGood() *wrappedFile {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.good
}

func (h *held) giveSession(s p11Session) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.sessions = append(h.sessions, s)
}

func (h *held) forgetKEKs() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.keks = nil
}

// kek returns a key-encryption key that was found before, or what find finds. name is its CKA_ID or label.
func (h *held) kek(name string, find func() (*kek, error)) (*kek, error) {
	h.mu.Lock()
	k := h.keks[name]
	h.mu.Unlock()
	if k != nil {
		return k, nil
	}
	k, err := find()
	if err != nil {
		return nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.keks == nil {
		h.keks = map[string]*kek{}
	}
	h.keks[name] = k
	return k, nil
}
