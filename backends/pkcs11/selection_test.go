package pkcs11_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/backends/backendtest"
	"github.com/keyward/keyward/backends/pkcs11"
	softhsmtest "github.com/keyward/keyward/softhsm-test"
	p11 "github.com/miekg/pkcs11"
)

func TestTokenSelection(t *testing.T) {
	tok := softhsmtest.NewToken(t)
	// A second token of the same label, in the same directory.
	second := tok.Config()
	serial2 := secondToken(t, tok, softhsmtest.Label)
	for _, tt := range []struct {
		name, label, serial string
		open                bool
		state               string
	}{
		{"serial", "", tok.Serial, true, "ready"},
		{"serial and label", tok.Label, tok.Serial, true, "ready"},
		{"two of that label", tok.Label, "", false, ""},
		{"label that does not fit the serial", "other", tok.Serial, true, "unavailable"},
		{"unknown serial", tok.Label, "0", true, "unavailable"},
		{"nothing", "", "", false, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg := second
			cfg.TokenLabel, cfg.TokenSerial = tt.label, tt.serial
			b, err := pkcs11.Open(t.Context(), cfg)
			if (err == nil) != tt.open {
				t.Fatalf("Open = %v, want success %v", err, tt.open)
			}
			if err != nil {
				if tt.label != "" && !strings.Contains(err.Error(), serial2) {
					t.Errorf("Open = %v, want the serials to choose from", err)
				}
				return
			}
			defer b.Close()
			if st := b.Status(t.Context()); st.State != tt.state {
				t.Errorf("Status = %+v, want %s", st, tt.state)
			}
		})
	}
}

// secondToken makes another token in tok's directory, and returns its serial.
func secondToken(t *testing.T, tok *softhsmtest.Token, label string) string {
	t.Helper()
	t.Setenv("SOFTHSM2_CONF", tok.Conf)
	ctx := p11.New(tok.Module)
	if err := ctx.Initialize(); err != nil {
		t.Fatal(err)
	}
	defer ctx.Finalize()
	slots, err := ctx.GetSlotList(true)
	if err != nil {
		t.Fatal(err)
	}
	if err := ctx.InitToken(slots[len(slots)-1], "12345678", label); err != nil {
		t.Fatal(err)
	}
	if slots, err = ctx.GetSlotList(true); err != nil {
		t.Fatal(err)
	}
	for _, id := range slots {
		info, err := ctx.GetTokenInfo(id)
		if err != nil {
			t.Fatal(err)
		}
		if info.Label == label && info.SerialNumber != tok.Serial {
			return info.SerialNumber
		}
	}
	t.Fatal("the second token is not there")
	return ""
}

func TestOpenRefusesBadConfiguration(t *testing.T) {
	other, tok := softhsmtest.NewToken(t), softhsmtest.NewToken(t)
	softhsmtest.NewFaults(t, other)
	b := tok.Open(t)
	text := filepath.Join(t.TempDir(), "module.so")
	if err := os.WriteFile(text, []byte("no module"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		set  func(*pkcs11.Config)
		want string
	}{
		{"missing", func(c *pkcs11.Config) { c.Module = "/nonexistent/module.so" }, "no such file"},
		{"relative", func(c *pkcs11.Config) { c.Module = "libsofthsm2.so" }, "absolute"},
		{"text", func(c *pkcs11.Config) { c.Module = text }, "can't be loaded"},
		{"in use", func(*pkcs11.Config) {}, "another backend"},
		{"conflicting environment", func(c *pkcs11.Config) {
			c.Module, c.Env = other.Module, map[string]string{"SOFTHSM2_CONF": "/elsewhere"}
		}, "SOFTHSM2_CONF"},
		{"negative", func(c *pkcs11.Config) { c.Sessions = -1 }, "negative"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg := tok.Config()
			tt.set(&cfg)
			if b, err := pkcs11.Open(t.Context(), cfg); err == nil {
				b.Close()
				t.Error("Open succeeded")
			} else if !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Open = %v, want %q in it", err, tt.want)
			}
		})
	}
	backendtest.Generate(t, b, "keyward-x") // the one that is open was not disturbed
}

// TestAbsentAtStart: the agent starts without its token, and uses it once it is there.
func TestAbsentAtStart(t *testing.T) {
	tok := softhsmtest.NewToken(t)
	from, to := filepath.Join(tok.Dir, "tokens"), filepath.Join(tok.Dir, "away")
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
	b := tok.Open(t)
	if st := b.Status(t.Context()); st.State != "unavailable" {
		t.Errorf("Status = %+v, want unavailable", st)
	}
	if err := os.Rename(to, from); err != nil {
		t.Fatal(err)
	}
	eventually(t, 3*time.Second, func() error {
		if st := b.Status(t.Context()); st.State != "ready" {
			return errors.New(st.Detail)
		}
		return nil
	})
	backendtest.Verify(t, backendtest.Generate(t, b, "keyward-x"), [32]byte{1})
}

// TestAnotherTokenInItsPlace: the key may well exist in its own token, so it is unavailable, and
// not "not found".
func TestAnotherTokenInItsPlace(t *testing.T) {
	other, tok := softhsmtest.NewToken(t), softhsmtest.NewToken(t)
	cfg := tok.Config()
	cfg.TokenSerial = ""
	b := softhsmtest.Open(t, cfg)
	k := backendtest.Generate(t, b, "keyward-x")
	tokens, away := filepath.Join(tok.Dir, "tokens"), filepath.Join(tok.Dir, "away")
	for _, move := range [][2]string{{tokens, away}, {filepath.Join(other.Dir, "tokens"), tokens}} {
		if err := os.Rename(move[0], move[1]); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Unlock(t.Context(), readPIN(t, other.Config().PIN)); err != nil {
		t.Fatal(err)
	}
	_, sign := k.SignDigest(t.Context(), [32]byte{1})
	_, find := b.Key(t.Context(), k.URI())
	for name, err := range map[string]error{"SignDigest": sign, "Key": find} {
		if !errors.Is(err, backends.ErrUnavailable) || !strings.Contains(err.Error(), tok.Serial) {
			t.Errorf("%s = %v, want ErrUnavailable that names the token", name, err)
		}
	}
	backendtest.Generate(t, b, "keyward-y")
}
