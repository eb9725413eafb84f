package command

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/keyward/keyward/internal/config"
	"github.com/keyward/keyward/internal/durable"
)

// softHSMConf is the variable with the path of SoftHSM's configuration (softhsm2.conf(5)).
const softHSMConf = "SOFTHSM2_CONF"

// tokenDir is the line of softhsm2.conf that says where the tokens are.
var tokenDir = regexp.MustCompile(`(?m)^[ \t]*directories\.tokendir[ \t]*=[ \t]*(.*?)[ \t]*$`)

// moduleEnv returns the environment for a PKCS#11 module. An agent's directory with a SoftHSM token can be moved as a
// whole, though SoftHSM takes absolute paths only: a relative SOFTHSM2_CONF starts from the configuration's directory,
// and softhsm2.conf is written again if its tokens have moved with it.
func moduleEnv(dirs config.Dirs, env map[string]string) (map[string]string, error) {
	conf := env[softHSMConf]
	if conf == "" {
		return env, nil
	}
	path := dirs.Path(conf)
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) && filepath.Base(path) == "softhsm2.conf" {
		// Configurations from before keyward 0.4 have an absolute path, which a move makes wrong.
		if moved := dirs.Path("softhsm/softhsm2.conf"); isFile(moved) {
			path = moved
		}
	}
	if err := followTokens(dirs, path); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	env = maps.Clone(env)
	env[softHSMConf] = path
	return env, nil
}

// followTokens has the softhsm2.conf at path name the directory tokens beside it, if there is one and the file names a
// directory of that name elsewhere. It changes only a file in the agent's own directories.
func followTokens(dirs config.Dirs, path string) error {
	tokens := filepath.Join(filepath.Dir(path), "tokens")
	if !below(dirs.Config, path) && !below(dirs.State, path) || !isDir(tokens) {
		return nil
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	named := tokenDir.FindSubmatch(data)
	if named == nil || string(named[1]) == tokens || filepath.Base(string(named[1])) != "tokens" {
		return nil
	}
	if strings.ContainsAny(tokens, "\n#") {
		return fmt.Errorf("softhsm2.conf can't express the directory %q", tokens)
	}
	line := []byte("directories.tokendir = " + tokens)
	return durable.WriteFile(path, tokenDir.ReplaceAllLiteral(data, line), 0o600)
}

func below(dir, path string) bool {
	rel, err := filepath.Rel(dir, path)
	return err == nil && filepath.IsLocal(rel)
}

func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}

func isDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}
