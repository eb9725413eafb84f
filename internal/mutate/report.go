package main

import (
	"fmt"
	"os"
	"strings"
)

// readReasons reads the list of mutants that are equal to the original: a line with the mutant as [mutant.id] names it,
// and below it, indented, why no test can notice it. Lines that begin with # and empty lines are comments.
func readReasons(path string) (map[string]string, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	reasons, id := map[string]string{}, ""
	for i, line := range strings.Split(string(text), "\n") {
		switch indented := strings.HasPrefix(line, "\t"); {
		case strings.TrimSpace(line) == "" || line[0] == '#':
		case indented && id != "":
			reasons[id] = strings.TrimSpace(reasons[id] + " " + strings.TrimSpace(line))
		case indented:
			return nil, fmt.Errorf("%s:%d: a reason without a mutant above it", path, i+1)
		default:
			id = line
			if _, twice := reasons[id]; twice {
				return nil, fmt.Errorf("%s:%d: the mutant is in the list twice", path, i+1)
			}
			reasons[id] = ""
		}
	}
	for id, reason := range reasons {
		if reason == "" {
			return nil, fmt.Errorf("%s: %q has no reason", path, id)
		}
	}
	return reasons, nil
}

// report prints the seed, the score and the survivors.
func report(seed uint64, sample []*mutant, tried, reasons map[string]string) {
	count := map[string]int{}
	var open, equal []*mutant
	for _, m := range sample {
		res := tried[m.String()]
		count[res]++
		if res == "survived" && reasons[m.id()] != "" {
			equal = append(equal, m)
		} else if res == "survived" {
			open = append(open, m)
		}
	}
	noticed := count["killed"] + count["timed out"]
	built := len(sample) - count["does not build"]
	fmt.Printf("seed %d: %d mutants, %d do not build; of the other %d the tests noticed %d (%d by the time limit): "+
		"%.1f %%\n",
		seed, len(sample), count["does not build"], built, noticed, count["timed out"], percent(noticed, built))
	fmt.Printf("%d survived, of which %d are equal to the original; without these: %.1f %%\n",
		len(open)+len(equal), len(equal), percent(noticed, built-len(equal)))
	for _, m := range equal {
		fmt.Printf("equal: %s\n\t%s\n", m, reasons[m.id()])
	}
	for _, m := range open {
		fmt.Printf("survived: %s\n\t%s\n", m, m.id())
	}
}

func percent(part, whole int) float64 { return 100 * float64(part) / float64(max(1, whole)) }
