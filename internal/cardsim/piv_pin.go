package cardsim

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/des"
	"crypto/rand"
	"crypto/subtle"
)

const (
	refPIN = 0x80
	refPUK = 0x81

	pinSize = 8 // padded with ff: SP 800-73-4, part 2, 2.4.3
)

// pinState is a PIN or PUK with its retry counter.
type pinState struct {
	value      []byte // padded
	tries, max int
	isDefault  bool
}

func newPINState(pin string) pinState {
	return pinState{value: padPIN(pin), tries: defaultTries, max: defaultTries, isDefault: true}
}

func padPIN(pin string) []byte {
	return append([]byte(pin), bytes.Repeat([]byte{0xff}, pinSize-len(pin))...)
}

// check spends a try if given is wrong.
func (s *pinState) check(given []byte) uint16 {
	if s.tries == 0 {
		return SWBlocked
	}
	if subtle.ConstantTimeCompare(given, s.value) == 1 {
		s.tries = s.max
		return SWOK
	}
	s.tries--
	return s.left()
}

// left is the status word that tells how many tries are left; it has one digit for them.
func (s *pinState) left() uint16 {
	if s.tries == 0 {
		return SWBlocked
	}
	return SWVerifyFailed | uint16(min(s.tries, 15))
}

// set changes the value, and gives back all tries.
func (s *pinState) set(value []byte) uint16 {
	const shortest = 6
	if bytes.IndexByte(value, 0xff) >= 0 && bytes.IndexByte(value, 0xff) < shortest {
		return SWWrongData
	}
	s.value, s.tries, s.isDefault = bytes.Clone(value), s.max, false
	return SWOK
}

// verify is VERIFY: SP 800-73-4, part 2, 3.2.1.
func (p *PIV) verify(cmd *Command) uint16 {
	switch {
	case cmd.P1 != 0:
		return SWWrongP1P2
	case cmd.P2 != refPIN:
		return SWReferenceNotFound
	case len(cmd.Data) == 0 && p.pinVerified:
		return SWOK
	case len(cmd.Data) == 0:
		return p.pin.left()
	case len(cmd.Data) != pinSize:
		return SWWrongData
	}
	sw := p.pin.check(cmd.Data)
	p.pinVerified = sw == SWOK
	p.pinFresh = p.pinVerified
	return sw
}

// changeReference is CHANGE REFERENCE DATA: SP 800-73-4, part 2, 3.2.2.
func (p *PIV) changeReference(cmd *Command) uint16 {
	s := &p.pin
	switch {
	case cmd.P1 != 0 || cmd.P2 != refPIN && cmd.P2 != refPUK:
		return SWWrongP1P2
	case len(cmd.Data) != 2*pinSize:
		return SWWrongData
	case cmd.P2 == refPUK:
		s = &p.puk
	}
	if sw := s.check(cmd.Data[:pinSize]); sw != SWOK {
		return sw
	}
	return s.set(cmd.Data[pinSize:])
}

// resetRetry is RESET RETRY COUNTER: SP 800-73-4, part 2, 3.2.3.
func (p *PIV) resetRetry(cmd *Command) uint16 {
	switch {
	case cmd.P1 != 0 || cmd.P2 != refPIN:
		return SWWrongP1P2
	case len(cmd.Data) != 2*pinSize:
		return SWWrongData
	}
	if sw := p.puk.check(cmd.Data[:pinSize]); sw != SWOK {
		return sw
	}
	return p.pin.set(cmd.Data[pinSize:])
}

// setRetries changes how often a PIN and a PUK can be tried. Both get their default values.
func (p *PIV) setRetries(cmd *Command) uint16 {
	switch {
	case !p.admin || !p.pinVerified:
		return SWNotSatisfied
	case cmd.P1 == 0 || cmd.P2 == 0:
		return SWWrongP1P2
	}
	p.pin, p.puk = newPINState(DefaultPIN), newPINState(DefaultPUK)
	p.pin.tries, p.pin.max = int(cmd.P1), int(cmd.P1)
	p.puk.tries, p.puk.max = int(cmd.P2), int(cmd.P2)
	p.pinVerified, p.pinFresh = false, false
	return SWOK
}

