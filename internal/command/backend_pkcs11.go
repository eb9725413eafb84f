package command

import (
	"context"
	"encoding/json"
	"os"
	"time"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/backends/isolated"
	"github.com/keyward/keyward/backends/pkcs11"
	"github.com/keyward/keyward/internal/config"
	"github.com/keyward/keyward/internal/secret"
)

// pkcs11Settings cross to the child. There is no secret among them.
type pkcs11Settings struct {
	Module, Token, Serial, Slot string
	Env                         map[string]string
	Sessions                    int
	Timeout                     time.Duration

	// Of class wrapped.
	KEK     string // "": the class is resident
	Dir     string
	Objects int
}

// openPKCS11 opens the token in a child process, unless the configuration says that its module runs in the agent.
func (a *agent) openPKCS11(ctx context.Context, name string, b *config.Backend) (backends.Backend, error) {
	c := b.Settings.(*config.PKCS11)
	env, err := moduleEnv(a.dirs, c.Env)
	if err != nil {
		return nil, a.placed(err, "backends", name, "env")
	}
	s := pkcs11Settings{Module: a.dirs.Path(c.Module), Token: c.Token, Serial: c.Serial, Slot: c.Slot, Env: env,
		Sessions: c.Sessions, Timeout: b.Timeout}
	rules := a.moduleRules(&s)
	if c.Class == "wrapped" {
		s.KEK, s.Dir, s.Objects = c.KEK, a.dirs.Keys(name), c.Objects
		if err := os.MkdirAll(s.Dir, 0o700); err != nil { // a rule is for what exists
			return nil, err
		}
		rules.Write = append(rules.Write, s.Dir)
	}
	pins := a.asLocked(secret.NewKeeper(pinSource(a.dirs, name, "", &c.PIN), secret.UntilLock).MarkIn(a.dirs.PINTries()))
	if c.Process == config.AgentProcess {
		cfg := s.config(name)
		cfg.PINs, cfg.Locked, cfg.Logger = pins, a.locked, a.log
		return s.open(ctx, cfg)
	}
	return isolated.Open(ctx, isolated.Config{
		Name: name, Type: b.Type, Settings: s,
		Subject: "the PKCS#11 module " + s.Module, Unlocks: true, Rewraps: s.KEK != "",
		PINs:    pins,
		Timeout: b.Timeout,
		HideEnv: pinEnv(a.conf),
		Confine: rules,
		Logger:  a.log,
	})
}

// servePKCS11 opens it in the child.
func servePKCS11(ctx context.Context, name string, settings json.RawMessage, env *isolated.Env) (backends.Backend,
	error) {
	var s pkcs11Settings
	if err := isolated.Decode(settings, &s); err != nil {
		return nil, err
	}
	cfg := s.config(name)
	cfg.PINs, cfg.OnHang, cfg.Logger = env.PINs, env.Hung, env.Logger
	return s.open(ctx, cfg)
}

// open opens the backend of the class.
func (s *pkcs11Settings) open(ctx context.Context, cfg pkcs11.Config) (backends.Backend, error) {
	if s.KEK == "" {
		return pkcs11.Open(ctx, cfg)
	}
	return pkcs11.OpenWrapped(ctx, pkcs11.WrappedConfig{Config: cfg, KEK: s.KEK, Dir: s.Dir, Objects: s.Objects})
}

// config is what both ways have in common.
func (s *pkcs11Settings) config(name string) pkcs11.Config {
	return pkcs11.Config{
		Name: name, Module: s.Module, Env: s.Env,
		TokenLabel: s.Token, TokenSerial: s.Serial, Slot: s.Slot,
		Sessions: s.Sessions, OpTimeout: s.Timeout,
	}
}
