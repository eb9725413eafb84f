package secret

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestFromFile(t *testing.T) {
	tests := []struct {
		name    string
		content string
		mode    os.FileMode
		want    string // "": refused
		wantErr string
	}{
		{"plain", "aBcD", 0o600, "aBcD", ""},
		{"newline", "aBcD\n", 0o600, "aBcD", ""},
		{"read only", "aBcD\n", 0o400, "aBcD", ""},
		{"a second newline", "aBcD\n\n", 0o600, "", "control character 0x0a as byte 5 of 5"},
		{"space before", " aBcD", 0o600, "", "begins with a space"},
		{"space after", "aBcD \n", 0o600, "", "ends with a space"},
		{"no-break space after", "aBcD\u00a0", 0o600, "", "ends with a space"},
		{"space within", "aB cD", 0o600, "aB cD", ""},
		{"other letters", "pß a\xff", 0o600, "pß a\xff", ""},
		{"Windows", "aBcD\r\n", 0o600, "", "carriage return"},
		{"UTF-8 mark", "\xef\xbb\xbfaBcD", 0o600, "", "byte-order mark of UTF-8"},
		{"UTF-16", "\xff\xfea\x00B\x00", 0o600, "", "byte-order mark of UTF-16"},
		{"NUL", "aB\x00cD", 0o600, "", "control character 0x00 as byte 3 of 5"},
		{"tab", "aBcD\t", 0o600, "", "control character 0x09"},
		{"delete", "aB\x7f", 0o600, "", "control character 0x7f"},
		{"longest", strings.Repeat("1", maxPIN), 0o600, strings.Repeat("1", maxPIN), ""},
		{"empty", "", 0o600, "", "empty"},
		{"newline alone", "\n", 0o600, "", "empty"},
		{"too long", strings.Repeat("1", maxPIN+1), 0o600, "", "longer"},
		{"group reads", "aBcD", 0o640, "", "chmod 600"},
		{"others read", "aBcD", 0o604, "", "chmod 600"},
		{"group writes", "aBcD", 0o620, "", "chmod 600"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := writeFile(t, t.TempDir(), "pin", tt.content, tt.mode)
			b, err := FromFile(path)(t.Context())
			if tt.wantErr != "" {
				if err == nil || !strings.Contains(err.Error(), tt.wantErr) || strings.Contains(err.Error(), "aBcD") {
					t.Fatalf("FromFile = %v, want an error with %q", err, tt.wantErr)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer b.Close()
			if got := reveal(b); got != tt.want {
				t.Errorf("PIN = %q, want %q", got, tt.want)
			}
		})
	}
}

func TestCheckOwner(t *testing.T) {
	for _, tt := range []struct {
		owner, self uint32
		want        string
	}{
		{0, 0, ""}, {0, 999, ""}, {999, 999, ""},
		{999, 0, "it belongs to uid 999, want root"},
		{998, 999, "it belongs to uid 998, want root or uid 999"},
	} {
		got := ""
		if err := checkOwner(tt.owner, tt.self); err != nil {
			got = err.Error()
		}
		if got != tt.want {
			t.Errorf("checkOwner(%d, %d) = %q, want %q", tt.owner, tt.self, got, tt.want)
		}
	}
}

func TestFromFileRefusesOtherKinds(t *testing.T) {
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{dir, fifo, filepath.Join(dir, "missing")} {
		if b, err := FromFile(path)(t.Context()); err == nil {
			b.Close()
			t.Errorf("FromFile(%q) succeeded", path)
		}
	}
}

func TestFromCredential(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, dir, "pin", "1234\n", 0o440)
	writeFile(t, dir, "open", "1234\n", 0o444)
	t.Setenv("CREDENTIALS_DIRECTORY", dir)
	b, err := FromCredential("pin")(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if got := reveal(b); got != "1234" {
		t.Errorf("PIN = %q, want 1234", got)
	}
	for _, name := range []string{"", "..", "../pin", "/etc/passwd", "absent", "open"} {
		if b, err := FromCredential(name)(t.Context()); err == nil {
			b.Close()
			t.Errorf("FromCredential(%q) succeeded", name)
		}
	}
	t.Setenv("CREDENTIALS_DIRECTORY", "")
	if _, err := FromCredential("pin")(t.Context()); err == nil || !strings.Contains(err.Error(), "LoadCredential=pin") {
		t.Errorf("FromCredential without a directory = %v, want a hint", err)
	}
}

func TestFromEnvRemovesTheVariable(t *testing.T) {
	t.Setenv("TEST_PIN", "1234")
	source := FromEnv("TEST_PIN")
	for range 2 {
		b, err := source(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if got := reveal(b); got != "1234" {
			t.Errorf("PIN = %q, want 1234", got)
		}
		b.Close()
		if v, ok := os.LookupEnv("TEST_PIN"); ok {
			t.Errorf("TEST_PIN is still %q", v)
		}
	}
	t.Setenv("TEST_PIN", "aBcD ")
	if _, err := FromEnv("TEST_PIN")(t.Context()); err == nil ||
		!strings.Contains(err.Error(), "TEST_PIN ends with a space") || strings.Contains(err.Error(), "aBcD") {
		t.Errorf("FromEnv of a PIN that ends with a space = %v", err)
	}
	if _, err := FromEnv("TEST_PIN")(t.Context()); err == nil || !strings.Contains(err.Error(), "TEST_PIN") {
		t.Errorf("FromEnv of an unset variable = %v", err)
	}
}

func writeFile(t *testing.T, dir, name, content string, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil { // not cut by the umask
		t.Fatal(err)
	}
	return path
}