// managementKey is the key in 9b, which an administrator shows.
type managementKey struct {
	algorithm byte
	key       []byte
	touch     bool
}

// Ciphers: SP 800-78-4, table 6-2.
const (
	alg3DES   = 0x03
	algAES128 = 0x08
	algAES192 = 0x0a
	algAES256 = 0x0c
)

var managementKeySize = map[byte]int{alg3DES: 24, algAES128: 16, algAES192: 24, algAES256: 32}

func (k managementKey) block() cipher.Block {
	newCipher := aes.NewCipher
	if k.algorithm == alg3DES {
		newCipher = des.NewTripleDESCipher
	}
	block, err := newCipher(k.key)
	if err != nil {
		panic(err) // the size was checked when the key was set
	}
	return block
}

func (p *PIV) setManagementKey(cmd *Command) uint16 {
	switch {
	case !p.admin:
		return SWNotSatisfied
	case cmd.P1 != 0xff || cmd.P2 != 0xff && cmd.P2 != 0xfe:
		return SWWrongP1P2
	case len(cmd.Data) < 3 || cmd.Data[1] != slotManagement || int(cmd.Data[2]) != len(cmd.Data)-3:
		return SWWrongData
	case managementKeySize[cmd.Data[0]] != len(cmd.Data)-3:
		return SWWrongData
	case cmd.Data[0] != alg3DES && !p.firmware.atLeast(5, 4):
		return SWWrongData
	}
	p.management = managementKey{algorithm: cmd.Data[0], key: bytes.Clone(cmd.Data[3:]), touch: cmd.P2 == 0xfe}
	return SWOK
}

// authenticateAdmin is GENERAL AUTHENTICATE with the management key: SP 800-73-4, part 2, 3.2.4 and
// appendix A.1. The card asks and the host answers, or both ask each other.
func (p *PIV) authenticateAdmin(cmd *Command, template []tlv) ([]byte, uint16) {
	if alg := cmd.P1; alg != p.management.algorithm && !(alg == 0 && p.management.algorithm == alg3DES) {
		return nil, SWWrongData
	}
	block := p.management.block()
	asked := p.challenge
	p.challenge, p.admin = nil, false
	witness, challenge, response := value(template, 0x80), value(template, 0x81), value(template, 0x82)
	switch {
	case witness != nil && len(witness) == 0: // the host wants to be asked, and will ask too
		p.challenge = random(block.BlockSize())
		return authTemplate(0x80, encrypt(block, p.challenge)), SWOK
	case witness == nil && challenge != nil && len(challenge) == 0: // the host wants to be asked
		p.challenge = encrypt(block, random(block.BlockSize()))
		out := make([]byte, block.BlockSize())
		block.Decrypt(out, p.challenge)
		return authTemplate(0x81, out), SWOK
	case asked == nil:
		return nil, SWWrongData
	case witness != nil && len(challenge) == block.BlockSize():
		if sw := p.admit(cmd, witness, asked); sw != SWOK {
			return nil, sw
		}
		return authTemplate(0x82, encrypt(block, challenge)), SWOK
	case response != nil:
		return nil, p.admit(cmd, response, asked)
	}
	return nil, SWWrongData
}

func (p *PIV) admit(cmd *Command, answer, want []byte) uint16 {
	if subtle.ConstantTimeCompare(answer, want) != 1 || p.management.touch && !cmd.WaitTouch() {
		return SWNotSatisfied
	}
	p.admin = true
	return SWOK
}

func authTemplate(tag int, value []byte) []byte {
	return appendTLV(nil, tagAuthenticate, appendTLV(nil, tag, value))
}

func encrypt(block cipher.Block, plain []byte) []byte {
	out := make([]byte, len(plain))
	block.Encrypt(out, plain)
	return out
}

func random(n int) []byte {
	b := make([]byte, n)
	rand.Read(b) // never fails
	return b
}
