package openpgp

import (
	"cmp"
	"fmt"

	"github.com/keyward/keyward/internal/pcsc"
)

// appData is the application related data, DO 6E (OpenPGP card 3.4, 4.4.1), as far
// as it is of use here.
type appData struct {
	serial       string // eight hex digits
	manufacturer uint16 // 0006: Yubico
	version      [2]byte

	capabilities byte            // first byte of C0
	maxSpecial   int             // bytes in a private use DO
	attributes   map[byte][]byte // by slot number
	fingerprints [3][20]byte
	origins      map[byte]byte // by slot number; nil: the card does not say
	uif          map[byte]byte // by slot number: first byte of D6 and D8
	pw           pwStatus
}

// Bits of the first byte of the extended capabilities, DO C0 (4.4.3.7).
const (
	capKDF        = 1 << 0
	capAttributes = 1 << 2 // algorithm attributes can be changed
	capPrivateUse = 1 << 3 // DOs 0101 to 0104
)

// keepsLabels reports whether the card has the data objects that labels are kept in.
func (d *appData) keepsLabels() bool { return d.capabilities&capPrivateUse != 0 }

// makers are manufacturers' numbers in the application identifier, as GnuPG lists them.
var makers = map[uint16]string{
	0x0005: "ZeitControl card", yubico: "YubiKey", 0x000B: "Feitian card", nitrokey: "Nitrokey", 0x0011: "Token2 card",
	0xF1D0: "CanoKey", 0xF517: "Gnuk token",
}

// model is what a person calls cards of that kind.
func (d *appData) model() string {
	return cmp.Or(makers[d.manufacturer], fmt.Sprintf("OpenPGP card of maker %04X", d.manufacturer))
}

// pwStatus is DO C4, the PW status bytes: lengths and counters of the PINs.
type pwStatus struct {
	maxUser, maxAdmin     int // bytes
	triesUser, triesAdmin int
}

// origin says where a slot's key comes from, by the key information, DO DE.
type origin int

const (
	keyAbsent origin = iota
	keyGenerated
	keyImported
	keyUnknown // the card does not say
)

func (d *appData) origin(sl *slot) origin {
	o, ok := d.origins[sl.number]
	if !ok || o > byte(keyImported) {
		return keyUnknown
	}
	return origin(o)
}

// parseAppData reads DO 6E.
func parseAppData(raw []byte) (*appData, error) {
	d, err := readAppData(raw)
	if err != nil {
		return nil, fmt.Errorf("%w: application related data: %w", pcsc.ErrGarbled, err)
	}
	return d, nil
}

func readAppData(raw []byte) (*appData, error) {
	outer, err := parseTLV(raw)
	if err != nil {
		return nil, err
	}
	if inner := child(outer, 0x6E); inner != nil { // with or without its own tag
		if outer, err = parseTLV(inner); err != nil {
			return nil, err
		}
	}
	list, err := parseTLV(child(outer, 0x73))
	if err != nil {
		return nil, err
	}
	d := &appData{attributes: map[byte][]byte{}, uif: map[byte]byte{}}
	if err := d.readAID(child(outer, 0x4F)); err != nil {
		return nil, err
	}
	if err := d.readCapabilities(child(list, 0xC0)); err != nil {
		return nil, err
	}
	if err := d.readPasswords(child(list, 0xC4)); err != nil {
		return nil, err
	}
	fps := child(list, 0xC5)
	if len(fps) < 60 {
		return nil, fmt.Errorf("fingerprints have %d bytes", len(fps))
	}
	for i := range d.fingerprints {
		d.fingerprints[i] = [20]byte(fps[20*i:])
	}
	for _, sl := range slots {
		d.attributes[sl.number] = child(list, sl.attributes)
		if v := child(list, sl.uif); len(v) != 0 {
			d.uif[sl.number] = v[0]
		}
	}
	return d, d.readOrigins(child(list, 0xDE))
}

// readAID reads D2760001 2401, version, manufacturer, serial number and two
// reserved bytes (4.2.1).
func (d *appData) readAID(aid []byte) error {
	if len(aid) != 16 || [6]byte(aid) != applicationID {
		return fmt.Errorf("application identifier is %X", aid)
	}
	d.version = [2]byte(aid[6:])
	d.manufacturer = uint16(aid[8])<<8 | uint16(aid[9])
	d.serial = fmt.Sprintf("%X", aid[10:14])
	return nil
}

func (d *appData) readCapabilities(c []byte) error {
	if len(c) != 10 {
		return fmt.Errorf("extended capabilities have %d bytes: is it a card of version 2 or later?", len(c))
	}
	d.capabilities = c[0]
	d.maxSpecial = 254 // version 2 names none
	if d.version[0] >= 3 {
		d.maxSpecial = int(c[6])<<8 | int(c[7])
	}
	return nil
}

func (d *appData) readPasswords(c []byte) error {
	if len(c) != 7 {
		return fmt.Errorf("PIN status has %d bytes", len(c))
	}
	// Bit 8 of the first length tells the format of PIN blocks.
	d.pw = pwStatus{
		maxUser: int(c[1] & 0x7f), maxAdmin: int(c[3] & 0x7f),
		triesUser: int(c[4]), triesAdmin: int(c[6]),
	}
	return nil
}

// readOrigins reads pairs of key number and state. Not every card has the DO.
func (d *appData) readOrigins(c []byte) error {
	if len(c)%2 != 0 {
		return fmt.Errorf("key information has %d bytes", len(c))
	}
	if len(c) == 0 {
		return nil
	}
	d.origins = map[byte]byte{}
	for i := 0; i < len(c); i += 2 {
		d.origins[c[i]] = c[i+1]
	}
	return nil
}
