package command

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/keyward/keyward/internal/config"
	"github.com/keyward/keyward/socket/api"
)

const (
	// completeCommand, followed by the words typed so far, prints what the last of
	// them can become. The shells' scripts call it.
	completeCommand = "__complete"
	// completeFiles is printed instead where the word is a file's name.
	completeFiles = ":files"
	// completeTimeout bounds asking the agent: a person waits for it in the middle of a line.
	completeTimeout = time.Second
)

// completion is a command line that is being typed.
type completion struct {
	command  string // "session revoke"
	args     string // its ArgsUsage
	commands []*cli.Command
	flags    []cli.Flag
	operands int
	flag     cli.Flag // whose value the last word is; nil: of none
	dir      string   // --dir
}

// complete prints what the last word can become: a command, a flag or a value.
func (t *tool) complete(app *cli.App, words []string) {
	words, split := rejoin(words)
	last := ""
	if len(words) > 0 {
		words, last = words[:len(words)-1], words[len(words)-1]
	}
	x := &completion{commands: app.Commands, flags: append(commonFlags(), cli.HelpFlag)}
	for _, w := range words {
		x.read(w)
	}
	name, value, assigned := strings.Cut(last, "=")
	before := ""
	var candidates []string
	switch {
	case assigned && strings.HasPrefix(last, "-"): // --session=0b
		x.read(name)
		before, last = name+"=", value
		candidates = x.values(value)
	case x.flag == nil && strings.HasPrefix(last, "-"):
		for _, f := range x.flags {
			candidates = append(candidates, "--"+f.Names()[0])
		}
	default:
		candidates = x.values(last)
	}
	if split { // the shell completes what stands behind the last = alone
		before = ""
	}
	for _, c := range candidates {
		if c == completeFiles || strings.HasPrefix(c, last) {
			t.print("%s%s", before, c)
		}
	}
}

// rejoin undoes that bash takes = and : for words of their own (COMP_WORDBREAKS). split reports whether the last word
// was behind one.
func rejoin(words []string) (joined []string, split bool) {
	glue := false
	for _, w := range words {
		breaks := w == "=" || w == ":"
		if split = (breaks || glue) && len(joined) > 0; split {
			joined[len(joined)-1] += w
		} else {
			joined = append(joined, w)
		}
		glue = breaks
	}
	return joined, split
}

// read reads a word before the last.
func (x *completion) read(word string) {
	name, value, assigned := strings.Cut(strings.TrimLeft(word, "-"), "=")
	switch cmd := commandNamed(x.commands, word); {
	case x.flag != nil:
		x.setFlag(x.flag, word)
	case strings.HasPrefix(word, "-"):
		i := slices.IndexFunc(x.flags, func(f cli.Flag) bool { return slices.Contains(f.Names(), name) })
		if i < 0 {
			return
		}
		if x.flag = x.flags[i]; assigned {
			x.setFlag(x.flag, value)
		} else if !x.flag.(cli.DocGenerationFlag).TakesValue() {
			x.flag = nil
		}
	case cmd != nil:
		x.command = strings.TrimSpace(x.command + " " + word)
		x.args, x.commands = cmd.ArgsUsage, cmd.Subcommands
		x.flags = append(slices.Clip(x.flags), ownFlags(cmd)...)
	default:
		x.operands++
	}
}

func (x *completion) setFlag(f cli.Flag, value string) {
	if x.flag = nil; f.Names()[0] == "dir" {
		x.dir = value
	}
}

// ownFlags are a command's flags but for those of every command.
func ownFlags(c *cli.Command) (own []cli.Flag) {
	for _, f := range c.Flags {
		if !isCommon(f) {
			own = append(own, f)
		}
	}
	return own
}

// values are what the last word can be: a flag's value, a command's name or its operand.
func (x *completion) values(last string) []string {
	switch {
	case x.flag != nil:
		return x.flagValues(last)
	case len(x.commands) > 0:
		return commandNames(x.commands)
	case x.operands > 0:
		return nil // no command takes a second one
	}
	switch x.args {
	case "ID":
		return x.sessions(last)
	case "SESSION|KEY":
		return append(x.sessions(last), x.keys()...)
	case "FILE", "[FILE]", "WHAT":
		return []string{completeFiles}
	case "SHELL":
		return slices.Sorted(maps.Keys(completionScripts))
	}
	switch x.command {
	case "backend check":
		return x.backends()
	case "chain check":
		return x.chains()
	}
	return nil
}

// flagValues are what the flag's value can be.
func (x *completion) flagValues(last string) []string {
	switch x.flag.Names()[0] {
	case "session", "key", "after":
		return x.sessions(last)
	case "signer":
		return x.sessions("0x")
	case "backend":
		return x.backends()
	case "chain":
		return x.chains()
	case "kind":
		return []string{"agw", "eoa"}
	case "reason":
		return slices.Sorted(maps.Keys(reasons))
	}
	if f, ok := x.flag.(*cli.StringFlag); ok && f.TakesFile {
		return []string{completeFiles}
	}
	return nil
}

// sessions are the ids of the sessions that the command can be about, or their signers where the word begins as an
// address does.
func (x *completion) sessions(last string) (names []string) {
	ctx, cancel := context.WithTimeout(context.Background(), completeTimeout)
	defer cancel()
	p, err := findAgentIn(x.dir)
	if err != nil {
		return nil
	}
	var all []*api.Session
	if cl, err := p.dial(ctx, p.agent().AdminSocket); err == nil {
		defer cl.Close()
		all, _ = cl.AllSessions(ctx) // there is nobody to tell an error to
	} else if cl, err := p.dial(ctx, p.agent().Socket); err == nil {
		defer cl.Close()
		all, _ = cl.Sessions(ctx)
	}
	for _, s := range all {
		switch {
		case !x.fits(s.Status):
		case strings.HasPrefix(last, "0x"):
			names = append(names, s.Signer.String())
		default:
			names = append(names, s.ID)
		}
	}
	return names
}

// fits reports whether the command does anything with a session of that status.
func (x *completion) fits(status string) bool {
	switch x.command {
	case "session activate":
		return status == "pending"
	case "session revoke", "session close", "session renew", "session set-clients":
		return status == "pending" || status == "active"
	}
	return true
}

func (x *completion) keys() (uris []string) {
	ctx, cancel := context.WithTimeout(context.Background(), completeTimeout)
	defer cancel()
	p, err := findAgentIn(x.dir)
	if err != nil {
		return nil
	}
	cl, err := p.dial(ctx, p.agent().AdminSocket)
	if err != nil {
		return nil
	}
	defer cl.Close()
	keys, _ := cl.Keys(ctx)
	for _, k := range keys {
		uris = append(uris, k.URI)
	}
	return uris
}

func (x *completion) backends() []string {
	p, err := findAgentIn(x.dir)
	if err != nil {
		return nil
	}
	return slices.Sorted(maps.Keys(p.backends()))
}

func (x *completion) chains() []string {
	p, err := findAgentIn(x.dir)
	if err != nil || p.conf == nil {
		return slices.Sorted(maps.Keys(config.Defaults().Chains))
	}
	return slices.Sorted(maps.Keys(p.conf.Chains))
}
