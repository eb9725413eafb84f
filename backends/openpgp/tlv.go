package openpgp

import "fmt"

// object is a BER-TLV data object (ISO 7816-4, 5.2.2).
type object struct {
	tag   uint16
	value []byte
}

// parseTLV reads data objects until the end of data. Tags have one byte or two, lengths
// up to three, as in the OpenPGP card specification, 4.
func parseTLV(data []byte) ([]object, error) {
	var list []object
	for len(data) != 0 {
		o, rest, err := nextObject(data)
		if err != nil {
			return nil, err
		}
		list, data = append(list, o), rest
	}
	return list, nil
}

func nextObject(data []byte) (o object, rest []byte, err error) {
	o.tag, data = uint16(data[0]), data[1:]
	if o.tag&0x1f == 0x1f && len(data) != 0 {
		o.tag, data = o.tag<<8|uint16(data[0]), data[1:]
	}
	if len(data) == 0 {
		return o, nil, fmt.Errorf("data object %02X is cut off", o.tag)
	}
	n, data := int(data[0]), data[1:]
	if n >= 0x80 {
		more := n & 0x7f
		if more < 1 || more > 2 || len(data) < more {
			return o, nil, fmt.Errorf("data object %02X has a bad length", o.tag)
		}
		n = 0
		for _, b := range data[:more] {
			n = n<<8 | int(b)
		}
		data = data[more:]
	}
	if n > len(data) {
		return o, nil, fmt.Errorf("data object %02X is cut off", o.tag)
	}
	o.value = data[:n]
	return o, data[n:], nil
}

// child finds the first object of that tag; nil: there is none.
func child(list []object, tag uint16) []byte {
	for _, o := range list {
		if o.tag == tag {
			return o.value
		}
	}
	return nil
}
