package command

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/keyward/keyward/internal/suggest"
	"github.com/keyward/keyward/policy"
)

// arrange brings args into the order that the flag package reads: the command, its
// flags, "--", its operands. So flags may stand anywhere, and everything unknown is
// found here, with a guess at what was meant.
func arrange(app *cli.App, args []string) ([]string, error) {
	var path, flags, operands []string
	commands, known := app.Commands, append(commonFlags(), cli.HelpFlag)
	if len(args) > 0 && args[0] == "help" { // keyward help sign = keyward sign --help
		args = append(args[1:], "--help")
	}
	if len(args) > 0 && (args[0] == "--version" || args[0] == "-version") { // keyward --version = keyward version
		args = append([]string{"version"}, args[1:]...)
	}
	help := false
	for len(args) > 0 {
		arg := args[0]
		args = args[1:]
		switch {
		case arg == "--":
			operands, args = append(operands, args...), nil
		case len(arg) > 1 && arg[0] == '-':
			flag, rest, err := oneFlag(arg, args, known, path)
			if err != nil {
				return nil, err
			}
			args = rest
			if flag == "--help" {
				help = true
			} else {
				flags = append(flags, flag)
			}
		case len(commands) > 0:
			cmd := commandNamed(commands, arg)
			if cmd == nil {
				return nil, unknownCommand(path, arg, args, commands)
			}
			path, commands, known = append(path, arg), cmd.Subcommands, append(slices.Clip(known), cmd.Flags...)
		default:
			operands = append(operands, arg)
		}
	}
	if help || len(path) == 0 {
		return append(path, "--help"), nil
	}
	return slices.Concat(path, flags, []string{"--"}, operands), nil
}

// wantsJSON reports whether args have --json, whatever else is wrong with them.
func wantsJSON(args []string) (wants bool) {
	for _, arg := range args {
		name, value, assigned := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(arg, "-"), "-"), "=")
		switch {
		case arg == "--":
			return wants
		case arg[:min(len(arg), 1)] != "-" || name != "json":
		case !assigned:
			wants = true
		default:
			wants, _ = strconv.ParseBool(value) // what is no boolean is an error, in text
		}
	}
	return wants
}

// commandOf returns the command in what arrange returned, and its --dir.
func commandOf(args []string) (command, dir string) {
	command = "keyward"
	flags := false
	for _, arg := range args {
		if arg == "--" {
			break
		}
		flags = flags || strings.HasPrefix(arg, "--")
		if !flags {
			command += " " + arg
		} else if value, ok := strings.CutPrefix(arg, "--dir="); ok {
			dir = value
		}
	}
	return command, dir
}

// oneFlag reads the flag arg, with its value from rest if it takes one, and returns it as
// one argument, and what is left of rest.
func oneFlag(arg string, rest []string, known []cli.Flag, path []string) (string, []string, error) {
	name, value, hasValue := strings.Cut(strings.TrimLeft(arg, "-"), "=")
	i := slices.IndexFunc(known, func(f cli.Flag) bool { return slices.Contains(f.Names(), name) })
	if i < 0 {
		return "", nil, unknownFlag(path, name, known)
	}
	full := "--" + known[i].Names()[0]
	takesValue := known[i].(cli.DocGenerationFlag).TakesValue()
	switch {
	case hasValue:
		return full + "=" + value, rest, nil
	case !takesValue:
		return full, rest, nil
	case len(rest) == 0:
		return "", nil, usageError("%s needs a value", full)
	}
	return full + "=" + rest[0], rest[1:], nil
}

func commandNamed(commands []*cli.Command, name string) *cli.Command {
	for _, c := range commands {
		if c.HasName(name) {
			return c
		}
	}
	return nil
}

// unknownCommand is the error for a name that none of commands has; path is before it on
// the command line, rest after it.
func unknownCommand(path []string, name string, rest []string, commands []*cli.Command) error {
	before := strings.Join(append(slices.Clip(path), ""), " ")
	if near := suggest.Nearest(name, commandNames(commands)); near != "" {
		return withHint(usageError("unknown command %q; did you mean %q?", before+name, before+near),
			"keyward %s%s", before, strings.Join(append([]string{near}, rest...), " "))
	}
	return withHint(usageError("unknown command %q", before+name), "keyward %s--help", before)
}

func commandNames(commands []*cli.Command) (names []string) {
	for _, c := range commands {
		names = append(names, c.Name)
	}
	return names
}

func unknownFlag(path []string, name string, known []cli.Flag) error {
	var names []string
	for _, f := range known {
		names = append(names, f.Names()...)
	}
	help := "keyward " + strings.Join(append(slices.Clip(path), "--help"), " ")
	if near := suggest.Nearest(name, names); near != "" {
		return withHint(usageError("unknown flag --%s; did you mean --%s?", name, near), "%s", help)
	}
	return withHint(usageError("unknown flag --%s", name), "%s", help)
}

// needSubcommand is the action of a command that is only a group of others.
func needSubcommand(c *cli.Context) error {
	return withHint(usageError("%s needs one of: %s", c.Command.Name,
		strings.Join(commandNames(c.Command.Subcommands), ", ")),
		"keyward %s --help", c.Command.Name)
}

// operands returns the command's operands, one for each name.
func operands(c *cli.Context, names ...string) ([]string, error) {
	args := c.Args().Slice()
	switch {
	case len(args) > len(names):
		return nil, usageError("unexpected argument %q", args[len(names)])
	case len(args) < len(names):
		return nil, withHint(usageError("missing argument: %s", names[len(args)]), "%s --help", c.Command.HelpName)
	}
	return args, nil
}

// required refuses a command that lacks any of the flags, and any operand.
func required(c *cli.Context, flags ...string) error {
	if _, err := operands(c); err != nil {
		return err
	}
	var missing []string
	for _, f := range flags {
		if !c.IsSet(f) {
			missing = append(missing, "--"+f)
		}
	}
	switch len(missing) {
	case 0:
		return nil
	case 1:
		return withHint(usageError("missing flag: %s", missing[0]), "%s --help", c.Command.HelpName)
	}
	return withHint(usageError("missing flags: %s", strings.Join(missing, ", ")), "%s --help", c.Command.HelpName)
}

// shortened quotes a flag's value for an error, unless it is longer than an address: then it could be a private key.
func shortened(value string) string {
	if len(value) > len("0x")+2*len(policy.Address{}) {
		return fmt.Sprintf("(%d characters)", len(value))
	}
	return strconv.Quote(value)
}
