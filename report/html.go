package report

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
)

//go:embed assets/report.html
var htmlReport string

// renderHTML writes one file that needs nothing else: no script, no font, no
// picture from elsewhere.
func renderHTML(f *Findings, w io.Writer) error {
	t, err := template.New("report").Funcs(template.FuncMap{
		"percent": percent, "seconds": seconds, "perSecond": perSecond, "ms": ms, "filling": filling, "part": partText,
		"memory": memoryText, "prediction": predictionText, "threshold": thresholdLine,
		"tablePlot": tablePlot, "loadPlot": loadPlot, "causePlot": causePlot,
		"dict": func(name string, o *Onset) map[string]any { return map[string]any{"Name": name, "Onset": o} },
	}).Parse(htmlReport)
	if err != nil {
		return fmt.Errorf("parse report template: %w", err)
	}
	if err := t.Execute(w, f); err != nil {
		return fmt.Errorf("write html: %w", err)
	}
	return nil
}
