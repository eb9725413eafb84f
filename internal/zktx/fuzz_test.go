package zktx

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/keyward/keyward/policy"
)

// FuzzParseTypedData: what parses has a value for every field of the digest, so written as
// typed data again it has the same digest. What does not parse gives one of two errors.
func FuzzParseTypedData(f *testing.F) {
	for _, c := range readClients(f).TypedData {
		text, err := UnwrapTypedData(policy.JSONValue(c.Params[1]))
		if err != nil {
			f.Fatal(err)
		}
		f.Add([]byte(text))
	}
	f.Add([]byte(typedData))
	for _, row := range badTypedData {
		f.Add([]byte(strings.Replace(typedData, row.old, row.new, 1)))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		tx, err := parseTypedText(data)
		if err != nil {
			wantKnownError(t, err)
			return
		}
		text, err := json.Marshal(toTypedData(tx))
		if err != nil {
			t.Fatal(err)
		}
		again, err := parseTypedText(text)
		if err != nil || again.Digest() != tx.Digest() {
			t.Errorf("written again as %s: %+v, %v, want %+v", text, again, err, tx)
		}
	})
}

func wantKnownError(t *testing.T, err error) {
	t.Helper()
	var field *FieldError
	if !errors.As(err, &field) && !errors.Is(err, ErrForeign) {
		t.Errorf("error = %v, want a FieldError or ErrForeign", err)
	}
}

// FuzzParseTransaction: what parses is, as MarshalJSON writes it, a request for the same digest.
func FuzzParseTransaction(f *testing.F) {
	clients := readClients(f)
	for _, c := range append(clients.ZKsync, clients.Ethereum...) {
		f.Add([]byte(c.Params[0]), true)
		f.Add([]byte(c.Params[0]), false)
	}
	add := func(base string, rows []requestRow, zksync bool) {
		f.Add([]byte(base), zksync)
		for _, row := range rows {
			if text := strings.Replace(base, row.old, row.new, 1); len(text) < 10_000 {
				f.Add([]byte(text), zksync)
			}
		}
	}
	add(zksyncRequest, badZKsyncRequests, true)
	add(metaRequest(f), badMeta, true)
	add(dynamicFeeRequest, badDynamicFeeRequests, false)
	add(legacyRequest, badLegacyRequests, false)
	f.Fuzz(func(t *testing.T, data []byte, zksync bool) {
		kind := uint8(TypeDynamicFee)
		if zksync {
			kind = TypeZKsync
		}
		tx, err := ParseTransaction(data, kind, 2741)
		if err != nil {
			wantKnownError(t, err)
			return
		}
		digest := tx.Digest()
		tx.FactoryDeps, tx.FactoryDepsHash = nil, nil // a request has bytecodes, the written form hashes
		if zksync {
			digest = tx.Digest()
		}
		text, err := json.Marshal(tx)
		if err != nil {
			t.Fatal(err)
		}
		again, err := ParseTransaction(text, kind, 1)
		if err != nil || again.Digest() != digest {
			t.Errorf("written again as %s: %+v, %v, want %+v", text, again, err, tx)
		}
	})
}

// FuzzParseRaw: what ParseRaw accepts, Raw returns byte for byte.
func FuzzParseRaw(f *testing.F) {
	for _, c := range readClients(f).ZKsync {
		f.Add([]byte(c.Raw))
		f.Add([]byte(c.Raw[:len(c.Raw)-1]))
		f.Add(append(bytes.Clone(c.Raw), 0))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		tx, customSignature, err := ParseRaw(raw)
		if err != nil {
			wantKnownError(t, err)
			return
		}
		if again, err := tx.Raw(customSignature); err != nil || !bytes.Equal(again, raw) {
			t.Errorf("Raw = %x, %v, want %x", again, err, raw)
		}
	})
}

// BenchmarkTypedData is what one request costs here: read it and compute its digest.
func BenchmarkTypedData(b *testing.B) {
	text, err := UnwrapTypedData(policy.JSONValue(readClients(b).TypedData[0].Params[1]))
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		tx, err := parseTypedText(text)
		if err != nil {
			b.Fatal(err)
		}
		tx.Digest()
	}
}

func BenchmarkDigest(b *testing.B) {
	tx, err := parseTypedText([]byte(typedData))
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		tx.Digest()
	}
}

func BenchmarkParseTransaction(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ParseTransaction([]byte(zksyncRequest), TypeZKsync, 2741); err != nil {
			b.Fatal(err)
		}
	}
}
