package command

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/keyward/keyward/internal/config"
	"github.com/keyward/keyward/internal/confine"
	"github.com/keyward/keyward/internal/durable"
)

// systemFiles are where libraries, their configuration, certificates, time zones and the kernel's own files are.
var systemFiles = []string{"/usr", "/lib", "/lib32", "/lib64", "/bin", "/etc", "/opt", "/nix", "/proc", "/sys", "/run"}

// systemDevices are nodes that every program may need, and those that HSMs, TPMs and smart cards have.
var systemDevices = []string{
	"/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/bus", "/dev/usb", "/dev/hidraw*",
	"/dev/tpm*",
}

// confine takes from the agent, when its configuration is known and before it opens anything, what neither it nor a
// process of its devices needs: those are confined by its rules, too.
func (a *agent) confine() error {
	if err := durable.MkdirAll(a.dirs.State, 0o700); err != nil { // a rule is for what exists
		return err
	}
	for _, pattern := range systemDevices {
		found, _ := filepath.Glob(pattern) // the patterns are well-formed
		a.devices = append(a.devices, found...)
	}
	rules, err := a.rules()
	if err != nil {
		return err
	}
	on, missing, err := confine.Apply(*rules)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(on, func(name string) bool { return strings.HasPrefix(name, "landlock") }) {
		a.allowed = rules.Existing()
	}
	a.protections = append([]string{"no core dumps", "not traceable"}, on...)
	a.log.Info("the agent is confined", "by", strings.Join(a.protections, ", "))
	for _, what := range missing {
		a.log.Warn("the agent is less confined than it could be", "reason", what)
	}
	return nil
}

// rules are what the agent may do, and the most that a process of its devices may.
func (a *agent) rules() (*confine.Rules, error) {
	r := a.commonRules()
	r.Read = append(r.Read, a.dirs.Config, os.Getenv("CREDENTIALS_DIRECTORY"))
	r.Read = append(r.Read, namedByEnv()...)
	r.Write = append(r.Write, a.dirs.State)
	paths := []string{a.conf.Agent.Socket, a.conf.Agent.AdminSocket}
	for _, listen := range a.conf.Metrics.Listen {
		if network, path, err := config.MetricsAddress(listen); err == nil && network == "unix" {
			paths = append(paths, path)
		}
	}
	for _, path := range paths {
		socket, err := a.dirs.Socket(path)
		if err != nil {
			return nil, err
		}
		r.Sockets = append(r.Sockets, filepath.Dir(socket))
	}
	for name, b := range a.conf.Backends {
		if err := a.allowBackend(r, b); err != nil {
			return nil, a.placed(fmt.Errorf("backend %q: %w", name, err), "backends", name, "env")
		}
	}
	if err := a.allowApproval(r); err != nil {
		return nil, err
	}
	self, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return nil, err
	}
	r.Execute = append(r.Execute, "/proc/self/exe", confine.Loader(self))
	r.Read = append(r.Read, filepath.Dir(self))
	return r, nil
}

// commonRules are what the agent and each process of a device may do.
func (a *agent) commonRules() *confine.Rules {
	c := a.conf.Confine
	r := &confine.Rules{Read: slices.Clone(systemFiles), NoFiles: !c.Files, NoCalls: !c.Calls}
	r.Devices = append(r.Devices, a.devices...)
	r.Read = append(r.Read, a.paths(c.Read)...)
	r.Write = append(r.Write, a.paths(c.Write)...)
	r.Devices = append(r.Devices, a.paths(c.Devices)...)
	for _, program := range a.paths(c.Execute) {
		r.Execute = append(r.Execute, program, confine.Loader(program))
	}
	return r
}

func (a *agent) paths(configured []string) []string {
	paths := make([]string, 0, len(configured))
	for _, p := range configured {
		paths = append(paths, a.dirs.Path(p))
	}
	return paths
}

