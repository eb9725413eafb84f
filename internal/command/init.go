package command

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"

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
			&cli.BoolFlag{Name: "tpm", Usage: "with a key in the machine's TPM that session keys are sealed to, ready to " +
				"run; keyward tpm setup makes one with a PIN"},
			tpmDeviceFlag(),
		},
		Action: t.init,
	}
}

func (t *tool) init(c *cli.Context) error {
	if err := required(c); err != nil {
		return err
	}
	if c.Bool("softhsm") && c.Bool("tpm") {
		return usageError("--softhsm and --tpm: give one of them; the other backend can be added to the configuration later")
	}
	if c.IsSet("tpm-device") && !c.Bool("tpm") {
		return usageError("--tpm-device is for --tpm")
	}
	dirs, err := config.FindDirs(c.String("dir"), false)
	if err != nil {
		return err
	}
	if dirs.Configured() {
		return withHint(fmt.Errorf("%s is there already", dirs.ConfigFile()), "%s", startCommand(dirs))
	}
	if err := checkSystemInit(dirs); err != nil {
		return err
	}
	if _, err := dirs.Socket(config.Defaults().Agent.AdminSocket); err != nil {
		return err
	}
	if err := t.makeAgent(c, dirs); err != nil {
		return fmt.Errorf("making an agent in %s: %w", dirs.Config, err)
	}
	if c.Bool("json") {
		return t.printJSON(map[string]string{"dir": dirs.Config, "config": dirs.ConfigFile()})
	}
	t.print("%s", dirs.ConfigFile())
	if !c.Bool("softhsm") && !c.Bool("tpm") {
		t.note("fill in module, token and where the PIN comes from, then:")
	}
	if dirs.System() {
		if c.Bool("tpm") {
			t.hint("let the service open the TPM: usermod -a -G tss %s", serviceUser)
		}
		t.hint("systemctl enable --now keyward.socket keyward-admin.socket keyward.service")
		return nil
	}
	t.hint("keyward serve --dir %s", dirs.Config)
	return nil
}

// serviceUser is the user whom the system's agent runs as, and that user's group.
const serviceUser = "keyward"

// checkSystemInit refuses to make a system's agent that its service could not use.
func checkSystemInit(dirs config.Dirs) error {
	if !dirs.System() {
		return nil
	}
	if os.Geteuid() != 0 {
		return withHint(fmt.Errorf("%s is the system's agent, which only root makes", dirs.Config),
			"sudo keyward init --dir %s", dirs.Config)
	}
	if _, err := user.Lookup(serviceUser); err != nil {
		return fmt.Errorf("the system's agent runs as the user %s, which does not exist: install the package keyward, or "+
			"give a --dir of your own", serviceUser)
	}
	return nil
}

// handOver gives the system's agent to its service: the configuration is root's and the service reads it; the state is
// the service's.
func handOver(dirs config.Dirs) error {
	u, err := user.Lookup(serviceUser)
	if err != nil {
		return err
	}
	uid, err := strconv.Atoi(u.Uid)
	if err != nil {
		return err
	}
	gid, err := strconv.Atoi(u.Gid)
	if err != nil {
		return err
	}
	err = errors.Join(
		os.Chown(dirs.Config, 0, gid), os.Chmod(dirs.Config, 0o750),
		os.Chown(dirs.ConfigFile(), 0, gid), os.Chmod(dirs.ConfigFile(), 0o640))
	if err != nil {
		return err
	}
	return filepath.WalkDir(dirs.State, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, uid, gid)
	})
}

// makeAgent makes the directories, the token or the TPM's key if one is wanted and, last, the configuration;
// all are on disk when it returns. When it fails it leaves nothing behind that it made.
func (t *tool) makeAgent(c *cli.Context, dirs config.Dirs) (err error) {
	var undo []func() error
	defer func() {
		if err == nil {
			return
		}
		for _, f := range slices.Backward(undo) {
			err = errors.Join(err, f())
		}
	}()
	remove := func(dir string) func() error { return func() error { return os.RemoveAll(dir) } }
	for _, dir := range []string{dirs.Config, dirs.State} {
		isNew, err := makeDir(dir)
		if isNew {
			undo = append(undo, remove(dir))
		}
		if err != nil {
			return err
		}
	}
	name, backend, cleanup, err := t.firstBackend(c, dirs)
	undo = append(undo, cleanup)
	if err != nil {
		return err
	}
	if err := durable.WriteFile(dirs.ConfigFile(), config.Template(name, backend), 0o600); err != nil {
		return err
	}
	if !dirs.System() {
		return nil
	}
	if err := handOver(dirs); err != nil {
		return errors.Join(err, os.Remove(dirs.ConfigFile()))
	}
	return nil
}

// firstBackend makes the device's part of the backend that the configuration begins with. cleanup undoes that, whatever
// err is.
func (t *tool) firstBackend(c *cli.Context, dirs config.Dirs) (name string, b *config.Backend, cleanup func() error,
	err error) {
	cleanup = func() error { return nil }
	switch {
	case c.Bool("softhsm"):
		dir := filepath.Join(dirs.Config, "softhsm")
		if dirs.System() { // the module writes to it
			dir = filepath.Join(dirs.State, "softhsm")
		}
		// A token that is there holds keys, so it is not ours to use or to clean up.
		if err := os.Mkdir(dir, 0o700); err != nil {
			return "", nil, cleanup, err
		}
		b, err = softHSMBackend(dirs, dir)
		return "softhsm", b, func() error { return os.RemoveAll(dir) }, err
	case c.Bool("tpm"):
		name = "tpm"
		b, deleteKey, err := (&tpmSetup{tool: t, dirs: dirs, name: name,
			device: c.String("tpm-device")}).makeBackend(c.Context)
		if err == nil {
			cleanup = deleteKey
		}
		return name, b, cleanup, err
	}
	return "hsm", config.NewBackend("pkcs11"), cleanup, nil
}

// makeDir makes a directory for its owner only, if it is not there.
func makeDir(dir string) (isNew bool, err error) {
	_, err = os.Stat(dir)
	isNew = errors.Is(err, fs.ErrNotExist)
	return isNew, durable.MkdirAll(dir, 0o700)
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
	b := config.NewBackend("pkcs11")
	c := b.Settings.(*config.PKCS11)
	c.Module, c.Token, c.Serial, c.Env = module, token.Label, token.Serial, token.Env()
	c.Env[softHSMConf] = fromConfig(dirs, token.Conf)
	c.PIN.File = fromConfig(dirs, token.PINFile)
	return b, nil
}

// fromConfig is path as the configuration has it: relative below its own directory, so that the directory can be moved.
func fromConfig(dirs config.Dirs, path string) string {
	if rel, err := filepath.Rel(dirs.Config, path); err == nil && filepath.IsLocal(rel) {
		return rel
	}
	return path
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
