package command

import (
	"fmt"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
)

// completeCommand, followed by the words typed so far, prints what the last of
// them can become. The shells' scripts call it.
const completeCommand = "__complete"

var completionScripts = map[string]string{
	"bash": `# keyward completion for bash: source <(keyward completion bash)
_keyward() {
	local IFS=$'\n'
	COMPREPLY=($("${COMP_WORDS[0]}" __complete "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null))
}
complete -o bashdefault -o default -F _keyward keyward
`,
	"zsh": `#compdef keyward
# keyward completion for zsh: source <(keyward completion zsh)
_keyward() {
	local -a found
	found=("${(@f)$("${words[1]}" __complete "${(@)words[2,CURRENT]}" 2>/dev/null)}")
	if [[ -n "${found[1]}" ]]; then compadd -a found; else _files; fi
}
compdef _keyward keyward
`,
	"fish": `# keyward completion for fish: keyward completion fish | source
complete -c keyward -a '(set -l w (commandline -opc) (commandline -ct); $w[1] __complete $w[2..-1] 2>/dev/null)'
`,
}

func (t *tool) completionCommand() *cli.Command {
	return &cli.Command{
		Name:      "completion",
		Usage:     "print a script that completes commands: bash, zsh or fish",
		ArgsUsage: "SHELL",
		Action: func(c *cli.Context) error {
			args, err := operands(c, "SHELL (bash, zsh or fish)")
			if err != nil {
				return err
			}
			script, ok := completionScripts[args[0]]
			if !ok {
				return usageError("unknown shell %q; known are bash, zsh and fish", args[0])
			}
			fmt.Fprint(t.stdout, script)
			return nil
		},
	}
}

// complete prints the commands or flags that start with the last word.
func (t *tool) complete(app *cli.App, words []string) {
	last := ""
	if len(words) > 0 {
		words, last = words[:len(words)-1], words[len(words)-1]
	}
	commands, flags := app.Commands, append(commonFlags(), cli.HelpFlag)
	for _, w := range words {
		if c := commandNamed(commands, w); c != nil {
			commands, flags = c.Subcommands, append(slices.Clip(c.Flags), cli.HelpFlag)
		}
	}
	candidates := commandNames(commands)
	if strings.HasPrefix(last, "-") {
		candidates = nil
		for _, f := range flags {
			candidates = append(candidates, "--"+f.Names()[0])
		}
	}
	for _, c := range candidates {
		if strings.HasPrefix(c, last) {
			t.print("%s", c)
		}
	}
}
