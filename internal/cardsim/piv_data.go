package cardsim

import (
	"bytes"
)

const (
	objectDiscovery   = 0x7e
	objectPrinted     = 0x5fc109
	objectAttestation = 0x5fff01

	tagObject = 0x5c
	tagData   = 0x53

	maxObject = 3052 // bytes, as on a YubiKey 5
)

// getData is GET DATA: SP 800-73-4, part 2, 3.1.2.
func (p *PIV) getData(cmd *Command) ([]byte, uint16) {
	all, err := parseTLVs(cmd.Data)
	if err != nil || cmd.P1P2() != 0x3fff || len(all) != 1 {
		return nil, SWWrongData
	}
	object, ok := objectNumber(all[0])
	if !ok {
		return nil, SWWrongData
	}
	if object == objectDiscovery { // its PIN usage policy: the PIV PIN only
		value := appendTLV(nil, 0x4f, p.AID())
		return appendTLV(nil, objectDiscovery, appendTLV(value, 0x5f2f, []byte{0x40, 0x00})), SWOK
	}
	// The printed information is where a PIN-protected management key is kept.
	if object == objectPrinted && !p.pinVerified {
		return nil, SWNotSatisfied
	}
	data := p.objects[object]
	if data == nil {
		return nil, SWFileNotFound
	}
	return appendTLV(nil, tagData, data), SWOK
}

// putData is PUT DATA: SP 800-73-4, part 2, 3.3.1. Empty data deletes the object.
func (p *PIV) putData(cmd *Command) uint16 {
	if !p.admin {
		return SWNotSatisfied
	}
	all, err := parseTLVs(cmd.Data)
	if err != nil || cmd.P1P2() != 0x3fff || len(all) != 2 || all[1].Tag != tagData {
		return SWWrongData
	}
	object, ok := objectNumber(all[0])
	switch {
	case !ok || object == objectDiscovery:
		return SWWrongData
	case len(all[1].Value) > maxObject:
		return SWNoSpace
	case len(all[1].Value) == 0:
		delete(p.objects, object)
	default:
		p.objects[object] = bytes.Clone(all[1].Value)
	}
	return SWOK
}

func objectNumber(t tlv) (object int, ok bool) {
	if t.Tag != tagObject || len(t.Value) == 0 || len(t.Value) > 3 {
		return 0, false
	}
	for _, b := range t.Value {
		object = object<<8 | int(b)
	}
	return object, true
}
