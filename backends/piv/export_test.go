package piv

import (
	"github.com/keyward/keyward/backends/sealed"
	"github.com/keyward/keyward/internal/pcsc"
)

// Wrapper is what b's keys are sealed by.
func (b *Backend) Wrapper() sealed.Wrapper { return b.dev }

// The objects that tell of the management key.
const (
	ObjectAdmin     = objectAdmin
	ObjectProtected = objectProtected
)

// PutObject writes what is in an object as it is: a field with a tag.
func PutObject(serial uint32, management []byte, number int, tag byte, value []byte) error {
	return withSerial(serial, func(c *session) error {
		if err := c.authenticate(management); err != nil {
			return err
		}
		return c.putObject("writing", number, tag, value)
	})
}

// Object reads it.
func Object(serial uint32, pin []byte, number int, tag byte) (value []byte, err error) {
	err = withSerial(serial, func(c *session) error {
		if err := c.spendTry(pin); err != nil {
			return err
		}
		value, err = c.field("the object", number, tag)
		return err
	})
	return value, err
}

// PutFields writes what is in an object as it is: all of its fields.
func PutFields(serial uint32, management []byte, number int, fields []byte) error {
	return withSerial(serial, func(c *session) error {
		if err := c.authenticate(management); err != nil {
			return err
		}
		data := appendTLV(appendTLV(nil, 0x5c, objectID(number)), 0x53, fields)
		_, err := c.do("writing", pcsc.Command{INS: insPutData, P1: 0x3f, P2: 0xff, Data: data, NoLe: true})
		return err
	})
}
