// Command agent is keyward under its older name; see cmd/keyward.
package main

import "github.com/keyward/keyward/internal/command"

func main() { command.Main() }
