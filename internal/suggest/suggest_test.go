package suggest

import "testing"

func TestNearest(t *testing.T) {
	known := []string{"session", "status", "serve", "sign", "policy", "key"}
	for _, tt := range []struct{ word, want string }{
		{"sesion", "session"},
		{"stauts", "status"}, // two neighbours swapped
		{"serv", "serve"},
		{"sgin", "sign"},
		{"polcies", "policy"},
		{"kye", "key"},
		{"frobnicate", ""},
		{"", ""},
	} {
		if got := Nearest(tt.word, known); got != tt.want {
			t.Errorf("Nearest(%q) = %q, want %q", tt.word, got, tt.want)
		}
	}
}

func TestDidYouMean(t *testing.T) {
	for _, tt := range []struct {
		word  string
		known []string
		want  string
	}{
		{"yubiky", []string{"hsm", "yubikey"}, `; did you mean "yubikey"?`},
		{"kms", []string{"softhsm", "yubikey"}, "; known are softhsm, yubikey"},
		{"kms", nil, ""},
	} {
		if got := DidYouMean(tt.word, tt.known); got != tt.want {
			t.Errorf("DidYouMean(%q, %q) = %q, want %q", tt.word, tt.known, got, tt.want)
		}
	}
}

// TestNearestBeginning: "pin" is what was meant, and not three letters that are wrong.
func TestNearestBeginning(t *testing.T) {
	known := []string{"dir", "pin-policy", "pin-file", "pin-credential", "yes", "slot"}
	for _, tt := range []struct{ word, want string }{
		{"pin", "pin-file"},
		{"pin-p", "pin-policy"},
		{"pin-fiel", "pin-file"},
		{"di", "dir"},
		{"ye", "yes"},
		{"p", ""},
	} {
		if got := Nearest(tt.word, known); got != tt.want {
			t.Errorf("Nearest(%q) = %q, want %q", tt.word, got, tt.want)
		}
	}
}

func TestDistance(t *testing.T) {
	for _, tt := range []struct {
		a, b string
		want int
	}{
		{"", "", 0}, {"", "abc", 3}, {"abc", "", 3}, {"abc", "abc", 0},
		{"abc", "acb", 1}, {"abc", "axc", 1}, {"abc", "abcd", 1}, {"kitten", "sitting", 3},
	} {
		if got := distance(tt.a, tt.b); got != tt.want {
			t.Errorf("distance(%q, %q) = %d, want %d", tt.a, tt.b, got, tt.want)
		}
	}
}
