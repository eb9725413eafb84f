package session

import (
	"strings"
	"testing"

	"github.com/keyward/keyward/backends/soft"
)

func TestErrorsNameTheBackends(t *testing.T) {
	a := newAgent(t)
	a.cfg.Backends["yubikey"] = &soft.Backend{}
	for _, tt := range []struct{ name, want string }{
		{"yubiky", `there is no backend "yubiky" in the configuration; did you mean "yubikey"?`},
		{"other", `there is no backend "other" in the configuration; known are soft, yubikey`},
		{"", "2 backends are configured, soft and yubikey: say which one is to hold the key (--backend NAME)"},
	} {
		req := a.createRequest()
		req.Backend = tt.name
		if _, err := a.Create(t.Context(), operator, req); err == nil || !strings.HasSuffix(err.Error(), tt.want) {
			t.Errorf("Create with backend %q = %v, want %s", tt.name, err, tt.want)
		}
		if tt.name == "" {
			continue
		}
		if _, err := a.SelfTest(t.Context(), operator, tt.name); err == nil || !strings.HasSuffix(err.Error(), tt.want) {
			t.Errorf("SelfTest of backend %q = %v, want %s", tt.name, err, tt.want)
		}
	}
}
