package openpgp

import (
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"fmt"
	"hash"

	"github.com/keyward/keyward/internal/pcsc"
)

// kdf makes of a PIN what the card compares, if it was set up so: DO F9 (OpenPGP card 3.4,
// 4.3.2, "KDF-DO"; the function is RFC 4880, 3.7.1.3). Without it the right PIN would be a
// wrong one, and cost a try.
type kdf struct {
	hash  func() hash.Hash
	count int             // bytes to hash
	salts map[byte][]byte // by P2 of VERIFY
}

// maxCount bounds what a card can make us hash: the largest count that RFC 4880 can express.
const maxCount = 65011712

// readKDF returns nil if the card takes PINs as they are.
func (s *session) readKDF() (*kdf, error) {
	if s.data.capabilities&capKDF == 0 {
		return nil, nil
	}
	raw, err := s.getData(0xF9)
	if err != nil {
		return nil, err
	}
	k, err := parseKDF(raw)
	if err != nil {
		return nil, fmt.Errorf("%w: KDF data object: %w", pcsc.ErrGarbled, err)
	}
	return k, nil
}

func parseKDF(raw []byte) (*kdf, error) {
	list, err := parseTLV(raw)
	if err != nil {
		return nil, err
	}
	if inner := child(list, 0xF9); inner != nil { // with or without its own tag
		if list, err = parseTLV(inner); err != nil {
			return nil, err
		}
	}
	const none, iterated = 0, 3
	switch algorithm := child(list, 0x81); {
	case len(raw) == 0 || len(algorithm) == 1 && algorithm[0] == none:
		return nil, nil
	case len(algorithm) != 1 || algorithm[0] != iterated:
		return nil, fmt.Errorf("algorithm %X is unknown", algorithm)
	}
	k := &kdf{}
	switch h := child(list, 0x82); {
	case len(h) == 1 && h[0] == 8: // RFC 4880, 9.4
		k.hash = sha256.New
	case len(h) == 1 && h[0] == 10:
		k.hash = sha512.New
	default:
		return nil, fmt.Errorf("hash %X is unknown", h)
	}
	count, user, admin := child(list, 0x83), child(list, 0x84), child(list, 0x86)
	if admin == nil {
		admin = user
	}
	if len(count) != 4 || len(user) != 8 || len(admin) != 8 || binary.BigEndian.Uint32(count) > maxCount {
		return nil, fmt.Errorf("iteration count %X or salts are malformed", count)
	}
	k.count = int(binary.BigEndian.Uint32(count))
	k.salts = map[byte][]byte{pwSign: user, pwOther: user, pwAdmin: admin}
	return k, nil
}

func (k *kdf) size() int { return k.hash().Size() }

// derive writes the derived PIN, of size bytes, to out: the hash of salt and PIN, repeated
// to count bytes, but at least once.
func (k *kdf) derive(out []byte, password byte, pin []byte) {
	salt := k.salts[password]
	h := k.hash()
	for left := max(k.count, len(salt)+len(pin)); left > 0; {
		for _, part := range [][]byte{salt, pin} {
			n := min(left, len(part))
			h.Write(part[:n])
			left -= n
		}
	}
	h.Sum(out[:0])
}
