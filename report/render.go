package report

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
)

// Formats lists what Render can write.
func Formats() []string {
	return []string{"text", "color", "markdown", "json", "junit", "html"}
}

// Render writes the findings in one of Formats: text is for an 80-column
// terminal, color the same with ANSI colours, markdown for a CI job summary,
// json is summary.json, junit has one test case per threshold and one for the
// verdict, html is one file that needs nothing else.
func Render(format string, f *Findings, w io.Writer) error {
	switch format {
	case "text":
		return renderText(f, w, false)
	case "color":
		return renderText(f, w, true)
	case "markdown":
		return renderMarkdown(f, w)
	case "json":
		return renderJSON(f, w)
	case "junit":
		return renderJUnit(f, w)
	case "html":
		return renderHTML(f, w)
	}
	return fmt.Errorf("render findings: unknown format %q; known are %s", format, strings.Join(Formats(), ", "))
}

func renderJSON(f *Findings, w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	if err := e.Encode(f); err != nil {
		return fmt.Errorf("encode summary: %w", err)
	}
	return nil
}
