package command

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"time"

	"github.com/keyward/keyward/audit"
	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/chain"
	"github.com/keyward/keyward/internal/config"
	"github.com/keyward/keyward/internal/confine"
	"github.com/keyward/keyward/session"
)

// checkSwap refuses a configuration that the running process can't change to, before anything is opened for it.
func (a *agent) checkSwap(old *agent, src *config.Source) error {
	for _, name := range slices.Sorted(maps.Keys(old.conf.Backends)) {
		if held := old.sessions.Holds(name); a.conf.Backends[name] == nil && len(held) > 0 {
			return src.Errorf("backends", "backend %q is missing, and %d sessions that have not ended have their keys there, "+
				"%s among them: keep its section, or revoke them first",
				name, len(held), held[0].ID)
		}
	}
	for _, name := range a.fresh(old) {
		if a.locked {
			return src.Errorf("backends."+name, "%v: a backend that is new or changed is tested before it is used, so unlock "+
				"the agent first", session.ErrLocked)
		}
		if err := a.checkAllowed(name); err != nil {
			return src.Errorf("backends."+name, "backend %q: %v", name, err)
		}
	}
	return a.checkMonitorsAllowed(old, src)
}

// gaveUp is the error for a path that the process gave up at its start.
func (p *process) gaveUp(path string) error {
	return fmt.Errorf("it needs %s, which the agent gave up when it started: start it again (%s)", path,
		startCommand(p.dirs))
}

// checkAllowed refuses a backend that needs files which the process gave up when it started.
func (a *agent) checkAllowed(name string) error {
	if a.allowed == nil {
		return nil
	}
	want := &confine.Rules{}
	if err := a.allowBackend(want, a.conf.Backends[name]); err != nil {
		return err
	}
	if path := a.allowed.Lacks(want.Existing()); path != "" {
		return a.gaveUp(path)
	}
	return nil
}

// checkMonitorsAllowed refuses a socket in a directory in which the process can't make one.
func (a *agent) checkMonitorsAllowed(old *agent, src *config.Source) error {
	if a.allowed == nil {
		return nil
	}
	for _, listen := range a.conf.Metrics.Listen {
		network, path, err := config.MetricsAddress(listen)
		if err != nil || network != "unix" || slices.Contains(old.conf.Metrics.Listen, listen) {
			continue
		}
		path, err = a.dirs.Socket(path)
		if err == nil {
			if lacks := a.allowed.Lacks(&confine.Rules{Sockets: []string{filepath.Dir(path)}}); lacks != "" {
				err = a.gaveUp(lacks)
			}
		}
		if err != nil {
			return src.Errorf("metrics.listen", "listen: %v", err)
		}
	}
	return nil
}

// mostKeys is how many sessions' keys a reload looks for in a backend.
const mostKeys = 100

// tryBackend refuses a backend that does not answer, that can't make a key and sign with it, or that lacks the key of a
// session. No key is made where one costs something. A backend that waits for the operator to type its PIN is not
// tried.
func (a *agent) tryBackend(ctx context.Context, name string) error {
	conf := a.conf.Backends[name]
	if p, ok := a.backends[name].Backend.(backends.Prober); ok {
		st := p.Status(ctx)
		if pin := conf.PIN(); st.State == "locked" && pin != nil && pin.Prompt {
			return nil
		}
		if st.State != "ready" {
			return errors.New(joined(st.State, st.Detail))
		}
	}
	if costs[conf.Type] == "" {
		if err := a.selfTest(ctx, name); err != nil {
			return err
		}
	}
	held := a.sessions.Holds(name)
	for _, sess := range held[max(0, len(held)-mostKeys):] {
		if err := a.sessions.FindKey(ctx, sess); err != nil {
			return err
		}
	}
	return nil
}

// selfTest has the backend make a key, sign with it and destroy it.
func (a *agent) selfTest(ctx context.Context, name string) error {
	self := audit.Peer{UID: uint32(os.Geteuid()), GID: uint32(os.Getegid()), PID: int32(os.Getpid())}
	test, err := a.sessions.SelfTest(ctx, self, name)
	if err != nil {
		return err
	}
	for _, step := range test.Steps {
		if step.Error != "" {
			return fmt.Errorf("its test failed to %s: %s", step.Name, step.Error)
		}
	}
	return nil
}

// chainPatience is how long a reload waits for the nodes of one chain.
const chainPatience = 10 * time.Second

// tryChains refuses nodes that are of another chain than the configuration says. Nodes that do not answer are no
// mistake of its.
func (a *agent) tryChains(ctx context.Context, old *agent, src *config.Source) error {
	for _, c := range a.clients {
		if reflect.DeepEqual(a.conf.Chains[c.Name()], old.conf.Chains[c.Name()]) {
			continue
		}
		ctx, cancel := context.WithTimeout(ctx, chainPatience)
		_, err := c.Head(ctx)
		cancel()
		if errors.Is(err, chain.ErrWrongChain) {
			return src.Errorf("chains."+c.Name()+".rpc", "chain %q: %v", c.Name(), err)
		}
		if err != nil {
			a.log.Warn("a chain of the new configuration can't be read", "chain", c.Name(), "error", err)
		}
	}
	return nil
}

// waitForPIN names the backends that wait for their PIN, in order.
func (a *agent) waitForPIN(ctx context.Context) (names []string) {
	for _, name := range slices.Sorted(maps.Keys(a.backends)) {
		p, ok := a.backends[name].Backend.(backends.Prober)
		if pin := a.conf.Backends[name].PIN(); ok && pin != nil && pin.Prompt && p.Status(ctx).State == "locked" {
			names = append(names, name)
		}
	}
	return names
}
