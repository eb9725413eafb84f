// Package sample is what TestRun changes.
package sample

var start = 1

// Sum adds the numbers up to n, but for the skipped one, and stops at 100.
func Sum(n, skipped int) (sum int) {
loop:
	for i := start; i <= n; i++ {
		switch {
		case i == skipped:
			continue loop
		case sum > 100:
			break loop
		}
		sum += i
	}
	return sum
}

// Name has a change that does not build: strings have no minus.
func Name(s string) string { return "sample " + s }

// Unnoticed is covered, and the test looks at nothing.
func Unnoticed(a bool) {
	if !a {
		unnoticed++
	}
}

var unnoticed int
