package cardsim

import (
	"encoding/binary"
	"fmt"
	"sync"
	"time"
)

// OpenPGPConfig says what card the OpenPGP application is on. The zero value is a YubiKey 5.4.3
// with the serial number 0.
type OpenPGPConfig struct {
	Serial   uint32   // as printed: decimal digits, which the card keeps as BCD
	Firmware Firmware // zero: 5.4.3

	Generic bool // not a YubiKey: another manufacturer, wrong PINs answered by 63Cx, no key information
	Sticky  bool // a key stays when the algorithm attributes of its slot are changed

	NoPrivateUse bool // it has no data objects 0101 to 0104, as CanoKey and Gnuk
	NoK256       bool // it can't do secp256k1, and its list of algorithms says so, as a YubiKey FIPS and a Nitrokey 3
	Tries        int  // that the user PIN has in all; 0: 3
}

// OpenPGP is an OpenPGP application: Functional Specification of the OpenPGP application on ISO
// Smart Card Operating Systems, version 3.4, less PSO:DECIPHER and secure messaging. Methods other than
// an [Applet]'s are for tests, and may be called at any time.
type OpenPGP struct {
	cfg OpenPGPConfig

	mu         sync.Mutex // held while a command runs, except while it waits for a touch
	terminated bool
	do         map[uint16][]byte // the data objects that are just kept
	pins       map[byte]*pin     // by P2 of VERIFY, the resetting code by 0x82
	verified   map[byte]bool     // by P2 of VERIFY
	keys       map[byte]*openpgpKey
	signatures uint32
}

var _ Applet = (*OpenPGP)(nil)

// PINs that the card comes with.
const (
	OpenPGPUserPIN  = "123456"
	OpenPGPAdminPIN = "12345678"
)

const (
	pw1Sign  = 0x81
	pw1Other = 0x82
	pw3      = 0x83
	codeRC   = 0x82 // the resetting code, among pins

	openpgpTries  = 3
	openpgpMaxPIN = 127
	openpgpMaxDO  = 254 // of a data object for private use, login data or a URL
)

// NewOpenPGP is a card as it leaves the factory.
func NewOpenPGP(cfg OpenPGPConfig) *OpenPGP {
	if cfg.Firmware == (Firmware{}) {
		cfg.Firmware = Firmware{5, 4, 3}
	}
	o := &OpenPGP{cfg: cfg}
	o.factory()
	return o
}

// factory is the state that ACTIVATE FILE makes.
func (o *OpenPGP) factory() {
	o.terminated, o.signatures = false, 0
	o.do = map[uint16][]byte{0xC4: {0}, 0x5F35: {0x39}, 0xF9: {0x81, 1, 0}}
	o.pins = map[byte]*pin{
		pw1Sign: {value: []byte(OpenPGPUserPIN), tries: openpgpTries, full: openpgpTries},
		codeRC:  {full: openpgpTries},
		pw3:     {value: []byte(OpenPGPAdminPIN), tries: openpgpTries, full: openpgpTries},
	}
	if n := o.cfg.Tries; n != 0 {
		o.pins[pw1Sign].tries, o.pins[pw1Sign].full = n, n
	}
	o.verified = map[byte]bool{}
	o.keys = map[byte]*openpgpKey{}
	for _, k := range []*openpgpKey{
		{crt: 0xB6, number: 1, attributes: rsa2048},
		{crt: 0xB8, number: 2, attributes: rsa2048},
		{crt: 0xA4, number: 3, attributes: rsa2048},
	} {
		k.uif = []byte{0, 0x20}
		o.keys[k.crt] = k
	}
}

// AID is the application identifier: 4.2.1.
func (o *OpenPGP) AID() []byte {
	maker := uint16(6) // Yubico
	if o.cfg.Generic {
		maker = 5
	}
	aid := []byte{0xD2, 0x76, 0x00, 0x01, 0x24, 0x01, 0x03, 0x04}
	aid = binary.BigEndian.AppendUint16(aid, maker)
	var bcd uint32
	if _, err := fmt.Sscanf(fmt.Sprintf("%08d", o.cfg.Serial%100000000), "%x", &bcd); err != nil {
		panic(err) // eight decimal digits are hex digits
	}
	return append(binary.BigEndian.AppendUint32(aid, bcd), 0, 0)
}

// Select implements [Applet].
func (o *OpenPGP) Select() ([]byte, uint16) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.terminated {
		return nil, swTerminated
	}
	return nil, SWOK
}

// Reset implements [Applet].
func (o *OpenPGP) Reset() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.verified = map[byte]bool{}
	for _, k := range o.keys {
		k.touched = time.Time{}
	}
}

const (
	swTerminated uint16 = 0x6285
	swSecurity   uint16 = 0x6600
)

// Instructions: 7.1, and Yubico's own.
const (
	openpgpChange    = 0x24
	openpgpPSO       = 0x2A
	openpgpUnblock   = 0x2C
	openpgpActivate  = 0x44
	openpgpGenerate  = 0x47
	openpgpChallenge = 0x84
	openpgpAuth      = 0x88
	openpgpGet       = 0xCA
	openpgpPut       = 0xDA
	openpgpImport    = 0xDB
	openpgpTerminate = 0xE6
	yubicoVersion    = 0xF1
	yubicoSetTries   = 0xF2
)

// Process implements [Applet].
func (o *OpenPGP) Process(cmd *Command) ([]byte, uint16) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if cmd.CLA != 0 {
		return nil, SWUnknownCLA
	}
	switch {
	case cmd.INS == openpgpActivate:
		if o.terminated {
			o.factory()
		}
		return nil, SWOK
	case o.terminated:
		return nil, SWConditions
	}
	switch cmd.INS {
	case insVerify:
		return nil, o.verify(cmd)
	case openpgpChange:
		return nil, o.change(cmd)
	case openpgpUnblock:
		return nil, o.unblock(cmd)
	case openpgpGet:
		return o.get(cmd.P1P2())
	case openpgpPut:
		return nil, o.put(cmd.P1P2(), cmd.Data)
	case openpgpImport:
		return nil, o.importKey(cmd)
	case openpgpGenerate:
		return o.generate(cmd)
	case openpgpPSO:
		return o.computeSignature(cmd)
	case openpgpAuth:
		return o.authenticate(cmd)
	case openpgpChallenge:
		return challenge(cmd)
	case openpgpTerminate:
		return nil, o.terminate()
	}
	if o.cfg.Generic {
		return nil, SWUnknownINS
	}
	switch cmd.INS {
	case yubicoVersion:
		return o.cfg.Firmware[:], SWOK
	case yubicoSetTries:
		return nil, o.setTries(cmd.Data)
	}
	return nil, SWUnknownINS
}

// terminate wants the admin PIN, or that both PINs are blocked: 7.2.16.
func (o *OpenPGP) terminate() uint16 {
	if !o.verified[pw3] && (o.pins[pw1Sign].tries != 0 || o.pins[pw3].tries != 0) {
		return SWNotSatisfied
	}
	o.terminated = true
	o.verified = map[byte]bool{}
	return SWOK
}
