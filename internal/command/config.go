package command

import (
	"errors"
	"io/fs"

	"github.com/urfave/cli/v2"

	"github.com/keyward/keyward/internal/config"
	"github.com/keyward/keyward/internal/owned"
)

func (t *tool) configCommand() *cli.Command {
	return &cli.Command{
		Name:  "config",
		Usage: "check a configuration before the agent reads it",
		Subcommands: []*cli.Command{
			{
				Name:      "check",
				Usage:     "say whether a configuration is valid; needs no agent",
				ArgsUsage: "[FILE]",
				Action:    t.configCheck,
			},
			{
				Name: "diff", Usage: "say in which sections the configuration differs from FILE, and which keys only a start " +
					"puts into effect",
				ArgsUsage: "FILE",
				Action:    t.configDiff,
			},
		},
	}
}

// configFile is the agent's configuration file, or the one that is given.
func configFile(c *cli.Context) (string, error) {
	if c.Args().Len() > 1 {
		return "", usageError("unexpected argument %q", c.Args().Get(1))
	}
	if c.Args().Present() {
		return c.Args().First(), nil
	}
	dirs, err := config.FindDirs(c.String("dir"), true)
	return dirs.ConfigFile(), err
}

func (t *tool) configCheck(c *cli.Context) error {
	file, err := configFile(c)
	if err != nil {
		return err
	}
	conf, err := config.Load(file)
	if errors.Is(err, fs.ErrNotExist) {
		return withHint(err, "keyward init")
	}
	if err != nil {
		return err
	}
	if err := owned.Check(file); err != nil {
		return err
	}
	if c.Bool("json") {
		return t.printJSON(map[string]any{"ok": true, "file": file, "backends": len(conf.Backends),
			"chains": len(conf.Chains), "rules": len(conf.Rules)})
	}
	t.print("%s: valid, with %d backends, %d chains and %d guard rules", file, len(conf.Backends), len(conf.Chains),
		len(conf.Rules))
	return nil
}

func (t *tool) configDiff(c *cli.Context) error {
	args, err := operands(c, "FILE")
	if err != nil {
		return err
	}
	p, err := findPlace(c)
	if err != nil {
		return err
	}
	if p.conf == nil {
		return withHint(errors.New("no configuration that can be read in "+p.dirs.Config), "keyward init --dir %s",
			p.dirs.Config)
	}
	other, err := config.Load(args[0])
	if err != nil {
		return err
	}
	all := config.Differences(p.conf, other)
	start := config.NeedsStart(p.conf, other)
	if c.Bool("json") {
		return t.printJSON(map[string]any{"sections": append([]string{}, all...), "restart": append([]string{}, start...)})
	}
	if len(all) == 0 {
		t.print("no differences")
		return nil
	}
	for _, section := range all {
		t.print("differs  %s", section)
	}
	for _, key := range start {
		t.print("restart  %s", key)
	}
	if len(start) > 0 {
		t.note("reload refuses the file as a whole, because these keys take effect only when the agent is started again")
	}
	return nil
}
