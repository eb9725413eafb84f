package sealed

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/ethereum/go-ethereum/common"
	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/backends/backendtest"
)

// Who can write to the directory, but does not have the device, must not get a
// signature out of a file that Generate did not write, for the key it wrote it for. The device
// here is credulous: it authenticates nothing, so that what is refused is refused by us.
func TestAlteredFiles(t *testing.T) {
	d := newDevice(t, "d")
	d.credulous = true
	b := open(t, Config{Wrapper: d})
	k, other := backendtest.Generate(t, b, "keyward-x"), backendtest.Generate(t, b, "keyward-y")
	file := readFile(t, b, k)
	lines := strings.SplitAfter(string(file), "\n")
	otherLines := strings.SplitAfter(string(readFile(t, b, other)), "\n")

	attacks := map[string]string{
		"another key's file":    strings.Join(otherLines, ""),
		"a line more":           string(file) + "x\n",
		"no last newline":       strings.TrimSuffix(string(file), "\n"),
		"carriage returns":      strings.ReplaceAll(string(file), "\n", "\r\n"),
		"label written oddly":   strings.Replace(string(file), `"keyward-x"`, `"\x6beyward-x"`, 1),
		"label as a raw string": strings.Replace(string(file), `"keyward-x"`, "`keyward-x`", 1),
		"chain written oddly":   strings.Replace(string(file), "chain 2741", "chain 02741", 1),
		"next version":          strings.Replace(string(file), "key 1\n", "key 2\n", 1),
		"other wrapper":         strings.Replace(string(file), `wrapper "d"`, `wrapper "e"`, 1),
		"longer than any":       string(file) + strings.Repeat("\n", maxFile),
	}
	for i := range lines[:8] {
		spliced := append(append(append([]string{}, lines[:i]...), otherLines[i]), lines[i+1:]...)
		if attack := strings.Join(spliced, ""); attack != string(file) {
			attacks["line of another key: "+strings.Fields(lines[i])[0]] = attack
		}
	}
	swapped := append(append(append([]string{}, lines[:6]...), otherLines[6], otherLines[7]), lines[8:]...)
	attacks["both secrets of another key"] = strings.Join(swapped, "")
	if len(attacks) < 15 {
		t.Fatalf("only %d attacks", len(attacks))
	}
	for name, content := range attacks {
		writeFile(t, b, k, []byte(content))
		expectDamaged(t, b, k, name)
	}
	for n := range file {
		writeFile(t, b, k, file[:n])
		expectDamaged(t, b, k, "truncated")
	}
	for i := range file {
		for _, flip := range []byte{1, 0x20, 0x80} { // 0x20: the other case of a letter
			altered := bytes.Clone(file)
			altered[i] ^= flip
			writeFile(t, b, k, altered)
			expectDamaged(t, b, k, "a changed byte")
		}
	}
	writeFile(t, b, k, file)
	backendtest.Verify(t, k, [32]byte{1})
}

// The device is the second guard: it is given a binding made of the very fields in the file.
func TestDeviceIsGivenTheBinding(t *testing.T) {
	b := open(t, Config{Wrapper: newDevice(t, "d")})
	k := backendtest.Generate(t, b, "keyward-x").(*key)
	f, err := b.read(k.signer)
	if err != nil {
		t.Fatal(err)
	}
	want := Binding{Label: "keyward-x", Signer: k.signer, Account: "0x36615Cf349d7F6344891B1e7CA7C72883F5dc049",
		ChainID: 2741}
	if f.binding() != want {
		t.Fatalf("binding = %+v, want %+v", f.binding(), want)
	}
	opened, err := b.cfg.Wrapper.Unwrap(t.Context(), f.wrapped, want)
	if err != nil {
		t.Fatal(err)
	}
	opened.Close()
	for _, other := range []Binding{
		{Label: "keyward-y", Signer: want.Signer, Account: want.Account, ChainID: want.ChainID},
		{Label: want.Label, Signer: common.Address{1}, Account: want.Account, ChainID: want.ChainID},
		{Label: want.Label, Signer: want.Signer, Account: "", ChainID: want.ChainID},
		{Label: want.Label, Signer: want.Signer, Account: want.Account, ChainID: 1},
	} {
		f.label, f.account, f.chainID = other.Label, other.Account, other.ChainID
		if other.Signer == want.Signer && f.binding() != other {
			t.Errorf("binding = %+v, want %+v", f.binding(), other)
		}
		if _, err := b.cfg.Wrapper.Unwrap(t.Context(), f.wrapped, other); !errors.Is(err, ErrDamaged) {
			t.Errorf("Unwrap with %+v = %v, want ErrDamaged", other, err)
		}
	}
}

