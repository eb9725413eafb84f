package cardsim

import (
	"bytes"
	"crypto/rand"
)

// FaultKind is what goes wrong with a command.
type FaultKind uint8

const (
	// Hang: the card never answers. It ends by [Card.Release], after which the command runs and is
	// answered, or when the card is taken out.
	Hang FaultKind = iota + 1
	// Status: the command does not run; the answer is Fault.SW.
	Status
	// Garbage: the command runs; each byte of its answer is replaced by a random one. 9000.
	Garbage
	// Short: the command runs; the second half of its answer is missing. 9000.
	Short
	// NoStatus: the command runs; the answer is a single byte.
	NoStatus
	// Endless: the command runs; the answer is 61xx, and so is the answer to each GET RESPONSE.
	// Any other command ends it.
	Endless
	// UnplugBefore: the card is taken out before the command runs. With vpcd, libpcsclite then reports an
	// answer of no bytes, and an error for the command after it; a USB reader, an error at once.
	UnplugBefore
	// UnplugDuring: the command runs, and the card is taken out before it answers.
	UnplugDuring
	// UnplugAfter: the command runs and is answered; then the card is taken out.
	UnplugAfter
	// Lie: what runs is the command that Fault.Ask made of it; the answer is what Fault.Answer made of that
	// one's. The log has the command that came.
	Lie
)

// Fault makes a card misbehave. It is meant for the last block of a chained command.
type Fault struct {
	INS   byte // the command that it is meant for
	Skip  int  // how many of them pass first
	Times int  // how many of them it strikes: 0 for one, negative for all
	Do    FaultKind
	SW    uint16 // for Status

	// For Lie; nil: as it is. Both may change the data in place. Answer gets no refusal.
	Ask    func(*Command)
	Answer func(data []byte) []byte
}

// Fail adds a fault. Faults for one command strike in the order in which they were added.
func (c *Card) Fail(f Fault) {
	if f.Times == 0 {
		f.Times = 1
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.faults = append(c.faults, &f)
}

// Heal removes all faults, and releases a command that hangs.
func (c *Card) Heal() {
	c.mu.Lock()
	c.faults = nil
	c.mu.Unlock()
	c.Release()
}

// Release lets a command that hangs run on. One that comes later hangs again if a fault says so.
func (c *Card) Release() {
	c.mu.Lock()
	defer c.mu.Unlock()
	close(c.release)
	c.release = make(chan struct{})
}

// takeFault returns the fault that strikes this command, or nil.
func (c *Card) takeFault(ins byte) *Fault {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, f := range c.faults {
		if f.INS != ins {
			continue
		}
		if f.Skip > 0 {
			f.Skip--
			return nil
		}
		if f.Times--; f.Times == 0 {
			c.faults = append(c.faults[:i:i], c.faults[i+1:]...)
		}
		return f
	}
	return nil
}

// before does what happens before the command runs. False: it does not run, and there is no answer.
func (f *Fault) before(cmd *Command) bool {
	switch {
	case f == nil:
		return true
	case f.Do == UnplugBefore:
		return false
	case f.Do == Lie && f.Ask != nil:
		f.Ask(cmd)
		return true
	case f.Do != Hang:
		return true
	}
	cmd.card.mu.Lock()
	release := cmd.card.release
	cmd.card.mu.Unlock()
	select {
	case <-release:
		return true
	case <-cmd.ctx.Done():
		return false
	}
}

// after changes the answer.
func (f *Fault) after(data []byte, sw uint16) ([]byte, uint16) {
	if f == nil {
		return data, sw
	}
	switch f.Do {
	case Garbage:
		garbage := make([]byte, len(data))
		rand.Read(garbage) // never fails
		return garbage, SWOK
	case Short:
		return data[:len(data)/2], SWOK
	case Endless:
		return make([]byte, 16), SWMore | 16
	case Lie:
		if f.Answer != nil && sw == SWOK {
			return f.Answer(bytes.Clone(data)), SWOK // data may be what the applet keeps
		}
	}
	return data, sw
}
