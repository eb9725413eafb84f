// Package command is the keyward command: the agent and the operator's tool for it. It parses
// arguments, connects packages to each other and prints; what it does is in those packages.
package command

import (
	"context"
	"io"
	"os"

	"github.com/urfave/cli/v2"

	"github.com/keyward/keyward/backends/isolated"
)

// Main runs the command that the process was started with and exits with its code.
func Main() {
	if len(os.Args) == 2 && os.Args[1] == isolated.Arg {
		os.Exit(serveChild())
	}
	t := &tool{stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr}
	os.Exit(t.run(context.Background(), os.Args[1:]))
}

// tool is one run of the command. Data goes to stdout, all else to stderr.
type tool struct {
	stdin          io.Reader
	stdout, stderr io.Writer

	command string // that runs, "keyward session list"
	dir     string // its --dir; "": not given
	json    bool   // --json: errors are JSON, too
}

// run runs one command and returns the exit code.
func (t *tool) run(ctx context.Context, args []string) int {
	app := t.app()
	if len(args) > 0 && args[0] == completeCommand {
		t.complete(app, args[1:])
		return exitOK
	}
	if len(args) == 1 && args[0] == manCommand {
		manPage(t.stdout, app)
		return exitOK
	}
	t.json = wantsJSON(args)
	args, err := arrange(app, args)
	t.command, t.dir = commandOf(args)
	if err == nil {
		err = app.RunContext(ctx, append([]string{app.Name}, args...))
	}
	return t.report(err)
}

// app is every command there is.
func (t *tool) app() *cli.App {
	app := &cli.App{
		Name:            "keyward",
		Usage:           "keeps session keys in hardware and signs only what each session's policy allows",
		Description:     about,
		HideVersion:     true,
		HideHelpCommand: true,
		// A comma is a typing error in a client, not a second one.
		DisableSliceFlagSeparator: true,
		Writer:                    t.stdout,
		ErrWriter:                 t.stderr,
		// Whatever error there is, report prints it and says the exit code.
		ExitErrHandler: func(*cli.Context, error) {},
		Commands: []*cli.Command{
			t.initCommand(),
			t.serveCommand(),
			t.statusCommand(),
			t.topCommand(),
			t.doctorCommand(),
			t.healthCommand(),
			t.sessionCommand(),
			t.policyCommand(),
			t.signCommand(),
			t.keyCommand(),
			t.backendCommand(),
			t.benchCommand(),
			t.yubikeyCommand(),
			t.tpmCommand(),
			t.pkcs11Command(),
			t.chainCommand(),
			t.auditCommand(),
			t.backupCommand(),
			t.restoreCommand(),
			t.repairCommand(),
			t.approveCommand(),
			t.lockCommand(),
			t.unlockCommand(),
			t.reloadCommand(),
			t.configCommand(),
			t.explainCommand(),
			t.versionCommand(),
			t.completionCommand(),
		},
	}
	finish(app.Commands)
	return app
}

// commonFlags are understood by every command, before or after its name.
func commonFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "dir", Category: "Common", TakesFile: true,
			Usage: "the agent's `DIRECTORY` (default: $KEYWARD_DIR, ~/.keyward, or the system's agent, /etc/keyward)"},
		&cli.BoolFlag{Name: "json", Category: "Common", Usage: "print JSON, for programs"},
	}
}

// finish gives all commands what they have in common.
func finish(commands []*cli.Command) {
	for _, c := range commands {
		c.HideHelpCommand = true
		c.OnUsageError = func(_ *cli.Context, err error, _ bool) error { return usageError("%v", err) }
		if len(c.Subcommands) > 0 {
			finish(c.Subcommands)
			c.Action = needSubcommand
			continue
		}
		c.Flags = append(c.Flags, commonFlags()...)
	}
}