// A file of another device, and what this one did not wrap.
func TestOtherDevice(t *testing.T) {
	mine, theirs := open(t, Config{Wrapper: newDevice(t, "d")}), open(t, Config{Wrapper: newDevice(t, "e")})
	k, stolen := backendtest.Generate(t, mine, "keyward-x"), backendtest.Generate(t, theirs, "keyward-x")
	writeFile(t, mine, stolen, readFile(t, theirs, stolen))
	found, err := mine.Key(t.Context(), stolen.URI())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := found.SignDigest(t.Context(), [32]byte{1}); !errors.Is(err, backends.ErrUnavailable) {
		t.Errorf("SignDigest with another device's key = %v, want ErrUnavailable", err)
	}
	forged := bytes.Replace(readFile(t, theirs, stolen), []byte(`wrapper "e"`), []byte(`wrapper "d"`), 1)
	writeFile(t, mine, stolen, forged)
	expectDamaged(t, mine, found, "another device's blob under this one's name")
	backendtest.Verify(t, k, [32]byte{1})
}

// A key that is kept open does not hide that its file was changed.
func TestCacheDoesNotHideChanges(t *testing.T) {
	b := open(t, Config{Wrapper: newDevice(t, "d"), CacheFor: 1 << 40})
	k := backendtest.Generate(t, b, "keyward-x")
	backendtest.Verify(t, k, [32]byte{1})
	file := readFile(t, b, k)
	writeFile(t, b, k, bytes.Replace(file, []byte("chain 2741"), []byte("chain 2742"), 1))
	expectDamaged(t, b, k, "another chain")
	writeFile(t, b, k, file)
	backendtest.Verify(t, k, [32]byte{1})
}

// expectDamaged: no signature comes of k's file, whether k was found before or is found now.
func expectDamaged(t *testing.T, b *Backend, k backends.Key, attack string) {
	t.Helper()
	if _, err := k.SignDigest(t.Context(), [32]byte{1}); !errors.Is(err, ErrDamaged) {
		t.Errorf("%s: SignDigest = %v, want ErrDamaged; the file:\n%q", attack, err, readFile(t, b, k))
	}
	if found, err := b.Key(t.Context(), k.URI()); err == nil {
		_, err = found.SignDigest(t.Context(), [32]byte{1})
		if !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: Key, then SignDigest = %v, want ErrDamaged", attack, err)
		}
	}
}

func readFile(t *testing.T, b *Backend, k backends.Key) []byte {
	t.Helper()
	data, err := os.ReadFile(b.path(k.(*key).signer))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func writeFile(t *testing.T, b *Backend, k backends.Key, data []byte) {
	t.Helper()
	if err := os.WriteFile(b.path(k.(*key).signer), data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// FuzzParse: what parse accepts, marshal returns byte for byte.
func FuzzParse(f *testing.F) {
	point := "04" + "79be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798" +
		"483ada7726a3c4655da4fbfc0e1108a8fd17b448a68554199c47d08ffb10d4b8"
	f.Add([]byte(magic + "\nlabel \"keyward-x\"\naccount \"0x00\"\nchain 1\npublic " + point +
		"\nwrapper \"d\"\nwrapped AAAA\nsealed AAAA\n"))
	f.Add([]byte(magic + "\nlabel \"\\n\"\naccount \"\"\nchain 18446744073709551615\npublic " + point +
		"\nwrapper \"\"\nwrapped \nsealed \n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		parsed, err := parse(data)
		if err != nil {
			if !errors.Is(err, ErrDamaged) {
				t.Errorf("parse = %v, want ErrDamaged", err)
			}
			return
		}
		if !bytes.Equal(parsed.marshal(), data) {
			t.Errorf("marshal = %q, want %q", parsed.marshal(), data)
		}
	})
}