// allowBackend adds what a backend needs in the agent: its PIN's directory, since an editor puts a new file into it,
// and the files of its section.
func (a *agent) allowBackend(r *confine.Rules, b *config.Backend) error {
	if pin := b.PIN(); pin != nil && pin.File != "" {
		r.Read = append(r.Read, filepath.Dir(a.dirs.Path(pin.File)))
	}
	home, _ := os.UserHomeDir() // without one there are no files in it
	switch c := b.Settings.(type) {
	case *config.PKCS11:
		env, err := moduleEnv(a.dirs, c.Env)
		if err != nil {
			return err
		}
		a.allowModule(r, a.dirs.Path(c.Module), env)
	case *config.PIV:
		r.Read = append(r.Read, a.dirs.Path(c.Attestation))
		if c.Roots != "" {
			r.Read = append(r.Read, a.dirs.Path(c.Roots))
		}
	case *config.TPM:
		r.Devices = append(r.Devices, a.dirs.Path(c.Device))
	case *config.OpenPGP:
		if c.AdminPIN.File != "" {
			r.Read = append(r.Read, filepath.Dir(a.dirs.Path(c.AdminPIN.File)))
		}
	case *config.Transit:
		for _, path := range []string{c.SecretFile, c.CAFile} {
			if path != "" { // the directory, since another program may put a new file into it
				r.Read = append(r.Read, filepath.Dir(a.dirs.Path(path)))
			}
		}
	case *config.AWSKMS:
		r.Read = append(r.Read, filepath.Join(home, ".aws"))
	case *config.GCPKMS:
		r.Read = append(r.Read, filepath.Join(home, ".config", "gcloud"))
	case *config.AzureKV:
		r.Read = append(r.Read, filepath.Join(home, ".azure"))
	}
	return nil
}

// allowModule adds what a PKCS#11 library needs: itself, files and directories that its environment names, and
// SoftHSM's tokens.
func (a *agent) allowModule(r *confine.Rules, module string, env map[string]string) {
	r.Read = append(r.Read, filepath.Dir(module))
	for _, value := range env {
		if filepath.IsAbs(value) {
			r.Read = append(r.Read, value)
		}
	}
	home, _ := os.UserHomeDir()
	own := filepath.Join(home, ".config", "softhsm2", "softhsm2.conf")
	confs := []string{own, "/etc/softhsm/softhsm2.conf", "/etc/softhsm2.conf"}
	for _, conf := range []string{os.Getenv(softHSMConf), env[softHSMConf]} {
		if conf != "" {
			confs = []string{conf}
		}
	}
	for _, conf := range confs {
		r.Read = append(r.Read, conf)
		if dir := softHSMTokens(conf); dir != "" {
			r.Write = append(r.Write, dir)
		}
	}
}

// moduleRules are those of a process with a PKCS#11 library in it.
func (a *agent) moduleRules(s *pkcs11Settings) *confine.Rules {
	r := a.commonRules()
	a.allowModule(r, s.Module, s.Env)
	return r
}

// cardRules are those of a process that talks to a smart card, by a socket of pcscd's, and keeps these files.
func (a *agent) cardRules(write ...string) *confine.Rules {
	r := a.commonRules()
	r.Write = append(r.Write, write...)
	r.NoTCP = true
	return r
}

// softHSMTokens is where SoftHSM keeps its tokens, by its configuration file (softhsm2.conf(5)); "": it does not say.
func softHSMTokens(conf string) string {
	data, err := os.ReadFile(conf)
	if err != nil {
		return ""
	}
	named := tokenDir.FindSubmatch(data)
	if named == nil {
		return ""
	}
	return string(named[1])
}

// namedByEnv are the files, no directories, that environment variables name: credentials of clouds, certificates,
// configurations.
func namedByEnv() []string {
	paths := map[string]bool{}
	for _, variable := range os.Environ() {
		_, value, _ := strings.Cut(variable, "=")
		if info, err := os.Stat(value); filepath.IsAbs(value) && err == nil && info.Mode().IsRegular() {
			paths[value] = true
		}
	}
	return slices.Sorted(maps.Keys(paths))
}
