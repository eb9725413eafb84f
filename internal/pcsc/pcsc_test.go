package pcsc

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/keyward/keyward/internal/cardsim"
)

// TestLifetimes is one test because libpcsclite remembers the daemon's socket.
func TestLifetimes(t *testing.T) {
	p := cardsim.StartPCSCD(t)
	app := cardsim.NewOpenPGP(cardsim.OpenPGPConfig{Serial: 12345678})
	sim := cardsim.NewCard(app)
	reader := cardsim.ReaderName + " 00 00"
	dial := func() *Client {
		t.Helper()
		c, err := Dial()
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	c := dial()
	readers, err := c.Readers()
	if err != nil || len(readers) != cardsim.Readers || readers[0].Name != reader || readers[0].Present {
		t.Errorf("Readers = %+v, %v", readers, err)
	}
	if _, err := c.Open(reader); !errors.Is(err, ErrGone) {
		t.Errorf("Open of an empty reader = %v, want ErrGone", err)
	}
	if _, err := c.Open("no such reader"); !errors.Is(err, ErrGone) {
		t.Errorf("Open of no reader = %v, want ErrGone", err)
	}
	p.Insert(t, 0, sim)
	open := func(c *Client) *Card {
		t.Helper()
		card, err := c.Open(reader)
		if err != nil {
			t.Fatal(err)
		}
		return card
	}
	card := open(c)
	other := dial()
	if _, err := other.Open(reader); !errors.Is(err, ErrInUse) {
		t.Errorf("Open of a card in use = %v, want ErrInUse", err)
	}
	verify := []Command{
		{INS: 0xA4, P1: 4, Data: []byte{0xD2, 0x76, 0, 1, 0x24, 1}},
		{INS: 0x20, P2: 0x82, Data: []byte(cardsim.OpenPGPUserPIN)},
	}
	for _, cmd := range verify {
		if _, sw, err := card.Do(cmd); err != nil || sw != OK {
			t.Fatalf("command %02X: %v, %v", cmd.INS, sw, err)
		}
	}
	if !app.Verified() {
		t.Fatal("the PIN is not verified")
	}
	if err := errors.Join(card.Close(), card.Close()); err != nil {
		t.Errorf("Close twice = %v", err)
	}
	if app.Verified() {
		t.Error("the PIN is still verified after Close")
	}
	if _, err := card.Transmit([]byte{0, 0xCA, 0, 0x4F, 0}); err == nil {
		t.Error("a closed card answers")
	}

	// A Client that is closed frees the card that it has open.
	open(other)
	if err := errors.Join(other.Close(), other.Close()); err != nil {
		t.Errorf("Close of a Client twice = %v", err)
	}
	p.AwaitFree(t, 0)

	// An answer of several parts, and one that never ends.
	card = open(c)
	if _, sw, err := card.Do(verify[0]); err != nil || sw != OK {
		t.Fatalf("SELECT: %v, %v", sw, err)
	}
	if _, sw, err := card.Do(Command{INS: 0x20, P2: 0x83, Data: []byte(cardsim.OpenPGPAdminPIN)}); err != nil || sw != OK {
		t.Fatalf("VERIFY: %v, %v", sw, err)
	}
	data, sw, err := card.Do(Command{INS: 0x47, P1: 0x80, Data: []byte{0xB6, 0}}) // an RSA key
	if err != nil || sw != OK || len(data) <= 256 {
		t.Errorf("an answer of several parts = %d bytes, %v, %v", len(data), sw, err)
	}
	sim.Fail(cardsim.Fault{INS: 0xCA, Do: cardsim.Endless})
	if _, _, err := card.Do(Command{INS: 0xCA, P2: 0x6E}); !errors.Is(err, ErrGarbled) {
		t.Errorf("an endless answer = %v, want ErrGarbled", err)
	}

	// The card goes, then the daemon.
	p.Remove(0)
	p.AwaitEmpty(t, 0)
	if _, _, err := card.Do(verify[0]); !errors.Is(err, ErrGone) {
		t.Errorf("a command to a card that is gone = %v, want ErrGone", err)
	}
	card.Close()
	p.Kill()
	if _, err := c.Readers(); !errors.Is(err, ErrNoService) && !errors.Is(err, ErrGone) {
		t.Errorf("Readers without the daemon = %v", err)
	}
	c.Close()
	if _, err := Dial(); !errors.Is(err, ErrNoService) || !strings.Contains(err.Error(), "pcscd") {
		t.Errorf("Dial without the daemon = %v, want ErrNoService", err)
	}
}

func TestErrorIs(t *testing.T) {
	for _, tt := range []struct {
		err  Error
		want error
		says string
	}{
		{Error{"SCardEstablishContext", 0x8010001D}, ErrNoService, "may not reach its socket"},
		{Error{"SCardEstablishContext", 0x8010006A}, ErrForbidden, "access_pcsc"},
		{Error{"SCardEstablishContext", 0x80100013}, ErrForbidden, "access_pcsc"},
		{Error{"SCardEstablishContext", 0x8010001E}, ErrVersion, "another version"},
		{Error{"SCardEstablishContext", 0x80104B57}, ErrNoLibrary, "libpcsclite1"},
		{Error{"SCardListReaders", 0x8010001E}, ErrNoService, "does not run"},
		{Error{"SCardConnect", 0x8010006A}, ErrForbidden, "access_card"},
		{Error{"SCardTransmit", 0x80100013}, ErrGone, "removed"},
		{Error{"SCardTransmit", 0x80100001}, nil, "0x80100001"},
	} {
		if is := tt.err.Unwrap(); is != tt.want || !strings.Contains(tt.err.Error(), tt.says) {
			t.Errorf("%s 0x%08X is %v (%v), want %v and %q", tt.err.Call, tt.err.Code, is, &tt.err, tt.want, tt.says)
		}
	}
}

// The library is loaded when it is needed, and nothing links it. Without it there is an error that says what to
// install.
func TestLibraryIsLoaded(t *testing.T) {
	if os.Getenv("KEYWARD_TEST_DIAL") != "" {
		_, err := Dial()
		fmt.Println("Dial:", err)
		return
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	program, err := elf.Open(self)
	if err != nil {
		t.Fatal(err)
	}
	defer program.Close()
	linked, err := program.ImportedLibraries()
	if err != nil || slices.ContainsFunc(linked, func(name string) bool { return strings.Contains(name, "pcsclite") }) {
		t.Errorf("linked are %q, %v, want no pcsclite", linked, err)
	}
	dir := t.TempDir()
	// which is found first, and is none
	if err := os.WriteFile(filepath.Join(dir, "libpcsclite.so.1"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, "-test.run=^TestLibraryIsLoaded$")
	cmd.Env = append(os.Environ(), "KEYWARD_TEST_DIAL=1", "LD_LIBRARY_PATH="+dir)
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "Dial: "+ErrNoLibrary.Error()) {
		t.Errorf("without the library: %v\n%s", err, out)
	}
}

func TestCollect(t *testing.T) {
	for _, tt := range []struct {
		name  string
		parts []string
		want  string // "": ErrGarbled
		sw    Status
	}{
		{"one", []string{"ab\x90\x00"}, "ab", OK},
		{"two", []string{"ab\x61\x01", "c\x90\x00"}, "abc", OK},
		{"refused", []string{"\x69\x82"}, "", 0x6982},
		{"one byte", []string{"\x90"}, "", 0},
		{"endless", []string{"\x61\x00"}, "", 0},
		{"too long", []string{strings.Repeat("x", 256) + "\x61\x00"}, "", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			sent := 0
			data, sw, err := collect(func(apdu []byte) ([]byte, error) {
				if want := []byte{0, 0xC0, 0, 0}; sent > 0 && !bytes.HasPrefix(apdu, want) {
					t.Errorf("command %d = %x, want GET RESPONSE", sent, apdu)
				}
				part := tt.parts[min(sent, len(tt.parts)-1)]
				sent++
				return []byte(part), nil
			}, []byte{0, 0xCA, 0, 0x6E, 0})
			if tt.sw == 0 {
				if !errors.Is(err, ErrGarbled) || sent > maxParts {
					t.Errorf("collect = %v after %d commands, want ErrGarbled", err, sent)
				}
				return
			}
			if err != nil || string(data) != tt.want || sw != tt.sw {
				t.Errorf("collect = %q, %v, %v, want %q, %v", data, sw, err, tt.want, tt.sw)
			}
		})
	}
}

func TestCommandBytes(t *testing.T) {
	for _, tt := range []struct {
		cmd  Command
		want string // "": refused
	}{
		{Command{INS: 0xCA, P1: 1, P2: 2}, "\x00\xCA\x01\x02\x00"},
		{Command{INS: 0x20, P2: 0x82, NoLe: true}, "\x00\x20\x00\x82"},
		{Command{INS: 0xDA, Data: []byte("ab"), NoLe: true}, "\x00\xDA\x00\x00\x02ab"},
		{Command{INS: 0x2A, Data: []byte("ab")}, "\x00\x2A\x00\x00\x02ab\x00"},
		{Command{INS: 0xDA, Data: make([]byte, 256)}, ""},
	} {
		got, err := tt.cmd.bytes()
		if string(got) != tt.want || (err == nil) != (tt.want != "") {
			t.Errorf("%+v: %x, %v, want %x", tt.cmd, got, err, tt.want)
		}
	}
}
