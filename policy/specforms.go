package policy

import "fmt"

// maxShown is the longest value that an error shows: what is longer could be a key, be it as 64 hex digits, 44
// characters of base64 or twelve words. An address has 42.
const maxShown = 42

// shown quotes a value of the input for an error, unless it could be a key.
func shown(text string) string {
	if len(text) > maxShown {
		return fmt.Sprintf("a text of %d characters", len(text))
	}
	return fmt.Sprintf("%q", text)
}
