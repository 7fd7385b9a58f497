package report

import (
	"fmt"
	"html/template"
	"io"
	"slices"
)

// comparisonView is what the template sees.
type comparisonView struct {
	*Comparison
	sheet
	About  string
	Change []string // what to change
	YAML   string   // of the scenario
	Rows   []MetricRow
	Same   string // in all arms, without a row
	Wide   bool   // what metrics are is said below the table
	Laid   laidArms
}

type laidArms []laidArm

// Any is whether a run is shown of any arm.
func (l laidArms) Any() bool { return slices.ContainsFunc(l, func(a laidArm) bool { return a.Shown }) }

// Choice is whether that of any arm was chosen from several.
func (l laidArms) Choice() bool {
	return slices.ContainsFunc(l, func(a laidArm) bool { return a.Of > 1 })
}

// A laidArm is an arm as it is in the plots.
type laidArm struct {
	Name, Color, Dir string
	Shown            bool
	Of               int // sound runs that the one shown was chosen from
	Findings         *Findings
}

// renderHTML writes the page, which is one HTML file that needs nothing else.
func (c *Comparison) renderHTML(w io.Writer) error {
	var runs []laid
	v := comparisonView{Comparison: c, About: c.about(), Change: c.change, YAML: c.source, Rows: c.rows(), Wide: len(c.Arms) > 3}
	for i := range c.Arms {
		a := &c.Arms[i]
		l := laidArm{Name: a.Name, Findings: a.typical()}
		if l.Findings != nil {
			l.Of = a.sound()
			l.Shown, l.Color, l.Dir = true, runColors[len(runs)%len(runColors)].name, a.Runs[a.Typical].Dir
			runs = append(runs, laid{a.Name, l.Findings})
		}
		v.Laid = append(v.Laid, l)
	}
	if c.Test == "" {
		v.Same = c.same()
	}
	charts := &overlayCharts{}
	if len(runs) > 0 {
		charts = newOverlayCharts(runs)
	}
	var err error
	if v.sheet, err = sheetOf(charts); err != nil {
		return err
	}
	texts, err := readAssets("report.html", "compare.html")
	if err != nil {
		return err
	}
	t := template.New("report").Funcs(htmlFuncs).Funcs(template.FuncMap{
		"against": (*Against).change,
		"class":   func(r Result) string { return map[Result]string{Worse: "fail", Better: "pass"}[r] },
	})
	for i, name := range []string{"report", "compare"} {
		if t, err = t.New(name).Parse(texts[i]); err != nil {
			return fmt.Errorf("parse %s template: %w", name, err)
		}
	}
	return t.ExecuteTemplate(w, "compare", v)
}
