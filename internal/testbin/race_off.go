//go:build !race

package softhsmtest

// raceFlag builds the agent with the race detector where the tests have it.
const raceFlag = "-race=false"
