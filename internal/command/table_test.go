package command

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

// wideTables are tables as commands print them, with cells as long as they get.
var wideTables = map[string][][]string{
	"session list": {
		{"ID", "STATUS", "KIND", "CHAIN", "ACCOUNT", "SIGNER", "SIGNS UNTIL", "CLIENTS"},
		{"0123456789abcdef", "pending", "agw", "11124", "0x1111111111111111111111111111111111111111",
			"0xC4822AbB9F05646A9Ce44EFa6dDcda0Bf45595AA",
			"2026-11-28 15:04:05 UTC", "uid:1000, gid:65533, uid:4294967294, uid:1001, uid:1002"},
		{"fedcba9876543210", "revoked", "eoa", "2741", "", "0xA16081F360e3847006dB660bae1c6d1b2e17eC2A", "", "uid:0"},
	},
	"key list": {
		{"BACKEND", "PROTECTION", "SIGNER", "SESSION", "STATUS", "KEY"},
		{"the-hsm-in-the-cellar", "resident", "0xC4822AbB9F05646A9Ce44EFa6dDcda0Bf45595AA", "0123456789abcdef",
			"active, KEY LOST",
			"pkcs11:token=keyward;serial=0123456789abcdef;id=%01%23%45%67%89%ab%cd%ef%01%23%45%67%89%ab%cd%ef;object=keyward-0123456789abcdef"},
	},
	"backend list": {
		{"NAME", "TYPE", "PROTECTION", "STATE", "CAN", "DETAIL"},
		{"yubikey", "openpgp", "resident", "unavailable", "list, pin, adminPin, attest",
			"no card with the serial number 05555555 is plugged in; there are 01234567 and 07654321"},
	},
}

// Each table fits 80 and 120 columns, and says the same in as many columns as it likes.
func TestTablesFit(t *testing.T) {
	for name, rows := range wideTables {
		for _, width := range []int{80, 120, 1000} {
			lines := fit(rows, width)
			for _, line := range lines {
				if n := utf8.RuneCountInString(line); n > width || strings.HasSuffix(line, " ") {
					t.Errorf("%s in %d columns: %d of them: %q", name, width, n, line)
				}
			}
			if width == 1000 && len(lines) != len(rows) {
				t.Errorf("%s has %d lines for %d rows", name, len(lines), len(rows))
			}
			if got, want := letters(lines...), letters(slices.Concat(shortIf(rows, width)...)...); got != want {
				t.Errorf("%s in %d columns has other text:\n%s", name, width, strings.Join(lines, "\n"))
			}
		}
	}
}

// shortIf is what the rows say where they have that much room.
func shortIf(rows [][]string, width int) [][]string {
	if width == 1000 {
		return rows
	}
	return shortenHex(rows)
}

// letters are the characters of the texts, sorted, without spaces.
func letters(texts ...string) string {
	all := []rune(strings.ReplaceAll(strings.Join(texts, ""), " ", ""))
	slices.Sort(all)
	return string(all)
}

func TestBroken(t *testing.T) {
	for _, tt := range []struct {
		text  string
		width int
		want  []string
	}{
		{"", 5, []string{""}},
		{"abcde", 5, []string{"abcde"}},
		{"ab cde fg", 6, []string{"ab cde", "fg"}},
		{"a:bcdefgh", 4, []string{"a:", "bcde", "fgh"}},
		{"äöüß€äöüß€", 5, []string{"äöüß€", "äöüß€"}},
		{"  LIMIT of", 8, []string{"  LIMIT", "of"}},
	} {
		if got := broken(tt.text, tt.width); !slices.Equal(got, tt.want) {
			t.Errorf("broken(%q, %d) = %q, want %q", tt.text, tt.width, got, tt.want)
		}
	}
}

// However narrow the terminal is, all is there.
func TestFitNarrow(t *testing.T) {
	rows := [][]string{{"NAME", "WHAT"}, {"x", strings.Repeat("word ", 30)}}
	for width := range 40 {
		lines := fit(rows, width)
		if n := strings.Count(fmt.Sprint(lines), "word"); n != 30 {
			t.Errorf("in %d columns %d of 30 words are left", width, n)
		}
	}
}

func TestWords(t *testing.T) {
	got := words("a bb 0123456789abcdef ccc d", 6)
	if want := []string{"a bb", "0123456789abcdef", "ccc d"}; !slices.Equal(got, want) {
		t.Errorf("words = %q, want %q", got, want)
	}
}
