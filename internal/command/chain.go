package command

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/keyward/keyward/chain"
	"github.com/keyward/keyward/internal/config"
	"github.com/keyward/keyward/policy"
)

func (t *tool) chainCommand() *cli.Command {
	return &cli.Command{
		Name:  "chain",
		Usage: "see how the agent reads its chains",
		Subcommands: []*cli.Command{{
			Name:      "check",
			Usage:     "ask the nodes of each chain: right chain, clock, and which policy registry is live and populated",
			ArgsUsage: "[NAME]",
			Action:    t.chainCheck,
		}},
	}
}

// chainReport is what chain check found. It asks the nodes itself: no agent has to run.
type chainReport struct {
	Name        string           `json:"name"`
	ID          uint64           `json:"id"`
	Offline     bool             `json:"offline,omitempty"` // no rpc is configured
	Error       string           `json:"error,omitempty"`
	Block       uint64           `json:"block,omitempty"`
	BlockTime   *time.Time       `json:"blockTime,omitempty"`
	ClockOffset string           `json:"clockOffset,omitempty"` // this machine's clock less the block's time
	Registries  []registryReport `json:"registries,omitempty"`
}

type registryReport struct {
	Name      string         `json:"name"`
	Address   policy.Address `json:"address"`
	InUse     bool           `json:"inUse"` // the one that the configuration names
	Live      bool           `json:"live"`
	Populated bool           `json:"populated"`
	Detail    string         `json:"detail,omitempty"`
}

func (t *tool) chainCheck(c *cli.Context) error {
	args := c.Args().Slice()
	if len(args) > 1 {
		return usageError("chain check takes one chain at most")
	}
	p, err := findPlace(c)
	if err != nil {
		return err
	}
	if p.conf == nil {
		p.conf = config.Defaults()
	}
	names := slices.Sorted(maps.Keys(p.conf.Chains))
	if len(args) == 1 {
		name, _, err := p.chain(args[0])
		if err != nil {
			return usageError("%v", err)
		}
		names = []string{name}
	}
	var reports []*chainReport
	var failed []error
	for _, name := range names {
		r := inspectChain(c, name, p.conf.Chains[name])
		if r.Error != "" {
			failed = append(failed, fmt.Errorf("chain %s: %s", name, r.Error))
		}
		reports = append(reports, r)
	}
	if c.Bool("json") {
		err = t.printJSON(reports)
	} else {
		err = t.printChains(reports)
	}
	return errors.Join(append([]error{err}, failed...)...)
}

// inspectChain asks the chain's nodes.
func inspectChain(c *cli.Context, name string, conf *config.Chain) *chainReport {
	r := &chainReport{Name: name, ID: conf.ID, Offline: len(conf.RPC) == 0}
	if r.Offline {
		return r
	}
	if err := r.ask(c, conf); err != nil {
		r.Error = err.Error()
	}
	return r
}

func (r *chainReport) ask(c *cli.Context, conf *config.Chain) error {
	client, err := chain.New(chainConfig(r.Name, conf, nil))
	if err != nil {
		return err
	}
	defer client.Close()
	head, err := client.Head(c.Context) // which checks the chain id
	if err != nil {
		return err
	}
	at := time.Unix(int64(head.Time), 0).UTC()
	r.Block, r.BlockTime, r.ClockOffset = head.Number, &at, time.Since(at).Round(time.Second).String()
	known := knownRegistries(conf)
	if len(known) == 0 {
		return nil
	}
	addresses := make([]policy.Address, len(known))
	for i, k := range known {
		addresses[i] = k.Address
	}
	found, err := client.CompareRegistries(c.Context, addresses, nil)
	if err != nil {
		return err
	}
	for i, f := range found {
		known[i].Live, known[i].Populated = f.Live(), f.Populated()
		switch {
		case !f.Code:
			known[i].Detail = "there is no contract"
		case f.Err != nil:
			known[i].Detail = f.Err.Error()
		case f.LastChange > 0:
			known[i].Detail = "last change in block " + strconv.FormatUint(f.LastChange, 10)
		}
	}
	r.Registries = known
	return nil
}

// knownRegistries are the addresses that may be the policy registry's: both published ones on
// Abstract's mainnet, and the one in the configuration.
func knownRegistries(conf *config.Chain) []registryReport {
	var known []registryReport
	if conf.ID == policy.ProductionChain {
		known = []registryReport{{Name: "production docs", Address: config.RegistryOfDocs},
			{Name: "agw-client", Address: config.RegistryOfSDK}}
	}
	inUse := conf.Registry.IsZero() // none is
	for i := range known {
		known[i].InUse = known[i].Address == conf.Registry
		inUse = inUse || known[i].InUse
	}
	if inUse {
		return known
	}
	return append(known, registryReport{Name: "configuration", Address: conf.Registry, InUse: true})
}

func (t *tool) printChains(reports []*chainReport) error {
	rows := [][]string{{"CHAIN", "ID", "STATE", "BLOCK", "BLOCK TIME", "CLOCK OFFSET"}}
	registries := [][]string{{"CHAIN", "REGISTRY", "ADDRESS", "IN USE", "LIVE", "POPULATED", ""}}
	for _, r := range reports {
		state, block := "ready", strconv.FormatUint(r.Block, 10)
		switch {
		case r.Offline:
			state, block = "offline: no rpc in the configuration", ""
		case r.Error != "":
			state, block = "failed", ""
		}
		at := ""
		if r.BlockTime != nil {
			at = when(r.BlockTime)
		}
		rows = append(rows, []string{r.Name, strconv.FormatUint(r.ID, 10), state, block, at, r.ClockOffset})
		for _, g := range r.Registries {
			registries = append(registries, []string{r.Name, g.Name, g.Address.String(), yesNo(g.InUse), yesNo(g.Live),
				yesNo(g.Populated), g.Detail})
		}
	}
	if err := t.table(rows); err != nil || len(registries) == 1 {
		return err
	}
	t.print("")
	return t.table(registries)
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}
