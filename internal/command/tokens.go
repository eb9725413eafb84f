package command

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/keyward/keyward/backends/pkcs11"
	"github.com/keyward/keyward/internal/config"
)

// moduleTokens is what backend list --tokens prints of a backend.
type moduleTokens struct {
	Backend string         `json:"backend"`
	Module  string         `json:"module"`
	Tokens  []pkcs11.Token `json:"tokens"`
	Error   string         `json:"error,omitempty"`
}

// tokenList shows the tokens of the modules in the configuration. The modules run in this process, which needs the
// rights of the agent's.
func (t *tool) tokenList(c *cli.Context) error {
	p, err := findPlace(c)
	if err != nil {
		return err
	}
	list := []moduleTokens{}
	for _, name := range slices.Sorted(maps.Keys(p.backends())) {
		settings, ok := p.backends()[name].Settings.(*config.PKCS11)
		if !ok {
			continue
		}
		m := moduleTokens{Backend: name, Module: p.dirs.Path(settings.Module), Tokens: []pkcs11.Token{}}
		found, err := p.tokens(settings)
		if err != nil {
			m.Error = err.Error()
		} else if found != nil {
			m.Tokens = found
		}
		list = append(list, m)
	}
	if c.Bool("json") {
		return t.printJSON(list)
	}
	if len(list) == 0 {
		t.note("the configuration has no backend of type pkcs11")
		return nil
	}
	return t.printTokens(list)
}

// tokens lists the tokens of a backend's module.
func (p *place) tokens(settings *config.PKCS11) ([]pkcs11.Token, error) {
	env, err := moduleEnv(p.dirs, settings.Env)
	if err != nil {
		return nil, err
	}
	return pkcs11.Tokens(p.dirs.Path(settings.Module), env)
}

func (t *tool) printTokens(list []moduleTokens) error {
	for _, m := range list {
		t.print("%s: %s", m.Backend, m.Module)
		switch {
		case m.Error != "":
			t.print("  failed: %s", m.Error)
		case len(m.Tokens) == 0:
			t.print("  no token")
		}
		for _, token := range m.Tokens {
			t.print("  label  %q  serial %q", token.Label, token.Serial)
			t.print("         slot %q, %s", token.Slot, strings.TrimSpace(fmt.Sprintf("%s %s", token.Manufacturer, token.Model)))
			t.print("         %s", strings.Join(token.Flags, ", "))
		}
	}
	return nil
}
