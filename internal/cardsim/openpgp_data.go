package cardsim

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
)

// dataObject encodes a data object of these parts.
func dataObject(tag uint16, parts ...[]byte) []byte {
	return appendTLV(nil, int(tag), bytes.Join(parts, nil))
}

// get is GET DATA, 7.2.6: of constructed objects the content with tags, of primitive ones the value.
func (o *OpenPGP) get(tag uint16) ([]byte, uint16) {
	switch tag {
	case 0x4F:
		return o.AID(), SWOK
	case 0x5F52:
		return historical, SWOK
	case 0x65:
		return dataObject(tag, dataObject(0x5B, o.do[0x5B]), dataObject(0x5F2D, o.do[0x5F2D]),
			dataObject(0x5F35, o.do[0x5F35])), SWOK
	case 0x6E:
		return o.applicationData(), SWOK
	case 0x73:
		return dataObject(tag, o.discretionary()), SWOK
	case 0x7A:
		return dataObject(tag, dataObject(0x93, binary.BigEndian.AppendUint32(nil, o.signatures)[1:])), SWOK
	case 0x7F66:
		return dataObject(tag, extendedLength), SWOK
	case 0x7F74:
		return dataObject(tag, dataObject(0x81, []byte{0x20})), SWOK // has a button
	case 0xC4:
		return o.pwStatus(), SWOK
	case 0xD6, 0xD7, 0xD8:
		return o.keyWithUIF(tag).uif, SWOK
	case 0xD9: // touch policy of the attestation key, which YubiKeys have and which is not simulated
		if o.cfg.Generic {
			return nil, SWReferenceNotFound
		}
		return []byte{uifOff, 0x20}, SWOK
	case 0xDE:
		if o.cfg.Generic {
			return nil, SWReferenceNotFound
		}
		return o.keyInformation(), SWOK
	case 0xFA:
		return dataObject(tag, o.algorithms()), SWOK
	case 0x0101, 0x0102, 0x0103, 0x0104:
		if o.cfg.NoPrivateUse {
			return nil, SWWrongP1P2
		}
	}
	switch tag {
	case 0x5E, 0x5F50, 0x0101, 0x0102, 0x7F21, 0xF9:
		return o.do[tag], SWOK
	case 0x0103, 0x0104:
		if !o.verified[map[uint16]byte{0x0103: pw1Other, 0x0104: pw3}[tag]] {
			return nil, SWNotSatisfied
		}
		return o.do[tag], SWOK
	}
	for _, k := range o.keys {
		if tag == k.tag(0xC1) {
			return k.attributes, SWOK
		}
	}
	return nil, SWReferenceNotFound
}

// Historical bytes, 6: select by AID, extended length and chaining, operational.
var historical = []byte{0x00, 0x73, 0x00, 0x00, 0xE0, 0x05, 0x90, 0x00}

// extendedLength: up to 3071 bytes both ways, as YubiKeys say.
var extendedLength = []byte{0x02, 0x02, 0x0B, 0xFE, 0x02, 0x02, 0x0B, 0xFE}

// applicationData is DO 6E, 4.4.1.
func (o *OpenPGP) applicationData() []byte {
	return dataObject(0x6E, dataObject(0x4F, o.AID()), dataObject(0x5F52, historical), dataObject(0x7F66, extendedLength),
		dataObject(0x7F74, dataObject(0x81, []byte{0x20})), dataObject(0x73, o.discretionary()))
}

// discretionary is the content of DO 73.
func (o *OpenPGP) discretionary() []byte {
	// GET CHALLENGE, import, changeable PW status, private use, changeable algorithms, KDF: 4.4.3.7.
	capabilities := byte(0x7D)
	if o.cfg.NoPrivateUse {
		capabilities &^= 0x08
	}
	out := dataObject(0xC0, []byte{capabilities, 0, 0x0B, 0xFE, 0x08, 0, 0, openpgpMaxDO, 0, 0})
	var prints, ca, times, uifs []byte
	for _, k := range o.ordered() {
		out = append(out, dataObject(k.tag(0xC1), k.attributes)...)
		prints = append(prints, orZero(k.fingerprint, 20)...)
		ca = append(ca, orZero(o.do[0xCA+uint16(k.number)-1], 20)...)
		times = append(times, orZero(k.time, 4)...)
		uifs = append(uifs, dataObject(k.tag(0xD6), k.uif)...)
	}
	out = append(out, dataObject(0xC4, o.pwStatus())...)
	out = append(out, dataObject(0xC5, prints)...)
	out = append(out, dataObject(0xC6, ca)...)
	out = append(out, dataObject(0xCD, times)...)
	if o.cfg.Generic { // key information is optional, and so it is here to have touch policies
		return out
	}
	return append(append(out, dataObject(0xDE, o.keyInformation())...), uifs...)
}

