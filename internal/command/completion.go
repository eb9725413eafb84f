package command

import (
	"fmt"

	"github.com/urfave/cli/v2"
)

// completionScripts offer what [completeCommand] prints, and files only where it asks for them.
var completionScripts = map[string]string{
	"bash": `# keyward completion for bash: source <(keyward completion bash)
_keyward() {
	local IFS=$'\n' cur=${COMP_WORDS[COMP_CWORD]}
	COMPREPLY=($("${COMP_WORDS[0]}" __complete "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null))
	if [ "${COMPREPLY[0]-}" = :files ]; then
		compopt -o filenames 2>/dev/null
		COMPREPLY=($(compgen -f -- "${cur#=}"))
	fi
}
complete -o nosort -F _keyward keyward
`,
	"zsh": `#compdef keyward
# keyward completion for zsh: source <(keyward completion zsh)
_keyward() {
	local -a found
	found=("${(@f)$("${words[1]}" __complete "${(@)words[2,CURRENT]}" 2>/dev/null)}")
	if [[ "${found[1]}" == *:files ]]; then
		compset -P '--*='
		_files
	elif [[ -n "${found[1]}" ]]; then
		compadd -a found
	fi
}
compdef _keyward keyward
`,
	"fish": `# keyward completion for fish: keyward completion fish | source
function __keyward_complete
	set -l w (commandline -opc) (commandline -ct)
	set -l found ($w[1] __complete $w[2..-1] 2>/dev/null)
	if string match -q '*:files' -- $found[1]
		__fish_complete_path (commandline -ct)
	else
		printf '%s\n' $found
	end
end
complete -c keyward -f -a '(__keyward_complete)'
`,
}

func (t *tool) completionCommand() *cli.Command {
	return &cli.Command{
		Name:      "completion",
		Usage:     "print a script that completes commands, sessions' ids, backends and chains: bash, zsh or fish",
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
