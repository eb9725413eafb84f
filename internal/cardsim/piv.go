package cardsim

import (
	"bytes"
	"encoding/binary"
	"time"
)

// Firmware is the version of a YubiKey.
type Firmware [3]byte

// The firmware that is simulated: the most common one in the field, and one that has Ed25519,
// X25519, larger RSA keys, AES as the default for the management key, and move and delete.
var (
	Firmware543 = Firmware{5, 4, 3}
	Firmware571 = Firmware{5, 7, 1}
)

func (f Firmware) atLeast(major, minor byte) bool {
	return f[0] > major || f[0] == major && f[1] >= minor
}

// What a card has when it leaves the factory: SP 800-73-4 has no defaults, these are Yubico's.
const (
	DefaultPIN = "123456"
	DefaultPUK = "12345678"

	defaultTries = 3
)

var defaultManagementKey = bytes.Repeat([]byte{1, 2, 3, 4, 5, 6, 7, 8}, 3)

// Commands: SP 800-73-4, part 2, 3; and Yubico's extensions,
// https://developers.yubico.com/PIV/Introduction/Yubico_extensions.html
const (
	insChangeReference = 0x24
	insResetRetry      = 0x2c
	insGenerate        = 0x47
	insAuthenticate    = 0x87
	insGetData         = 0xcb
	insPutData         = 0xdb
	insMoveKey         = 0xf6
	insMetadata        = 0xf7
	insSerial          = 0xf8
	insAttest          = 0xf9
	insSetRetries      = 0xfa
	insReset           = 0xfb
	insVersion         = 0xfd
	insImport          = 0xfe
	insSetManagement   = 0xff
)

// PIV is the PIV application of a YubiKey.
type PIV struct {
	firmware Firmware
	serial   uint32

	pin, puk   pinState
	management managementKey
	keys       map[byte]*pivKey
	objects    map[int][]byte

	// The security status: cleared by Reset.
	pinVerified bool
	pinFresh    bool      // verified, and no key was used since
	admin       bool      // the management key was shown
	challenge   []byte    // what the next GENERAL AUTHENTICATE 9B has to answer
	touched     time.Time // for touch policy "cached"
}

var _ Applet = &PIV{}

// NewPIV is the application as it leaves the factory, with its attestation key in slot f9.
func NewPIV(firmware Firmware, serial uint32) *PIV {
	p := &PIV{firmware: firmware, serial: serial}
	p.factory()
	return p
}

// factory sets all but the attestation key, which a reset does not touch.
func (p *PIV) factory() {
	attestation := p.keys[slotAttestation]
	cert := p.objects[objectAttestation]
	if attestation == nil {
		attestation, cert = newAttestationKey(p.firmware, p.serial)
	}
	p.pin = newPINState(DefaultPIN)
	p.puk = newPINState(DefaultPUK)
	p.management = managementKey{algorithm: alg3DES, key: defaultManagementKey}
	if p.firmware.atLeast(5, 7) {
		p.management.algorithm = algAES192
	}
	p.keys = map[byte]*pivKey{slotAttestation: attestation}
	p.objects = map[int][]byte{objectAttestation: cert}
	p.Reset()
}

// FactoryReset makes it as it was when the card was new; see [Card.FactoryReset].
func (p *PIV) FactoryReset() { p.factory() }

// AID implements [Applet]: SP 800-73-4, part 1, 2.2.
func (p *PIV) AID() []byte { return []byte("\xa0\x00\x00\x03\x08\x00\x00\x10\x00\x01\x00") }

// Select implements [Applet]. It leaves the security status as it is: SP 800-73-4, part 2, 3.1.1.
func (p *PIV) Select() ([]byte, uint16) {
	authority := appendTLV(nil, 0x4f, p.AID()[:5])
	properties := appendTLV(nil, 0x4f, p.AID()[5:])
	properties = appendTLV(properties, 0x79, authority)
	return appendTLV(nil, 0x61, properties), SWOK
}

// Reset implements [Applet].
func (p *PIV) Reset() {
	p.pinVerified, p.pinFresh, p.admin = false, false, false
	p.challenge, p.touched = nil, time.Time{}
}

// Process implements [Applet].
func (p *PIV) Process(cmd *Command) ([]byte, uint16) {
	if cmd.CLA != 0 {
		return nil, SWUnknownCLA
	}
	switch cmd.INS {
	case insVerify:
		return nil, p.verify(cmd)
	case insChangeReference:
		return nil, p.changeReference(cmd)
	case insResetRetry:
		return nil, p.resetRetry(cmd)
	case insGenerate:
		return p.generate(cmd)
	case insAuthenticate:
		return p.authenticate(cmd)
	case insGetData:
		return p.getData(cmd)
	case insPutData:
		return nil, p.putData(cmd)
	case insMetadata:
		if p.firmware.atLeast(5, 3) {
			return p.metadata(cmd)
		}
	case insSerial:
		return binary.BigEndian.AppendUint32(nil, p.serial), SWOK
	case insAttest:
		return p.attest(cmd)
	case insSetRetries:
		return nil, p.setRetries(cmd)
	case insReset:
		return nil, p.reset()
	case insVersion:
		return p.firmware[:], SWOK
	case insImport:
		return nil, p.importKey(cmd)
	case insSetManagement:
		return nil, p.setManagementKey(cmd)
	case insMoveKey:
		if p.firmware.atLeast(5, 7) {
			return nil, p.moveKey(cmd)
		}
	}
	return nil, SWUnknownINS
}

// reset makes the card as new, if nobody can use it any more.
func (p *PIV) reset() uint16 {
	if p.pin.tries > 0 || p.puk.tries > 0 {
		return SWConditions
	}
	p.factory()
	return SWOK
}
