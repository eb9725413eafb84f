package openpgp

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/ethereum/go-ethereum/common"
	"github.com/keyward/keyward/internal/pcsc"
)

// recordDO is a data object for private use that everybody can read and the admin PIN
// can write (OpenPGP card 3.4, 4.4.1). The keys' labels are kept there, on the card, so that they go where
// the keys go. The objects are optional (4.4.3.7): on a card without them, keys have no labels.
const recordDO = 0x0102

// recordMagic begins what we write. After it come entries: slot number, signer's address, the
// label's length in a byte, the label.
var recordMagic = []byte("keyward\x01")

// maxLabel is the length in bytes of the labels that fit twice into 254 bytes, the
// shortest object that cards allow.
const maxLabel = 100

// errForeignRecord: the data object is in use by something else, and is not touched.
var errForeignRecord = errors.New("data object 0102, where labels of keys are kept, holds something that is not " +
	"Keyward's; move it, then clear it with: gpg-connect-agent 'SCD SETATTR PRIVATE-DO-2 ' /bye")

// label is the label of one key.
type label struct {
	signer common.Address // whose label it is; it says nothing about the slot's next key
	text   string
}

// record is the labels by slot number.
type record map[byte]label

func (s *session) readRecord() (record, error) {
	if !s.data.keepsLabels() {
		return record{}, nil
	}
	raw, sw, err := s.do(pcsc.Command{INS: insGetData, P1: recordDO >> 8, P2: recordDO & 0xFF})
	switch {
	case err != nil:
		return nil, err
	case sw == swNotFound: // as good as empty
		return record{}, nil
	case sw != pcsc.OK:
		return nil, &refusal{"reading the labels", sw}
	}
	return parseRecord(raw)
}

func parseRecord(raw []byte) (record, error) {
	r := record{}
	if len(raw) == 0 {
		return r, nil
	}
	rest, ok := bytes.CutPrefix(raw, recordMagic)
	if !ok {
		return nil, errForeignRecord
	}
	const head = 1 + common.AddressLength + 1
	for len(rest) != 0 {
		if len(rest) < head || len(rest) < head+int(rest[head-1]) {
			return nil, fmt.Errorf("%w: its labels are cut off", errForeignRecord)
		}
		end := head + int(rest[head-1])
		if _, twice := r[rest[0]]; twice {
			return nil, fmt.Errorf("%w: it has two labels for a slot", errForeignRecord)
		}
		r[rest[0]] = label{common.Address(rest[1:head]), string(rest[head:end])}
		rest = rest[end:]
	}
	return r, nil
}

// bytes is the record as it is on the card: empty if there are no labels.
func (r record) bytes() []byte {
	if len(r) == 0 {
		return nil
	}
	raw := bytes.Clone(recordMagic)
	for _, sl := range slots {
		if l, ok := r[sl.number]; ok {
			raw = append(append(raw, sl.number), l.signer[:]...)
			raw = append(append(raw, byte(len(l.text))), l.text...)
		}
	}
	return raw
}

// setLabel writes the label of the key in a slot; "" with the zero address: none.
func (s *session) setLabel(sl *slot, l label) error {
	if !s.data.keepsLabels() {
		return nil
	}
	r, err := s.readRecord()
	if err != nil {
		return err
	}
	delete(r, sl.number)
	if l.signer != (common.Address{}) {
		r[sl.number] = l
	}
	raw := r.bytes()
	if len(raw) > s.data.maxSpecial {
		return fmt.Errorf("the labels take %d bytes, and the card has room for %d", len(raw), s.data.maxSpecial)
	}
	return s.putData(recordDO, raw)
}
