package command

import (
	"fmt"
	"maps"
	"slices"

	"github.com/urfave/cli/v2"

	"github.com/keyward/keyward/backends/pkcs11"
	"github.com/keyward/keyward/internal/config"
	"github.com/keyward/keyward/internal/secret"
)

func (t *tool) pkcs11Command() *cli.Command {
	return &cli.Command{
		Name:  "pkcs11",
		Usage: "set up PKCS#11 tokens",
		Subcommands: []*cli.Command{{
			Name: "wrap-key", Action: t.makeWrapKey,
			Usage: "make a key-encryption key in a token, for session keys of class wrapped",
			Description: `The key has an unwrap template and is trusted, which only the security officer can order: the command logs in as that, once. What the
template keeps the PIN's holder from is in docs/backends/pkcs11.md. The agent may run; the module is loaded in this process, which needs the rights of the agent's.`,
			Flags: []cli.Flag{
				&cli.StringFlag{Name: "backend", Usage: "the `NAME` of the token's backend in the configuration (default: the " +
					"only one of type pkcs11)"},
				&cli.StringFlag{Name: "label", Required: true, Usage: "`LABEL` of the key, which is then kek in the configuration"},
				&cli.StringFlag{Name: "so-pin-file", Required: true, TakesFile: true,
					Usage: "`FILE` with the security officer's PIN"},
				&cli.BoolFlag{Name: "movable", Usage: "let key rewrap hand wrapped keys over to another such key; without it " +
					"they never leave this one"},
			},
		}},
	}
}

func (t *tool) makeWrapKey(c *cli.Context) error {
	if err := required(c); err != nil {
		return err
	}
	p, err := findPlace(c)
	if err != nil {
		return err
	}
	name, settings, err := p.pkcs11Backend(c.String("backend"))
	if err != nil {
		return err
	}
	env, err := moduleEnv(p.dirs, settings.Env)
	if err != nil {
		return err
	}
	kek := pkcs11.KEK{
		Module: p.dirs.Path(settings.Module), Env: env, Token: settings.Token, Serial: settings.Serial,
		Label: c.String("label"), Movable: c.Bool("movable"), SOPIN: secret.FromFile(c.String("so-pin-file")),
	}
	if err := kek.Make(c.Context); err != nil {
		return err
	}
	t.note("made the key %q; to wrap session keys with it, set in [backends.%s]: class = \"wrapped\", kek = %q", kek.Label,
		name, kek.Label)
	return nil
}

// pkcs11Backend is the backend of that name, or the only one of type pkcs11.
func (p *place) pkcs11Backend(name string) (string, *config.PKCS11, error) {
	var names []string
	for _, n := range slices.Sorted(maps.Keys(p.backends())) {
		if _, ok := p.backends()[n].Settings.(*config.PKCS11); ok && (name == "" || n == name) {
			names = append(names, n)
		}
	}
	switch len(names) {
	case 1:
		return names[0], p.backends()[names[0]].Settings.(*config.PKCS11), nil
	case 0:
		return "", nil, fmt.Errorf("the configuration has no backend %s of type pkcs11", name)
	}
	return "", nil, usageError("say which backend: --backend %s", names[0])
}
