package report

import (
	_ "embed"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"html/template"
	"io"
	"strconv"
	"strings"
	"time"
)

// JSON writes the report as one object.
func (r *Report) JSON(w io.Writer) error { return json.NewEncoder(w).Encode(r) }

// CSV writes a line for each amount that a session spent, and for each session that spent none. A program that
// calculates takes a cell for a formula.
func (r *Report) CSV(w io.Writer) error {
	c := csv.NewWriter(w)
	rows := [][]string{{"session", "signer", "granted", "refused", "failed", "reverted", "limit", "amount"}}
	for _, s := range r.Sessions {
		row := []string{cell(s.ID), cell(s.Signer), number(s.Granted), number(s.Refused), number(s.Failed),
			number(s.Reverted)}
		for _, spent := range s.Spent {
			rows = append(rows, append(row[:6:6], cell(spent.Limit), spent.Amount))
		}
		if len(s.Spent) == 0 {
			rows = append(rows, append(row, "", ""))
		}
	}
	return c.WriteAll(rows)
}

func number(n uint64) string { return strconv.FormatUint(n, 10) }

// cell is text of others that no program takes for a formula (OWASP, CSV injection).
func cell(text string) string {
	if text != "" && strings.ContainsRune("=+-@\t\r", rune(text[0])) {
		return "'" + text
	}
	return text
}

//go:embed page.html
var page string

var pageTemplate = template.Must(template.New("page").Funcs(template.FuncMap{
	"time":     func(t time.Time) string { return t.UTC().Format("2006-01-02 15:04") },
	"activity": func(r *Report) *chart { return r.activity() },
	"refusals": func(r *Report) *chart { return r.refusals() },
	"spend":    func(r *Report) []*chart { return r.spend() },
	"latency":  func(r *Report) *chart { return r.latency() },
	"short":    short,
}).Parse(page))

// HTML writes the report as one page that loads nothing.
func (r *Report) HTML(w io.Writer) error { return pageTemplate.Execute(w, r) }

// short is a session's id as a label.
func short(id string) string {
	if id == "" {
		return "(none)"
	}
	if len(id) > 20 {
		return id[:20] + "…"
	}
	return id
}

// ether is an amount of wei, as a label.
func ether(wei float64) string {
	if wei < 1e12 {
		return fmt.Sprintf("%.4g wei", wei)
	}
	return fmt.Sprintf("%.4g ETH", wei/1e18)
}
