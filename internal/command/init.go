package command

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/urfave/cli/v2"

	"github.com/keyward/keyward/backends/pkcs11"
	"github.com/keyward/keyward/internal/config"
	"github.com/keyward/keyward/internal/durable"
)

func (t *tool) initCommand() *cli.Command {
	return &cli.Command{
		Name:  "init",
		Usage: "make an agent's directory with a configuration",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "softhsm", Usage: "with a fresh SoftHSM token, ready to run; for development and CI"},
		},
		Action: t.init,
	}
}

func (t *tool) init(c *cli.Context) error {
	if err := required(c); err != nil {
		return err
	}
	dirs, err := config.FindDirs(c.String("dir"), false)
	if err != nil {
		return err
	}
	if dirs.Configured() {
		return withHint(fmt.Errorf("%s is there already", dirs.ConfigFile()), "keyward serve --dir %s", dirs.Config)
	}
	if _, err := dirs.Socket(config.Defaults().Agent.AdminSocket); err != nil {
		return err
	}
	if err := makeAgent(dirs, c.Bool("softhsm")); err != nil {
		return fmt.Errorf("making an agent in %s: %w", dirs.Config, err)
	}
	if c.Bool("json") {
		return t.printJSON(map[string]string{"dir": dirs.Config, "config": dirs.ConfigFile()})
	}
	t.print("%s", dirs.ConfigFile())
	if !c.Bool("softhsm") {
		t.note("fill in module, token and where the PIN comes from, then:")
	}
	t.hint("keyward serve --dir %s", dirs.Config)
	return nil
}

// makeAgent makes the directories, the token if one is wanted and, last, the configuration;
// all are on disk when it returns. When it fails it leaves nothing behind that it made.
func makeAgent(dirs config.Dirs, softHSM bool) (err error) {
	var made []string
	defer func() {
		if err != nil {
			for _, dir := range made {
				err = errors.Join(err, os.RemoveAll(dir))
			}
		}
	}()
	for _, dir := range []string{dirs.Config, dirs.State} {
		isNew, err := makeDir(dir)
		if isNew {
			made = append(made, dir)
		}
		if err != nil {
			return err
		}
	}
	name, backend := "hsm", config.NewBackend("pkcs11")
	if softHSM {
		dir := filepath.Join(dirs.Config, "softhsm")
		name = "softhsm"
		// A token that is there holds keys, so it is not ours to use or to clean up.
		if err := os.Mkdir(dir, 0o700); err != nil {
			return err
		}
		made = append(made, dir)
		if backend, err = softHSMBackend(dirs, dir); err != nil {
			return err
		}
	}
	return durable.WriteFile(dirs.ConfigFile(), config.Template(name, backend), 0o600)
}

// makeDir makes a directory for its owner only, if it is not there.
func makeDir(dir string) (isNew bool, err error) {
	_, err = os.Stat(dir)
	isNew = errors.Is(err, fs.ErrNotExist)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return isNew, err
	}
	return isNew, durable.SyncDir(filepath.Dir(dir))
}

// softHSMBackend makes a token in dir and returns the configuration for it.
func softHSMBackend(dirs config.Dirs, dir string) (*config.Backend, error) {
	module, err := pkcs11.FindSoftHSMModule()
	if err != nil {
		return nil, err
	}
	token, err := pkcs11.NewSoftHSMToken(dir, "keyward", module)
	if err != nil {
		return nil, err
	}
	if err := syncTree(dir); err != nil {
		return nil, err
	}
	pin, err := filepath.Rel(dirs.Config, token.PINFile)
	if err != nil {
		return nil, err
	}
	b := config.NewBackend("pkcs11")
	c := b.Settings.(*config.PKCS11)
	c.Module, c.Token, c.Serial, c.Env = module, token.Label, token.Serial, token.Env()
	c.PIN.File = pin
	return b, nil
}

// syncTree puts everything below dir on disk. SoftHSM itself does not.
func syncTree(dir string) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			return durable.SyncDir(path)
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		return errors.Join(f.Sync(), f.Close())
	})
}
