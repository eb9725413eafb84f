package command

import (
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/keyward/keyward/internal/swtpm"
)

// TestTPMScripts runs scripts with a fresh TPM each, at $TPM. "emulator kill", "run" and "reset" are a power cut, its
// end, and another TPM in its place.
func TestTPMScripts(t *testing.T) {
	scripts, err := filepath.Glob("testdata/tpm/*.txtar")
	if err != nil || len(scripts) == 0 {
		t.Fatalf("there is no script: %v", err)
	}
	for _, script := range scripts {
		t.Run(filepath.Base(script), func(t *testing.T) {
			emulator := swtpm.Start(t)
			testscript.Run(t, testscript.Params{
				Files:               []string{script},
				RequireExplicitExec: true,
				Setup: func(env *testscript.Env) error {
					env.Setenv("TPM", emulator.Socket)
					return setupScript(env)
				},
				Cmds: map[string]func(*testscript.TestScript, bool, []string){
					"exits": exits, "save": save,
					"emulator": func(ts *testscript.TestScript, neg bool, args []string) {
						do := map[string]func(){"kill": emulator.Kill, "run": func() { emulator.Run(t) },
							"reset": func() { emulator.Reset(t) }}
						if neg || len(args) != 1 || do[args[0]] == nil {
							ts.Fatalf("usage: emulator kill|run|reset")
						}
						do[args[0]]()
					},
				},
			})
		})
	}
}
