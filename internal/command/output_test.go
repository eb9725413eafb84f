package command

import (
	"bytes"
	"testing"
)

// TestHints: what an agent says to type can be typed where the command was.
func TestHints(t *testing.T) {
	for _, tt := range []struct {
		args       []string
		hint, want string
	}{
		{[]string{"sign"}, "keyward unlock", "keyward: hint: keyward unlock\n"},
		{[]string{"--dir", "d", "sign"}, "keyward unlock", "keyward: hint: keyward unlock --dir d\n"},
		{[]string{"sign", "--dir=d"}, "keyward serve --dir e", "keyward: hint: keyward serve --dir e\n"},
		{[]string{"sign", "--dir", "d"}, "set the clock right; keyward status says by how much it is off",
			"keyward: hint: set the clock right; keyward status says by how much it is off\n"},
		{[]string{"session", "list", "--dir", "d"}, "keyward session", "keyward: hint: keyward session --dir d\n"},
		{[]string{"unlock", "--dir", "d"}, "keyward unlock", ""},
		{[]string{"sign"}, "", ""},
	} {
		var out bytes.Buffer
		tool := &tool{stdout: &out, stderr: &out}
		args, err := arrange(tool.app(), tt.args)
		if err != nil {
			t.Fatal(err)
		}
		tool.command, tool.dir = commandOf(args)
		tool.hint("%s", tt.hint)
		if out.String() != tt.want {
			t.Errorf("%q after %q is %q, want %q", tt.hint, tt.args, out.String(), tt.want)
		}
	}
}
