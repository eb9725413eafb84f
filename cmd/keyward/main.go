// Command keyward is the agent and the operator's tool for it.
package main

import "github.com/keyward/keyward/internal/command"

func main() { command.Main() }
