package command

import (
	"log/slog"
	"maps"
	"slices"

	"github.com/keyward/keyward/chain"
	"github.com/keyward/keyward/internal/config"
	"github.com/keyward/keyward/policy"
	"github.com/keyward/keyward/session"
)

// openWatcher makes the watcher of the chains that have an rpc in the configuration. It knows what before, which may be
// nil, knows. Nobody is contacted yet.
func (a *agent) openWatcher(before *session.Watcher) error {
	var chains []session.WatchedChain
	for _, name := range slices.Sorted(maps.Keys(a.conf.Chains)) {
		c := a.conf.Chains[name]
		if len(c.RPC) == 0 {
			continue
		}
		client, err := chain.New(chainConfig(name, c, a.log))
		if err != nil {
			return err
		}
		a.clients = append(a.clients, client)
		chains = append(chains, session.WatchedChain{
			Client: client, Validator: c.Validator,
			Registry: c.ID == policy.ProductionChain && !c.Registry.IsZero(),
		})
	}
	w := a.conf.Watch
	a.watcher = before.With(a.sessions, session.WatchConfig{
		Interval: w.Interval, ClockBound: w.ClockBound,
		RegistryInterval: w.RegistryInterval, RegistryMaxAge: w.RegistryMaxAge,
		StopOnExternalUse: w.ExternalUsage == "stop",
	}, chains)
	return nil
}

// chainConfig is a chain as its client needs it.
func chainConfig(name string, c *config.Chain, log *slog.Logger) chain.Config {
	return chain.Config{
		Name: name, ID: c.ID, Endpoints: c.RPC,
		Validator: c.Validator, Registry: c.Registry, Multicall: c.Multicall,
		Confirmations: c.Confirmations, Timeout: c.RPCTimeout, Attempts: c.RPCAttempts, Rate: float64(c.RPCRate),
		MaxResponse: int64(c.RPCMaxBytes), LogRange: c.RPCLogRange, FirstBlock: c.FirstBlock, Logger: log,
	}
}
