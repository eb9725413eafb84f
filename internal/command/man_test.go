package command

import (
	"bytes"
	"os/exec"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"
)

// The manual page has every command and every flag, and man(1) formats it without a complaint.
func TestManPage(t *testing.T) {
	var page bytes.Buffer
	app := (&tool{}).app()
	manPage(&page, app)
	format := exec.Command("man", "--warnings=w", "-E", "UTF-8", "-l", "-")
	format.Env = append(format.Environ(), "MANWIDTH=400", "MAN_KEEP_FORMATTING=", "LC_ALL=C.UTF-8", "MANPAGER=cat")
	format.Stdin = bytes.NewReader(page.Bytes())
	var complaints bytes.Buffer
	format.Stderr = &complaints
	out, err := format.Output()
	if err != nil || complaints.Len() > 0 {
		t.Fatalf("man: %v\n%s", err, complaints.String())
	}
	text := string(out)
	var check func(path string, commands []*cli.Command)
	check = func(path string, commands []*cli.Command) {
		for _, c := range commands {
			name := path + " " + c.Name
			if len(c.Subcommands) > 0 {
				check(name, c.Subcommands)
				continue
			}
			at := strings.Index(text, "\n   "+name)
			if at < 0 {
				t.Errorf("the page lacks %q", name)
				continue
			}
			for _, f := range c.Flags {
				if !strings.Contains(text, "--"+f.Names()[0]) {
					t.Errorf("the page lacks --%s of %q", f.Names()[0], name)
				}
			}
		}
	}
	check("keyward", app.Commands)
}
