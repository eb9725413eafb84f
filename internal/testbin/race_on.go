//go:build race

package testbin

// raceFlag builds the agent with the race detector where the tests have it.
const raceFlag = "-race=true"
