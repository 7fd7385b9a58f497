package report

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
)

// A Format is one of the forms that findings can be rendered in.
type Format struct {
	Name   string
	For    string // what it is for, in one line
	Binary bool   // no terminal can show it
}

type renderer struct {
	Format
	render func(*Findings, io.Writer) error
}

func renderers() []renderer {
	return []renderer{
		{Format{Name: "text", For: "the summary, for a terminal of 80 columns"}, func(f *Findings, w io.Writer) error { return renderText(f, w, false) }},
		{Format{Name: "color", For: "the same with ANSI colours"}, func(f *Findings, w io.Writer) error { return renderText(f, w, true) }},
		{Format{Name: "markdown", For: "for a CI job summary, an issue or a pull request"}, func(f *Findings, w io.Writer) error { return renderMarkdown(f, w, "") }},
		{Format{Name: "json", For: "summary.json: all findings, for programs"}, renderJSON},
		{Format{Name: "junit", For: "one test case per threshold and one for the verdict, for CI"}, renderJUnit},
		{Format{Name: "html", For: "the report as one file that needs nothing else"}, renderHTML},
		{Format{Name: "csv", For: "the time series, one value per row, for pandas or a spreadsheet"}, renderCSV},
		{Format{Name: "gobench", For: "Go benchmark lines, to compare runs with benchstat"}, renderGoBench},
		{Format{Name: "openmetrics", For: "the findings as OpenMetrics 1.0, to push or to collect"}, renderOpenMetrics},
		{Format{Name: "svg", For: "the main plot, for a page"}, renderSVG},
		{Format{Name: "png", For: "the main plot, for chat and Markdown", Binary: true}, renderPNG},
	}
}

// FormatList is what Render can write.
func FormatList() []Format {
	var out []Format
	for _, r := range renderers() {
		out = append(out, r.Format)
	}
	return out
}

// Formats lists the names of what Render can write.
func Formats() []string {
	var out []string
	for _, r := range renderers() {
		out = append(out, r.Name)
	}
	return out
}

// Render writes the findings in one of Formats.
func Render(format string, f *Findings, w io.Writer) error {
	for _, r := range renderers() {
		if r.Name == format {
			return r.render(f, w)
		}
	}
	return fmt.Errorf("render findings: unknown format %q; known are %s", format, strings.Join(Formats(), ", "))
}

// MarkdownWithPicture writes the markdown form for a place where the picture
// lies beside it under that name, and shows it. Render's form has no picture:
// it goes to places that have no files.
func MarkdownWithPicture(f *Findings, picture string, w io.Writer) error {
	return renderMarkdown(f, w, picture)
}

func renderJSON(f *Findings, w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	if err := e.Encode(f); err != nil {
		return fmt.Errorf("encode summary: %w", err)
	}
	return nil
}
