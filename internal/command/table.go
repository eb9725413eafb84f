package command

import (
	"cmp"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

const (
	defaultWidth = 120 // columns, where there is no terminal
	columnGap    = "  "
	narrowest    = 8 // columns of a cell, whose text is broken into lines of that width
)

// table writes rows in columns that fit the terminal. The first row is the heading.
func (t *tool) table(rows [][]string) error {
	for _, line := range fit(rows, t.width()) {
		if _, err := fmt.Fprintln(t.stdout, line); err != nil {
			return err
		}
	}
	return nil
}

// width is how many columns a line of a table may have: as many as the terminal has, or $COLUMNS says.
func (t *tool) width() int {
	n, _ := strconv.Atoi(os.Getenv("COLUMNS"))
	return cmp.Or(t.terminalWidth(), max(n, 0), defaultWidth)
}

// terminalWidth is how many columns the terminal on stdout has; 0 if there is none.
func (t *tool) terminalWidth() int {
	f, ok := t.stdout.(*os.File)
	if !ok {
		return 0
	}
	size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return 0
	}
	return int(size.Col)
}

// fit arranges rows in lines of at most width columns. If a table is too wide, first its addresses and hashes are
// shortened, which --json and show have in full, and then the widest cells are broken into several lines.
func fit(rows [][]string, width int) (lines []string) {
	widths := columnWidths(rows)
	if sum(widths) > width {
		rows = shortenHex(rows)
		widths = columnWidths(rows)
	}
	for over := sum(widths) - width; over > 0; over-- {
		widest := len(widths) - 1
		for i := range widths { // the first is a name or an id, which stays whole
			if i > 0 && widths[i] > widths[widest] {
				widest = i
			}
		}
		if widths[widest] <= narrowest {
			break
		}
		widths[widest]--
	}
	for _, row := range rows {
		lines = append(lines, rowLines(row, widths)...)
	}
	return lines
}

// columnWidths are those that the rows need.
func columnWidths(rows [][]string) (widths []int) {
	for _, row := range rows {
		for i, cell := range row {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	return widths
}

// sum is the width of a line.
func sum(widths []int) int {
	total := len(columnGap) * max(len(widths)-1, 0)
	for _, w := range widths {
		total += w
	}
	return total
}

// longHex is an address, a hash or a key.
var longHex = regexp.MustCompile(`0x[0-9a-fA-F]{40,}`)

func shortenHex(rows [][]string) [][]string {
	short := make([][]string, len(rows))
	for i, row := range rows {
		for _, cell := range row {
			short[i] = append(short[i], longHex.ReplaceAllStringFunc(cell, func(hex string) string {
				return hex[:6] + "…" + hex[len(hex)-4:]
			}))
		}
	}
	return short
}

// rowLines are the lines of a row: as many as its highest cell has.
func rowLines(row []string, widths []int) (lines []string) {
	for i, cell := range row {
		before := 0
		if i > 0 {
			before = sum(widths[:i]) + len(columnGap)
		}
		for j, part := range broken(cell, widths[i]) {
			if j == len(lines) {
				lines = append(lines, "")
			}
			if part != "" {
				lines[j] += strings.Repeat(" ", before-utf8.RuneCountInString(lines[j])) + part
			}
		}
	}
	return lines
}

// broken breaks text into lines of at most width columns: behind a space, or else behind what separates the parts of a
// URI or a path.
func broken(text string, width int) (lines []string) {
	for utf8.RuneCountInString(text) > width {
		runes := []rune(text)
		at := width
		start, more := string(runes[:width]), string(runes[:width+1])
		if i := strings.LastIndex(more, " "); i > 0 && strings.TrimSpace(more[:i]) != "" {
			at = utf8.RuneCountInString(more[:i])
		} else if i := strings.LastIndexAny(start, ",;:/?&"); i > 0 {
			at = utf8.RuneCountInString(start[:i]) + 1
		}
		lines = append(lines, strings.TrimRight(string(runes[:at]), " "))
		text = strings.TrimLeft(string(runes[at:]), " ")
	}
	return append(lines, text)
}
