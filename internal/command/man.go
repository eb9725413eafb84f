package command

import (
	"fmt"
	"io"
	"strings"

	"github.com/urfave/cli/v2"
)

// manCommand prints the manual page keyward(1) as troff with man(7)'s macros. Packages are built with it.
const manCommand = "__man"

// manPage writes the manual page, made of the commands' own definitions.
func manPage(w io.Writer, app *cli.App) {
	fmt.Fprintf(w, ".TH KEYWARD 1 \"\" \"keyward\" \"Keyward\"\n.SH NAME\nkeyward \\- %s\n", roff(app.Usage))
	fmt.Fprint(w, ".SH SYNOPSIS\n.B keyward\n.I COMMAND\n[\\fIFLAG\\fR...] [\\fIARGUMENT\\fR...]\n.SH DESCRIPTION\n")
	fmt.Fprint(w, "Keyward is an agent that keeps session keys in hardware and signs only what each session's policy "+
		"allows.\n"+
		"Apps reach it over a Unix socket, and the operator with the commands below.\n.PP\n")
	fmt.Fprintln(w, paragraphs(app.Description))
	fmt.Fprintln(w, ".SH COMMON FLAGS")
	manFlags(w, append(commonFlags(), cli.HelpFlag))
	fmt.Fprintln(w, ".SH COMMANDS")
	manCommands(w, "keyward", app.Commands)
	fmt.Fprint(w, manEnd)
}

const manEnd = `.SH FILES
.TP
.I /etc/keyward/config.toml
the configuration of the system's agent; each setting and its default stand in it
.TP
.I /var/lib/keyward
its ledger and audit trail
.TP
.I /run/keyward/agent.sock
its socket for apps, for the group keyward\-clients
.TP
.I /run/keyward/admin.sock
its socket for the operator
.TP
.I ~/.keyward
all of a user's own agent
.SH ENVIRONMENT
.TP
.B KEYWARD_DIR
the agent's directory, if there is no \-\-dir
.SH SEE ALSO
.BR systemctl (1),
.BR systemd\-creds (1),
.BR softhsm2\-util (1)
`

// manCommands writes the commands and, after each, its subcommands.
func manCommands(w io.Writer, parent string, commands []*cli.Command) {
	for _, c := range commands {
		name := parent + " " + c.Name
		if len(c.Subcommands) > 0 {
			manCommands(w, name, c.Subcommands)
			continue
		}
		fmt.Fprintf(w, ".SS %s\n%s.\n", roff(strings.TrimSpace(name+" "+c.ArgsUsage)), paragraphs(c.Usage))
		if c.Description != "" {
			fmt.Fprintf(w, ".PP\n%s\n", paragraphs(c.Description))
		}
		manFlags(w, ownFlags(c))
	}
}

func isCommon(f cli.Flag) bool {
	for _, common := range commonFlags() {
		if f.Names()[0] == common.Names()[0] {
			return true
		}
	}
	return false
}

func manFlags(w io.Writer, flags []cli.Flag) {
	for _, f := range flags {
		doc := f.(cli.DocGenerationFlag)
		value, usage := unquoteUsage(doc.GetUsage())
		fmt.Fprintf(w, ".TP\n.B \\-\\-%s", roff(f.Names()[0]))
		if doc.TakesValue() {
			fmt.Fprintf(w, " \\fI%s\\fR", roff(value))
		}
		fmt.Fprintf(w, "\n%s\n", paragraphs(usage))
	}
}

// unquoteUsage splits a flag's usage as its help does: the word in backquotes is the value's name.
func unquoteUsage(usage string) (value, text string) {
	before, rest, ok := strings.Cut(usage, "`")
	name, after, closed := strings.Cut(rest, "`")
	if !ok || !closed {
		return "VALUE", usage
	}
	return name, before + name + after
}

// paragraphs is text as roff, in which an empty line starts a paragraph.
func paragraphs(text string) string {
	var lines []string
	for line := range strings.SplitSeq(strings.TrimSpace(text), "\n") {
		if line = roff(strings.TrimSpace(line)); line == "" {
			line = ".PP"
		}
		lines = append(lines, line)
	}
	return strings.Join(lines, "\n")
}

var roffEscapes = strings.NewReplacer(`\`, `\e`, "-", `\-`, "·", `\(bu`, "…", "...", "→", `\(->`, "~", `\(ti`)

// roff is text with what is special to troff escaped.
func roff(text string) string {
	text = roffEscapes.Replace(text)
	if strings.HasPrefix(text, ".") || strings.HasPrefix(text, "'") {
		return `\&` + text
	}
	return text
}
