package report

import (
	"cmp"
	"fmt"
	"math/big"
	"slices"
	"strings"
)

// A chart is drawn by the page's template. Coordinates are pixels of a drawing that is Width wide.
type chart struct {
	Title         string
	Width, Height int
	Bars          []rect
	Lines         []line
	Labels        []label
}

type rect struct {
	X, Y, W, H float64
	Class      string // a color of the page's
	Text       string // shown when the pointer rests on it
}

type line struct {
	Points string
	Class  string
	Name   string
}

type label struct {
	X, Y   float64
	Anchor string // "start", "middle" or "end"
	Text   string
}

const (
	chartWidth = 880
	plotLeft   = 70.0 // where a chart over time begins
	plotHeight = 160.0
	plotTop    = 16.0
	rowHeight  = 26.0 // of a bar with its name
	nameWidth  = 330.0
	mostBars   = 20
)

// frame has the labels of a chart over time.
func (r *Report) frame(title, highest string) *chart {
	c := &chart{Title: title, Width: chartWidth, Height: int(plotTop + plotHeight + 30)}
	c.Labels = []label{
		{plotLeft - 6, plotTop + 10, "end", highest}, {plotLeft - 6, plotTop + plotHeight, "end", "0"},
		{plotLeft, plotTop + plotHeight + 18, "start", r.From.Format("2006-01-02 15:04")},
		{chartWidth, plotTop + plotHeight + 18, "end", r.Until.Format("2006-01-02 15:04")},
	}
	return c
}

// activity has what was granted and refused over time.
func (r *Report) activity() *chart {
	highest := uint64(1)
	for _, b := range r.Steps {
		highest = max(highest, b.Granted+b.Refused)
	}
	c := r.frame("Requests over time", fmt.Sprint(highest))
	w := (chartWidth - plotLeft) / float64(len(r.Steps))
	for i, b := range r.Steps {
		x, scale := plotLeft+float64(i)*w, plotHeight/float64(highest)
		granted, refused := float64(b.Granted)*scale, float64(b.Refused)*scale
		text := fmt.Sprintf("from %s: %d granted, %d refused", b.At.Format("2006-01-02 15:04"), b.Granted, b.Refused)
		c.Bars = append(c.Bars, rect{x, plotTop + plotHeight - granted, w - 1, granted, "granted", text},
			rect{x, plotTop + plotHeight - granted - refused, w - 1, refused, "refused", text})
	}
	return c
}

// latency has the times of requests.
func (r *Report) latency() *chart {
	if len(r.Latency) == 0 {
		return nil
	}
	highest := 0.0
	for _, l := range r.Latency {
		highest = max(highest, l.P99)
	}
	highest = cmp.Or(highest, 1)
	c := r.frame("Time of a request for a signature", fmt.Sprintf("%.3g ms", highest))
	period := r.Until.Sub(r.From).Seconds()
	points := map[string][]string{}
	for _, l := range r.Latency {
		x := plotLeft + l.At.Sub(r.From).Seconds()/period*(chartWidth-plotLeft)
		for class, ms := range map[string]float64{"p50": l.P50, "p99": l.P99} {
			y := plotTop + plotHeight*(1-ms/highest)
			points[class] = append(points[class], fmt.Sprintf("%.1f,%.1f", x, y))
			c.Bars = append(c.Bars, rect{x - 2, y - 2, 4, 4, class,
				fmt.Sprintf("%s: %s %.3g ms, of %d requests", l.At.Format("2006-01-02 15:04"), class, ms, l.Requests)})
		}
	}
	for _, class := range []string{"p50", "p99"} {
		c.Lines = append(c.Lines, line{strings.Join(points[class], " "), class, class})
	}
	return c
}

// named is a bar with its name and what it comes to.
type named struct {
	name, text string
	value      float64
}

// rows draws bars below each other, the longest first.
func rows(title, class string, all []named) *chart {
	slices.SortStableFunc(all, func(a, b named) int { return cmp.Compare(b.value, a.value) })
	more := len(all) - mostBars
	all = all[:min(len(all), mostBars)]
	c := &chart{Title: title, Width: chartWidth, Height: int(float64(len(all)) * rowHeight)}
	if more > 0 {
		c.Title += fmt.Sprintf(" (and %d more)", more)
	}
	for i, n := range all {
		y := float64(i) * rowHeight
		w := max(1, n.value/max(all[0].value, 1e-300)*(chartWidth-nameWidth-130))
		c.Bars = append(c.Bars, rect{nameWidth, y + 4, w, rowHeight - 8, class, n.name + ": " + n.text})
		c.Labels = append(c.Labels, label{nameWidth - 8, y + 18, "end", n.name},
			label{nameWidth + w + 8, y + 18, "start", n.text})
	}
	return c
}

func (r *Report) refusals() *chart {
	var all []named
	for _, reason := range r.Refusals {
		all = append(all, named{reason.Reason, fmt.Sprint(reason.Count), float64(reason.Count)})
	}
	return rows("Refusals by reason", "refused", all)
}

// spend has a chart of each kind of limit: amounts of one kind compare.
func (r *Report) spend() (charts []*chart) {
	byKind := map[string][]named{}
	for _, s := range r.Sessions {
		sums := map[string]*big.Int{}
		for _, spent := range s.Spent {
			kind, _, _ := strings.Cut(spent.Limit, ":")
			if kind == "callParam" { // amounts of different tokens
				kind = spent.Limit
			}
			if sums[kind] == nil {
				sums[kind] = new(big.Int)
			}
			amount, _ := new(big.Int).SetString(spent.Amount, 10) // a Builder wrote it
			sums[kind].Add(sums[kind], amount)
		}
		for kind, sum := range sums {
			value, _ := new(big.Float).SetInt(sum).Float64()
			text := ether(value)
			if strings.HasPrefix(kind, "callParam") {
				text = fmt.Sprintf("%.6g", value)
			}
			byKind[kind] = append(byKind[kind], named{short(s.ID), text, value})
		}
	}
	for _, kind := range []struct{ name, title string }{
		{"fee", "Fees, by session"}, {"transferValue", "Value transferred, by session"},
		{"callValue", "Value sent with calls, by session"},
	} {
		if all := byKind[kind.name]; len(all) > 0 {
			charts = append(charts, rows(kind.title, "granted", all))
			delete(byKind, kind.name)
		}
	}
	var params []string
	for kind := range byKind {
		params = append(params, kind)
	}
	slices.Sort(params)
	for _, kind := range params {
		charts = append(charts, rows("Counted by "+kind, "granted", byKind[kind]))
	}
	return charts
}
