package report

import (
	"fmt"
	"math"
)

// tableRows is how many rows the table behind a plot has at most.
const tableRows = 40

// A plotTable is a plot in numbers.
type plotTable struct {
	Caption string
	Columns []string
	Rows    [][]string
}

// tableOf is the table behind a plot. Where there are more points than rows,
// each row is the highest of several.
func tableOf(c chart) plotTable {
	t := plotTable{Caption: c.Title + ", " + c.Unit, Columns: []string{"at, s"}}
	switch {
	case c.Kind == "load":
		t.Columns[0] = c.XUnit
	case c.Steps == "after":
		t.Columns[0] = "from, s"
	case c.Steps == "before":
		t.Columns[0] = "up to, s"
	}
	for _, s := range c.Series {
		t.Columns = append(t.Columns, s.Name)
	}
	if c.Stops { // its last point is no step of its own
		c.X = c.X[:len(c.X)-1]
	}
	per := (len(c.X) + tableRows - 1) / tableRows
	if per > 1 {
		t.Caption += fmt.Sprintf("; each row is the highest of %d points", per)
	}
	for i := 0; i < len(c.X); i += max(1, per) {
		row := []string{number(math.Round(c.X[i]*1000) / 1000)}
		for _, s := range c.Series {
			v := math.NaN()
			for _, x := range s.V[i:min(i+per, len(c.X))] {
				if math.IsNaN(v) || x > v {
					v = x
				}
			}
			row = append(row, cell(v, c.Share || s.Right))
		}
		t.Rows = append(t.Rows, row)
	}
	return t
}

func cell(v float64, share bool) string {
	switch {
	case math.IsNaN(v):
		return "–"
	case share:
		return percent(v)
	}
	return number(v)
}
