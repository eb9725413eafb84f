package command

import (
	"runtime"
	"runtime/debug"

	"github.com/urfave/cli/v2"
)

// release is set when a release is built (-ldflags "-X github.com/keyward/keyward/internal/command.release=1.2.3").
var release string

// version is the release, or else what the Go command knows of the sources.
func version() string {
	if release != "" {
		return release
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}

func (t *tool) versionCommand() *cli.Command {
	return &cli.Command{
		Name:  "version",
		Usage: "print the version",
		Action: func(c *cli.Context) error {
			if err := required(c); err != nil {
				return err
			}
			if c.Bool("json") {
				return t.printJSON(map[string]string{"version": version(), "go": runtime.Version()})
			}
			t.print("keyward %s %s", version(), runtime.Version())
			return nil
		},
	}
}
