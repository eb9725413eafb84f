package pkcs11

import "context"

// CloseAllSessions closes b's p11Sessions behind its back, as a device does that thinks
// they are idle. Nobody is in the module meanwhile: that would crash it.
func (b *Backend) CloseAllSessions(ctx context.Context) error {
	refill, err := b.drain(ctx)
	if err != nil {
		return err
	}
	defer refill()
	return b.mod.CloseAllSessions(b.current().slotID)
}

// SlotID is the slot of the token that is connected.
func (b *Backend) SlotID() uint { return b.current().slotID }

// FreeLanes is the number of lanes that no call holds.
func (b *Backend) FreeLanes() int { return len(b.lanes) }

// SlotDescription is that of the token that is connected.
func (b *Backend) SlotDescription() string { return b.current().slot }

// Unwrapped is the number of keys that are unwrapped.
func (w *Wrapped) Unwrapped() int { return w.current().held.len() }

// ForgetUnwrapped destroys the unwrapped keys that are not in use.
func (w *Wrapped) ForgetUnwrapped() {
	_, err := do(context.Background(), w.Backend, "forgetting keys", func(c *conn, s p11Session) (struct{}, error) {
		w.destroyObjects(c, s, c.held.shrink(0))
		return struct{}{}, nil
	}, nil)
	if err != nil {
		panic(err)
	}
}
