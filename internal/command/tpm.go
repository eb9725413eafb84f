package command

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/keyward/keyward/backends/tpm"
	"github.com/keyward/keyward/internal/config"
)

func (t *tool) tpmCommand() *cli.Command {
	return &cli.Command{
		Name:  "tpm",
		Usage: "see and set up the machine's TPM",
		Subcommands: []*cli.Command{
			{
				Name: "status", Action: t.tpmStatus, Flags: []cli.Flag{tpmDeviceFlag()},
				Usage: "say what the TPM is, how many PIN tries it has left, which keys are in it and which backends use them; " +
					"no PIN is tried",
			},
			t.tpmSetupCommand(),
		},
	}
}

func tpmDeviceFlag() cli.Flag {
	return &cli.StringFlag{Name: "tpm-device", Value: tpm.DefaultDevice, TakesFile: true,
		Usage: "`PATH` of the TPM's device node, or of a TPM emulator's Unix socket"}
}

// tpmTimeout is for a command of ours. A real TPM takes seconds to make a key.
const tpmTimeout = time.Minute

// tpmInfo is a TPM, and what the configuration has to do with it.
type tpmInfo struct {
	Device string `json:"device"`
	*tpm.Info
	Backends map[string]string `json:"backends,omitempty"` // on this device, and the handles of their keys
	Lost     []string          `json:"lost,omitempty"`     // those of Backends whose key is there no more
}

func (t *tool) tpmStatus(c *cli.Context) error {
	if err := required(c); err != nil {
		return err
	}
	p, err := findPlace(c)
	if err != nil { // the TPM is there all the same
		t.note("%v", err)
		p = &place{}
	}
	ctx, cancel := context.WithTimeout(c.Context, tpmTimeout)
	defer cancel()
	info := tpmInfo{Device: tpmDevice(c, p), Backends: map[string]string{}}
	if info.Info, err = tpm.Inspect(ctx, info.Device); err != nil {
		return err
	}
	for name, b := range p.backends() {
		s, ok := b.Settings.(*config.TPM)
		if !ok || p.dirs.Path(s.Device) != info.Device {
			continue
		}
		info.Backends[name] = s.Handle
		if !slices.ContainsFunc(info.Keys, func(k tpm.Found) bool { return k.Handle == s.Handle && k.Name == s.Key }) {
			info.Lost = append(info.Lost, name)
		}
	}
	slices.Sort(info.Lost)
	if c.Bool("json") {
		return t.printJSON(info)
	}
	return t.facts(info.facts()...)
}

// tpmDevice is the device that is named, else that of the configuration's backends, if they have only one.
func tpmDevice(c *cli.Context, p *place) string {
	devices := map[string]bool{}
	for _, b := range p.backends() {
		if s, ok := b.Settings.(*config.TPM); ok {
			devices[p.dirs.Path(s.Device)] = true
		}
	}
	if c.IsSet("tpm-device") || len(devices) != 1 {
		return c.String("tpm-device")
	}
	return slices.Collect(maps.Keys(devices))[0]
}

func (info *tpmInfo) facts() [][2]string {
	l := info.Lockout
	tries := fmt.Sprintf("%d of %d left", l.Left(), l.Max)
	switch {
	case l.Left() == 0:
		tries += "; THE TPM IS LOCKED and tries no PIN or password"
	case l.Left() == 1:
		tries += "; a wrong one more locks the TPM"
	}
	if l.Failed > 0 && l.Interval > 0 {
		tries += fmt.Sprintf("; it gives one back each %v", l.Interval)
	}
	facts := [][2]string{
		{"TPM", strings.TrimSpace(cmp.Or(info.Manufacturer, "unknown maker")+" "+info.Model) + ", firmware " + info.Firmware},
		{"device", info.Device},
		{"PIN tries", tries},
	}
	for _, k := range info.Keys {
		text := "of no backend here"
		for _, name := range slices.Sorted(maps.Keys(info.Backends)) {
			if info.Backends[name] == k.Handle && !slices.Contains(info.Lost, name) {
				text = fmt.Sprintf("backend %q", name)
			}
		}
		if k.PIN {
			text += ", with a PIN"
		}
		facts = append(facts, [2]string{"key " + k.Handle, text})
	}
	for _, name := range info.Lost {
		facts = append(facts, [2]string{"key " + info.Backends[name],
			fmt.Sprintf("THE KEY OF backend %q IS LOST, with all that is sealed to it", name)})
	}
	return facts
}
