package config

import (
	"os"
	"path/filepath"
	"testing"
)

// Whatever is wrong with a configuration, the paths of the sockets that can be read in it are used.
func TestSockets(t *testing.T) {
	def := Defaults().Agent
	for _, tc := range []struct{ name, text, socket, admin string }{
		{"good", "[agent]\nsocket = \"/run/a\"\nadmin_socket = \"/run/b\"\n", "/run/a", "/run/b"},
		{"unknown key", "[agent]\ntypo = 1\nsocket = \"/run/a\"\n", "/run/a", def.AdminSocket},
		{"no TOML after it", "[agent]\nadmin_socket = \"/run/b\"\n[backends.x\n", def.Socket, "/run/b"},
		{"no TOML before it", "oops\n[agent]\nsocket = \"/run/a\"\n", def.Socket, def.AdminSocket},
		{"of another type", "[agent]\nsocket = 7\n", def.Socket, def.AdminSocket},
		{"no TOML without an end of line", "[agent", def.Socket, def.AdminSocket},
		{"empty", "", def.Socket, def.AdminSocket},
	} {
		t.Run(tc.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "config.toml")
			if err := os.WriteFile(path, []byte(tc.text), 0o600); err != nil {
				t.Fatal(err)
			}
			if got := Sockets(path); got.Socket != tc.socket || got.AdminSocket != tc.admin {
				t.Errorf("Sockets = %q, %q, want %q, %q", got.Socket, got.AdminSocket, tc.socket, tc.admin)
			}
		})
	}
	if got := Sockets(filepath.Join(t.TempDir(), "none")); got.Socket != def.Socket {
		t.Errorf("without a file: %q, want the default", got.Socket)
	}
}
