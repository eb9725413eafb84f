package tpm

import (
	"context"
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/google/go-tpm/tpm2"
)

// Info is what a TPM says of itself.
type Info struct {
	Manufacturer string  `json:"manufacturer"` // such as "IFX" or "IBM"
	Model        string  `json:"model"`        // the manufacturer's word; may be ""
	Firmware     string  `json:"firmware"`
	Lockout      Lockout `json:"lockout"`
	Keys         []Found `json:"keys"` // that are persistent in the owner hierarchy, of all programs
}

// Found is a persistent key.
type Found struct {
	Handle string `json:"handle"` // as in [ParseKey], as is Name
	Name   string `json:"name"`
	PIN    bool   `json:"pin"` // the TPM counts wrong PINs of it
}

// Inspect asks the TPM at path, a device node or a TPM emulator's Unix socket. No PIN is tried.
func Inspect(ctx context.Context, path string) (*Info, error) {
	c, err := dial(ctx, path)
	if err != nil {
		return nil, err
	}
	defer c.close()
	info := &Info{}
	if err := info.readMaker(c); err != nil {
		return nil, explain("asking who made the TPM", err)
	}
	if info.Lockout, err = readLockout(c); err != nil {
		return nil, err
	}
	handles, err := listHandles(c, firstPersistent)
	if err != nil {
		return nil, explain("listing keys", err)
	}
	for _, h := range handles {
		if h < firstPersistent || h > lastPersistent {
			continue
		}
		answer, err := tpm2.ReadPublic{ObjectHandle: h}.Execute(c)
		if err != nil {
			return nil, explain("reading a key", err)
		}
		public, err := answer.OutPublic.Contents()
		if err != nil {
			return nil, explain("reading a key", err)
		}
		k := Key{Handle: uint32(h), Name: answer.Name.Buffer}
		info.Keys = append(info.Keys, Found{Handle: k.HandleHex(), Name: k.NameHex(), PIN: !public.ObjectAttributes.NoDA})
	}
	return info, nil
}

// readMaker reads properties whose values are characters or parts of a version: TPM 2.0 Library, part 2, 6.13.
func (info *Info) readMaker(c *conn) error {
	words := []tpm2.TPMPT{tpm2.TPMPTVendorString1, tpm2.TPMPTVendorString2, tpm2.TPMPTVendorString3,
		tpm2.TPMPTVendorString4}
	values, err := readProperties(c, append(words, tpm2.TPMPTManufacturer, tpm2.TPMPTFirmwareVersion1,
		tpm2.TPMPTFirmwareVersion2)...)
	if err != nil {
		return err
	}
	info.Manufacturer = text(values[tpm2.TPMPTManufacturer])
	for _, word := range words {
		info.Model += text(values[word])
	}
	info.Model = strings.TrimSpace(info.Model)
	high, low := values[tpm2.TPMPTFirmwareVersion1], values[tpm2.TPMPTFirmwareVersion2]
	info.Firmware = fmt.Sprintf("%d.%d.%d.%d", high>>16, high&0xffff, low>>16, low&0xffff)
	return nil
}

// text is up to four printable characters.
func text(value uint32) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return -1
		}
		return r
	}, string(binary.BigEndian.AppendUint32(nil, value)))
}
