package command

import (
	"errors"
	"fmt"

	"github.com/urfave/cli/v2"

	"github.com/keyward/keyward/socket/api"
)

// Exit codes of keyward status for an agent that is reachable and not ready.
const (
	exitDegraded = 10
	exitLocked   = 11
	exitHalted   = 12
)

// stateError is nil for an agent that is ready. Its text says what is wrong, and its exit code which state it is.
func stateError(s *api.Status) error {
	text := "the agent is " + joined(s.State, s.Detail)
	switch s.State {
	case api.StateReady:
		return nil
	case api.StateDegraded:
		return withCode(exitDegraded, errors.New(text))
	case api.StateLocked:
		return withHint(withCode(exitLocked, errors.New(text)), "keyward unlock")
	}
	return withHint(withCode(exitHalted, errors.New(text)), "repair what the message names, then start the agent again")
}

// Exit codes of keyward health: those of a monitoring plugin, see the Monitoring Plugins Development Guidelines,
// "Plugin return codes". Nagios, Icinga, Sensu and Consul know them.
const (
	healthOK       = 0
	healthWarning  = 1
	healthCritical = 2
	healthUnknown  = 3
)

func (t *tool) healthCommand() *cli.Command {
	return &cli.Command{
		Name:  "health",
		Usage: "say in one line how the agent is, for a monitor",
		Description: "Exit codes: 0 ready · 1 degraded, and it signs · 2 it can't sign, or is not running · 3 can't find " +
			"out.\n" +
			"After the bar stand the counts since the start, as monitoring plugins write them.",
		Action: t.health,
	}
}

// healthCode is the exit code for a status.
func healthCode(s *api.Status) (code int, word string) {
	switch {
	case s.State == api.StateReady:
		return healthOK, "OK"
	case s.Signs:
		return healthWarning, "WARNING"
	}
	return healthCritical, "CRITICAL"
}

func (t *tool) health(c *cli.Context) error {
	if err := required(c); err != nil {
		return withCode(healthUnknown, err)
	}
	s, err := t.agentStatus(c)
	if err != nil {
		code, word := healthUnknown, "UNKNOWN"
		if unreachable(err) {
			code, word = healthCritical, "CRITICAL"
		}
		if !c.Bool("json") { // then the error itself is JSON
			t.print("KEYWARD %s - %s", word, message(err))
		}
		return withCode(code, err)
	}
	code, word := healthCode(s)
	if c.Bool("json") {
		if err := t.printJSON(s); err != nil {
			return err
		}
	} else {
		t.print("KEYWARD %s - %s | granted=%dc denied=%dc failed=%dc in_flight=%d", word, joined(s.State, s.Detail),
			s.Granted, s.Denied, s.Failed, s.InFlight)
	}
	if code == healthOK {
		return nil
	}
	return withCode(code, fmt.Errorf("the agent is %s", joined(s.State, s.Detail)))
}
