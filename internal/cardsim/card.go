package cardsim

import (
	"bytes"
	"context"
	"encoding/binary"
	"sync"
	"time"
)

// YubiKeyATR is the answer to reset of a YubiKey 5. It offers T=1.
var YubiKeyATR = []byte("\x3b\xfd\x13\x00\x00\x81\x31\xfe\x15\x80\x73\xc0\x21\xc0\x57\x59\x75\x62\x69\x4b\x65\x79\x40")

// Applet is an application on a card. The card calls it with one command at a time.
type Applet interface {
	// AID is the whole application identifier. A caller may select by a prefix of it.
	AID() []byte
	// Select is called on each SELECT, also if the applet is selected already.
	Select() (data []byte, sw uint16)
	// Process may wait only in [Command.WaitTouch].
	Process(cmd *Command) (data []byte, sw uint16)
	// Reset clears the security status: the card was powered off or reset, or another applet
	// is selected now.
	Reset()
}

// maxChained bounds the data of a chained command. The largest real one is an RSA-4096 key import.
const maxChained = 4096

// Card is a smart card with its applets. All methods may be called at any time, also while a
// command runs.
type Card struct {
	ATR []byte

	busy     sync.Mutex // held while a command runs: one at a time
	applets  []Applet
	selected Applet
	chain    *Command // the blocks that came so far of a chained command, or nil
	rest     []byte   // what GET RESPONSE returns next
	restSW   uint16   // the status word after it
	endless  bool     // GET RESPONSE never comes to an end

	mu      sync.Mutex // never held over a wait
	faults  []*Fault
	log     []Entry
	touch   touch
	release chan struct{} // closed by Release
}

// NewCard is a card with a YubiKey's ATR and these applets.
func NewCard(applets ...Applet) *Card {
	return &Card{
		ATR:     YubiKeyATR,
		applets: applets,
		release: make(chan struct{}),
		touch:   touch{timeout: defaultTouchTimeout},
	}
}

// FactoryReset makes the applications that are ones for keys as they were when the card was new, and empties the log.
func (c *Card) FactoryReset() {
	c.busy.Lock()
	defer c.busy.Unlock()
	for _, a := range c.applets {
		if keys, ok := a.(interface{ FactoryReset() }); ok {
			keys.FactoryReset()
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.log = nil
}

// Entry is one command in a card's log. It holds no data: a PIN can't get into it.
type Entry struct {
	Time             time.Time
	Applet           []byte // AID, nil if none is selected
	CLA, INS, P1, P2 byte
	Lc               int    // bytes of data
	SW               uint16 // 0 if no answer was given
}

// Log is what the card was asked since it was made, oldest first. GET RESPONSE and the
// blocks of a chained command before the last are left out.
func (c *Card) Log() []Entry {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]Entry(nil), c.log...)
}

// Count tells how often a command came.
func (c *Card) Count(ins byte) int {
	n := 0
	for _, e := range c.Log() {
		if e.INS == ins {
			n++
		}
	}
	return n
}

// PINTries are the commands that tried a PIN: a VERIFY with data. Whether one was right,
// or how many tries were left after it, is in SW.
func (c *Card) PINTries() []Entry {
	var tries []Entry
	for _, e := range c.Log() {
		if e.INS == insVerify && e.Lc > 0 {
			tries = append(tries, e)
		}
	}
	return tries
}

// power clears what a loss of power clears.
func (c *Card) power() {
	c.busy.Lock()
	defer c.busy.Unlock()
	for _, a := range c.applets {
		a.Reset()
	}
	c.selected, c.chain, c.rest, c.endless = nil, nil, nil, false
}

// Transmit runs one APDU and returns the answer: data, SW1, SW2. unplug tells that a fault
// takes the card out: after the answer, or without one if it is nil. If ctx ends while the card
// waits, there is no answer either.
func (c *Card) Transmit(ctx context.Context, apdu []byte) (answer []byte, unplug bool) {
	c.busy.Lock()
	defer c.busy.Unlock()
	cmd, err := parseCommand(apdu)
	if err != nil {
		return status(SWWrongLength), false
	}
	if cmd.INS == insGetResponse {
		return c.more(cmd), false
	}
	c.rest, c.endless = nil, false
	if cmd, answer = c.join(cmd); cmd == nil {
		return answer, false
	}
	cmd.ctx, cmd.card = ctx, c
	return c.run(cmd)
}

