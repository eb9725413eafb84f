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
