package cardsim

// Slots: SP 800-73-4, part 1, table 4b.
const (
	slotManagement  = 0x9b
	slotSignature   = 0x9c
	slotCardAuth    = 0x9e
	slotAttestation = 0xf9
)

// Policies, and where a key is from: Yubico's extensions.
const (
	policyDefault = 0x00
	policyNever   = 0x01

	pinOnce   = 0x02
	pinAlways = 0x03

	touchAlways = 0x02
	touchCached = 0x03

	originGenerated = 0x01
	originImported  = 0x02
)

const (
	tagGenerate     = 0xac
	tagAlgorithm    = 0x80
	tagPINPolicy    = 0xaa
	tagTouchPolicy  = 0xab
	tagAuthenticate = 0x7c
	tagPublicKey    = 0x7f49
)

// pivKey is what is in a slot.
type pivKey struct {
	private    privateKey
	pin, touch byte // policies
	origin     byte
}

func isSlot(slot byte) bool {
	return slot >= 0x82 && slot <= 0x95 || slot == 0x9a || slot >= 0x9c && slot <= 0x9e || slot == slotAttestation
}

// readPolicies takes them out of a template; without them, or as default, the slot decides.
func readPolicies(template []tlv, slot byte) (pin, touch byte, ok bool) {
	one := func(tag int) (byte, bool) {
		v := value(template, tag)
		if v == nil {
			return policyDefault, true
		}
		if len(v) != 1 || v[0] > 3 { // 4 and 5 are for a YubiKey Bio
			return 0, false
		}
		return v[0], true
	}
	pin, pinOK := one(tagPINPolicy)
	touch, touchOK := one(tagTouchPolicy)
	if pin == policyDefault {
		switch slot {
		case slotSignature:
			pin = pinAlways
		case slotCardAuth:
			pin = policyNever
		default:
			pin = pinOnce
		}
	}
	if touch == policyDefault {
		touch = policyNever
	}
	return pin, touch, pinOK && touchOK
}

// generate is GENERATE ASYMMETRIC KEY PAIR: SP 800-73-4, part 2, 3.3.2.
func (p *PIV) generate(cmd *Command) ([]byte, uint16) {
	if !p.admin {
		return nil, SWNotSatisfied
	}
	if cmd.P1 != 0 || !isSlot(cmd.P2) {
		return nil, SWWrongP1P2
	}
	template, err := parseTemplate(cmd.Data, tagGenerate)
	alg := value(template, tagAlgorithm)
	pin, touch, ok := readPolicies(template, cmd.P2)
	if err != nil || len(alg) != 1 || !ok {
		return nil, SWWrongData
	}
	private := generateKey(p.firmware, alg[0])
	if private == nil {
		return nil, SWWrongData
	}
	p.keys[cmd.P2] = &pivKey{private: private, pin: pin, touch: touch, origin: originGenerated}
	return appendTLV(nil, tagPublicKey, private.public()), SWOK
}

func (p *PIV) importKey(cmd *Command) uint16 {
	if !p.admin {
		return SWNotSatisfied
	}
	if !isSlot(cmd.P2) {
		return SWWrongP1P2
	}
	template, err := parseTLVs(cmd.Data)
	pin, touch, ok := readPolicies(template, cmd.P2)
	if err != nil || !ok {
		return SWWrongData
	}
	private := readPrivateKey(p.firmware, cmd.P1, template)
	if private == nil {
		return SWWrongData
	}
	p.keys[cmd.P2] = &pivKey{private: private, pin: pin, touch: touch, origin: originImported}
	return SWOK
}

// moveKey moves a key to an empty slot, P1, or deletes it if P1 is ff.
func (p *PIV) moveKey(cmd *Command) uint16 {
	const deleted = 0xff
	switch {
	case !p.admin:
		return SWNotSatisfied
	case !isSlot(cmd.P2) || cmd.P1 == cmd.P2 || cmd.P1 != deleted && (!isSlot(cmd.P1) || cmd.P1 == slotAttestation):
		return SWWrongP1P2
	case p.keys[cmd.P2] == nil:
		return SWReferenceNotFound
	case cmd.P1 == deleted:
	case p.keys[cmd.P1] != nil || cmd.P2 == slotAttestation:
		return SWConditions
	default:
		p.keys[cmd.P1] = p.keys[cmd.P2]
	}
	delete(p.keys, cmd.P2)
	return SWOK
}

// metadata is Yubico's GET METADATA, from firmware 5.3.
func (p *PIV) metadata(cmd *Command) ([]byte, uint16) {
	const tagAlg, tagPolicy, tagOrigin, tagPublic, tagDefault, tagTries = 1, 2, 3, 4, 5, 6
	flag := func(on bool) []byte {
		if on {
			return []byte{1}
		}
		return []byte{0}
	}
	var out []byte
	switch cmd.P2 {
	case refPIN, refPUK:
		s := &p.pin
		if cmd.P2 == refPUK {
			s = &p.puk
		}
		out = appendTLV(out, tagAlg, []byte{0xff})
		out = appendTLV(out, tagDefault, flag(s.isDefault))
		return appendTLV(out, tagTries, []byte{byte(s.max), byte(s.tries)}), SWOK
	case slotManagement:
		touch := byte(policyNever)
		if p.management.touch {
			touch = touchAlways
		}
		isDefault := string(p.management.key) == string(defaultManagementKey)
		out = appendTLV(out, tagAlg, []byte{p.management.algorithm})
		out = appendTLV(out, tagPolicy, []byte{0, touch})
		return appendTLV(out, tagDefault, flag(isDefault)), SWOK
	}
	k := p.keys[cmd.P2]
	if k == nil {
		return nil, SWReferenceNotFound
	}
	out = appendTLV(out, tagAlg, []byte{k.private.algorithm()})
	out = appendTLV(out, tagPolicy, []byte{k.pin, k.touch})
	out = appendTLV(out, tagOrigin, []byte{k.origin})
	return appendTLV(out, tagPublic, k.private.public()), SWOK
}
