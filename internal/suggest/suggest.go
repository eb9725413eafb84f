// Package suggest finds what somebody meant who mistyped a name.
package suggest

import (
	"fmt"
	"strings"
)

// telling is how many bytes of a name tell which one is meant.
const telling = 3

// DidYouMean is the end of a message that word is unknown: it names the nearest known name, or if none is near all of
// them.
func DidYouMean(word string, known []string) string {
	if near := Nearest(word, known); near != "" {
		return fmt.Sprintf("; did you mean %q?", near)
	}
	if len(known) == 0 {
		return ""
	}
	return "; known are " + strings.Join(known, ", ")
}

// Nearest returns the known name that word is most likely a typing error of:
// the shortest that word is the beginning of, or else the one with the least edit
// distance, the first of several, or "" if none is near enough to be worth a guess.
func Nearest(word string, known []string) string {
	if full := completed(word, known); full != "" {
		return full
	}
	best, least := "", len(word)/3+2
	for _, k := range known {
		if d := distance(word, k); d < least {
			best, least = k, d
		}
	}
	return best
}

// completed returns the shortest known name that word is the beginning of; "": none.
func completed(word string, known []string) (full string) {
	for _, k := range known {
		if len(word) >= telling && strings.HasPrefix(k, word) && (full == "" || len(k) < len(full)) {
			full = k
		}
	}
	return full
}

// distance is the number of bytes to insert, delete, replace or swap with their
// neighbour to make b of a (optimal string alignment).
func distance(a, b string) int {
	before, last := make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row := make([]int, len(b)+1)
		row[0] = i
		for j := 1; j <= len(b); j++ {
			replace := last[j-1]
			if a[i-1] != b[j-1] {
				replace++
			}
			row[j] = min(replace, last[j]+1, row[j-1]+1)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last = last, row
	}
	return last[len(b)]
}
