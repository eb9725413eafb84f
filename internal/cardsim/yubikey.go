package cardsim

import (
	"encoding/binary"
	"fmt"
)

// NewYubiKey is a YubiKey as it leaves the factory: PIV, the applets that tell what it is, and
// more.
func NewYubiKey(firmware Firmware, serial uint32, more ...Applet) *Card {
	info := &deviceInfo{firmware: firmware, serial: serial}
	for _, a := range more {
		if a.AID()[0] == 0xd2 { // OpenPGP: D27600012401
			info.openPGP = true
		}
	}
	applets := []Applet{NewPIV(firmware, serial), (*managementApplet)(info), (*otpApplet)(info)}
	return NewCard(append(applets, more...)...)
}

// deviceInfo is what a YubiKey tells of itself.
type deviceInfo struct {
	firmware Firmware
	serial   uint32
	openPGP  bool
}

// managementApplet tells what a YubiKey is and has: `yubikit.management` is its other side. Nothing can be set.
type managementApplet deviceInfo

func (*managementApplet) AID() []byte { return []byte("\xa0\x00\x00\x05\x27\x47\x11\x17") }
func (*managementApplet) Reset()      {}

func (m *managementApplet) Select() ([]byte, uint16) {
	return fmt.Appendf(nil, "Virtual mgr - FW version %d.%d.%d", m.firmware[0], m.firmware[1], m.firmware[2]), SWOK
}

func (m *managementApplet) Process(cmd *Command) ([]byte, uint16) {
	const insReadConfig = 0x1d
	if cmd.INS != insReadConfig {
		return nil, SWUnknownINS
	}
	const capPIV, capOpenPGP = 0x10, 0x08
	capabilities := []byte{0, capPIV}
	if m.openPGP {
		capabilities[1] |= capOpenPGP
	}
	info := appendTLV(nil, 0x01, capabilities) // supported over USB
	info = appendTLV(info, 0x02, binary.BigEndian.AppendUint32(nil, m.serial))
	info = appendTLV(info, 0x03, capabilities) // enabled over USB
	info = appendTLV(info, 0x04, []byte{formFactor})
	info = appendTLV(info, 0x05, m.firmware[:])
	info = appendTLV(info, 0x0a, []byte{0}) // no lock code
	return append([]byte{byte(len(info))}, info...), SWOK
}

// otpApplet is asked for the serial number by older programs. It has no OTP slots.
type otpApplet deviceInfo

func (*otpApplet) AID() []byte { return []byte("\xa0\x00\x00\x05\x27\x20\x01\x01") }
func (*otpApplet) Reset()      {}

func (o *otpApplet) Select() ([]byte, uint16) {
	return append(o.firmware[:], 0, 0, 0), SWOK // no slot was programmed
}

func (o *otpApplet) Process(cmd *Command) ([]byte, uint16) {
	const insRequest, requestSerial = 0x01, 0x10
	if cmd.INS != insRequest || cmd.P1 != requestSerial {
		return nil, SWUnknownINS
	}
	return binary.BigEndian.AppendUint32(nil, o.serial), SWOK
}