// join returns the whole command, or nil and the answer to a block that is not the last.
func (c *Card) join(cmd *Command) (*Command, []byte) {
	before := c.chain
	c.chain = nil
	chained := cmd.CLA&claChained != 0
	cmd.CLA &^= claChained
	if before != nil {
		if before.CLA != cmd.CLA || before.INS != cmd.INS || before.P1P2() != cmd.P1P2() {
			before = nil // another command: the chain is forgotten
		} else {
			cmd.Data = append(before.Data, cmd.Data...)
		}
	}
	if len(cmd.Data) > maxChained {
		return nil, status(SWWrongLength)
	}
	if !chained {
		return cmd, nil
	}
	c.chain = cmd
	return nil, status(SWOK)
}

// run executes a whole command, with the fault that is meant for it.
func (c *Card) run(cmd *Command) (answer []byte, unplug bool) {
	entry := Entry{Time: time.Now(), CLA: cmd.CLA, INS: cmd.INS, P1: cmd.P1, P2: cmd.P2, Lc: len(cmd.Data)}
	if c.selected != nil {
		entry.Applet = c.selected.AID()
	}
	index := c.append(entry)
	fault := c.takeFault(cmd.INS)
	if !fault.before(cmd) {
		return nil, fault.Do == UnplugBefore
	}
	var data []byte
	var sw uint16
	if fault != nil && fault.Do == Status {
		sw = fault.SW
	} else {
		data, sw = c.execute(cmd)
	}
	if cmd.ctx.Err() != nil {
		return nil, false // no power: nobody is there to answer
	}
	data, sw = fault.after(data, sw)
	c.setSW(index, sw)
	switch {
	case fault == nil:
	case fault.Do == Endless:
		c.endless = true
	case fault.Do == UnplugDuring:
		return nil, true
	case fault.Do == NoStatus:
		return []byte{0x90}, false // half a status word
	}
	return c.answer(data, sw, cmd.Le), fault != nil && fault.Do == UnplugAfter
}

func (c *Card) execute(cmd *Command) ([]byte, uint16) {
	if cmd.INS == insSelect && cmd.P1 == 0x04 {
		return c.selectAID(cmd.Data)
	}
	if c.selected == nil {
		return nil, SWUnknownINS
	}
	return c.selected.Process(cmd)
}

// selectAID selects by a whole AID or the start of one, as YubiKeys do. On a failure the applet
// before stays selected.
func (c *Card) selectAID(aid []byte) ([]byte, uint16) {
	const rid = 5 // the registered provider's part
	for _, a := range c.applets {
		if len(aid) < rid || !bytes.HasPrefix(a.AID(), aid) {
			continue
		}
		if c.selected != nil && c.selected != a {
			c.selected.Reset()
		}
		c.selected = a
		return a.Select()
	}
	return nil, SWFileNotFound
}

// answer sends what fits of data, and keeps the rest for GET RESPONSE.
func (c *Card) answer(data []byte, sw uint16, le int) []byte {
	if le == 0 {
		le = 256 // a caller that does not say takes a short answer
	}
	if sw != SWOK && sw != SWMore || len(data) <= le {
		return append(bytes.Clone(data), status(sw)...)
	}
	c.rest, c.restSW = data[le:], sw
	return append(bytes.Clone(data[:le]), status(SWMore|left(c.rest))...)
}

// more answers GET RESPONSE.
func (c *Card) more(cmd *Command) []byte {
	if c.endless {
		return append(make([]byte, 16), status(SWMore|16)...)
	}
	if c.rest == nil {
		return status(SWConditions)
	}
	data := c.rest
	c.rest = nil
	return c.answer(data, c.restSW, cmd.Le)
}

func left(rest []byte) uint16 {
	if len(rest) > 255 {
		return 0
	}
	return uint16(len(rest))
}

func status(sw uint16) []byte { return binary.BigEndian.AppendUint16(nil, sw) }

func (c *Card) append(e Entry) (index int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.log = append(c.log, e)
	return len(c.log) - 1
}

func (c *Card) setSW(index int, sw uint16) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.log[index].SW = sw
}