// orZero is b, or n zeros if it was never set.
func orZero(b []byte, n int) []byte {
	if b == nil {
		return make([]byte, n)
	}
	return b
}

// pwStatus is DO C4: the validity of PW1 (81), three greatest lengths, three counters.
func (o *OpenPGP) pwStatus() []byte {
	return []byte{o.do[0xC4][0], openpgpMaxPIN, openpgpMaxPIN, openpgpMaxPIN,
		byte(o.pins[pw1Sign].tries), byte(o.pins[codeRC].tries), byte(o.pins[pw3].tries)}
}

// keyInformation is DO DE: which keys there are, and whether they were made on the card.
func (o *OpenPGP) keyInformation() []byte {
	var out []byte
	for _, k := range o.ordered() {
		state := byte(0)
		switch {
		case k.private != nil && k.imported:
			state = 2
		case k.private != nil:
			state = 1
		}
		out = append(out, k.number, state)
	}
	return out
}

// algorithms is the content of DO FA.
func (o *OpenPGP) algorithms() []byte {
	var out []byte
	for _, k := range o.ordered() {
		for _, a := range o.supported(k) {
			out = append(out, dataObject(k.tag(0xC1), a)...)
		}
	}
	return out
}

// longest bounds the data objects that are just kept.
var longest = map[uint16]int{
	0x5B: 39, 0x5E: openpgpMaxDO, 0x5F2D: 8, 0x5F35: 1, 0x5F50: openpgpMaxDO, 0x7F21: 2048,
	0x0101: openpgpMaxDO, 0x0102: openpgpMaxDO, 0x0103: openpgpMaxDO, 0x0104: openpgpMaxDO,
	0xCA: 20, 0xCB: 20, 0xCC: 20, 0xF9: 110,
}

// put is PUT DATA, 7.2.8. All wants the admin PIN, but 0101 and 0103 the user's.
func (o *OpenPGP) put(tag uint16, data []byte) uint16 {
	needs := byte(pw3)
	if tag == 0x0101 || tag == 0x0103 {
		needs = pw1Other
	}
	if o.cfg.NoPrivateUse && tag>>8 == 1 {
		return SWWrongP1P2
	}
	if !o.verified[needs] {
		return SWNotSatisfied
	}
	data = bytes.Clone(data)
	if most, ok := longest[tag]; ok {
		if len(data) > most {
			return SWWrongLength
		}
		o.do[tag] = data
		return SWOK
	}
	switch tag {
	case 0xC4:
		if len(data) == 0 || data[0] > 1 {
			return SWWrongData
		}
		o.do[tag] = data[:1]
		return SWOK
	case 0xD3:
		if len(data) != 0 && len(data) < 8 {
			return SWWrongLength
		}
		rc := o.pins[codeRC]
		if rc.set(data); len(data) == 0 {
			rc.value, rc.tries = nil, 0
		}
		return SWOK
	}
	return o.putKeyData(tag, data)
}

// putKeyData writes what belongs to a key.
func (o *OpenPGP) putKeyData(tag uint16, data []byte) uint16 {
	for _, k := range o.keys {
		switch tag {
		case k.tag(0xC1):
			return o.setAttributes(k, data)
		case k.tag(0xC7):
			return keep(&k.fingerprint, data, 20)
		case k.tag(0xCE):
			return keep(&k.time, data, 4)
		case k.tag(0xD6):
			if k.uif[0] == uifFixed || k.uif[0] == uifCachedFixed {
				return SWConditions
			}
			if len(data) == 2 && data[0] > uifCachedFixed {
				return SWWrongData
			}
			return keep(&k.uif, data, 2)
		}
	}
	return SWReferenceNotFound
}

// keep stores data of exactly n bytes.
func keep(to *[]byte, data []byte, n int) uint16 {
	if len(data) != n {
		return SWWrongLength
	}
	*to = data
	return SWOK
}

// challenge is GET CHALLENGE, 7.2.15.
func challenge(cmd *Command) ([]byte, uint16) {
	if cmd.P1P2() != 0 || cmd.Le == 0 {
		return nil, SWWrongP1P2
	}
	out := make([]byte, min(cmd.Le, 0x0BFE))
	rand.Read(out) // never fails
	return out, SWOK
}
