package report

import (
	"encoding/json"
	"fmt"
	"html/template"
	"io"
	"strings"
)

// An Overlay lays two runs over each other, on one axis of run time. It shows
// what was measured in each and what lies between; it does not say whether
// another pair of runs would show the same.
type Overlay struct {
	A, B         *Findings
	NameA, NameB string // what the runs are called, for example their directories
	StateA       string // what to know of A, for example that it is still going; empty for nothing
	StateB       string
	// LinkA and LinkB lead to the two reports, Swap to the same page the other
	// way round, and Back to where runs are chosen; empty for no link.
	LinkA, LinkB, Swap, Back string
}

// Render writes the page, which like the report is one HTML file that needs
// nothing else.
func (o Overlay) Render(w io.Writer) error {
	v, err := o.view()
	if err != nil {
		return fmt.Errorf("write overlay: %w", err)
	}
	texts, err := readAssets("report.html", "overlay.html")
	if err != nil {
		return err
	}
	t := template.New("report").Funcs(htmlFuncs).Funcs(template.FuncMap{"overlayRun": overlayRun})
	for i, name := range []string{"report", "overlay"} {
		if t, err = t.New(name).Parse(texts[i]); err != nil {
			return fmt.Errorf("parse %s template: %w", name, err)
		}
	}
	if err := t.ExecuteTemplate(w, "overlay", v); err != nil {
		return fmt.Errorf("write overlay: %w", err)
	}
	return nil
}

// overlayRun is what the template says of one run.
func overlayRun(letter, name, link, state string, f *Findings) map[string]any {
	return map[string]any{"Letter": letter, "Name": name, "Link": link, "State": state, "F": f}
}

type overlayView struct {
	Overlay
	sheet
	Key  []pair // the figures
	Made []pair // what differs in how the runs were made
}

func (o Overlay) view() (*overlayView, error) {
	c := newOverlayCharts([]laid{{"A", o.A}, {"B", o.B}})
	v := &overlayView{Overlay: o, Key: keyFigures(o.A, o.B), Made: madeOf(o.A, o.B)}
	var err error
	v.sheet, err = sheetOf(c)
	return v, err
}

// A sheet is what a page with plots of several runs consists of besides.
type sheet struct {
	Charts  []chart
	Gaps    []string
	Policy  string
	Styles  []template.CSS
	Scripts []template.JS
	License template.HTML
	Data    template.JS
}

func sheetOf(c *overlayCharts) (sheet, error) {
	v := sheet{Charts: c.all, Gaps: c.gaps}
	data, err := json.Marshal(c.data())
	if err != nil {
		return v, fmt.Errorf("encode plots: %w", err)
	}
	v.Data = template.JS(data) //nolint:gosec // Marshal has escaped <, > and &
	parts, err := readAssets("uplot/uPlot.iife.min.js", "report.js", "uplot/uPlot.min.css", "report.css", "uplot/LICENSE")
	if err != nil {
		return v, err
	}
	var scripts, styles []string
	for _, s := range parts[:2] {
		v.Scripts, scripts = append(v.Scripts, template.JS(s)), append(scripts, sourceHash(s)) //nolint:gosec // an asset
	}
	for _, s := range parts[2:4] {
		v.Styles, styles = append(v.Styles, template.CSS(s)), append(styles, sourceHash(s)) //nolint:gosec // an asset
	}
	v.License = template.HTML("<!--\nuPlot, which draws the plots of this page:\n" + parts[4] + "-->") //nolint:gosec // an asset
	v.Policy = "default-src 'none'; base-uri 'none'; form-action 'none'; script-src " + strings.Join(scripts, " ") + "; style-src " + strings.Join(styles, " ")
	return v, nil
}

// StyleSheet is the report's, for pages that stand beside it.
func StyleSheet() (string, error) {
	s, err := readAssets("report.css")
	if err != nil {
		return "", err
	}
	return s[0], nil
}
