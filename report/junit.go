package report

import (
	"encoding/xml"
	"fmt"
	"io"
	"slices"
	"strings"
)

type junitSuites struct {
	XMLName  xml.Name     `xml:"testsuites"`
	Tests    int          `xml:"tests,attr"`
	Failures int          `xml:"failures,attr"`
	Errors   int          `xml:"errors,attr"`
	Skipped  int          `xml:"skipped,attr,omitempty"`
	Suites   []junitSuite `xml:"testsuite"`
}

type junitSuite struct {
	Name      string      `xml:"name,attr"`
	Tests     int         `xml:"tests,attr"`
	Failures  int         `xml:"failures,attr"`
	Errors    int         `xml:"errors,attr"`
	Skipped   int         `xml:"skipped,attr,omitempty"`
	Timestamp string      `xml:"timestamp,attr,omitempty"`
	Cases     []junitCase `xml:"testcase"`
	Out       string      `xml:"system-out,omitempty"`
}

type junitCase struct {
	Name    string       `xml:"name,attr"`
	Class   string       `xml:"classname,attr"`
	Failure *junitResult `xml:"failure,omitempty"`
	Error   *junitResult `xml:"error,omitempty"`
	Skipped *junitSkip   `xml:"skipped,omitempty"`
}

// junitSkip says why a case is neither passed nor failed, and need not be.
type junitSkip struct {
	Message string `xml:"message,attr"`
}

type junitResult struct {
	Message string `xml:"message,attr"`
	Type    string `xml:"type,attr"`
	Text    string `xml:",chardata"`
}

// renderJUnit writes one test case for the verdict, one per threshold and one per
// expectation, and what the actions cost as output. What is inconclusive is an error: neither passed nor failed.
func renderJUnit(f *Findings, w io.Writer) error {
	class := "tablefull." + cmpOr(f.Scenario, "unknown")
	s := junitSuite{Name: class, Timestamp: f.Environment.Started, Out: strings.Join(append([]string{f.Headline}, actionLines(f)...), "\n")}
	add := func(name string, v Verdict, message, text string) {
		c := junitCase{Name: name, Class: class}
		result := &junitResult{Message: message, Type: string(v), Text: text}
		switch v {
		case Fail:
			c.Failure = result
			s.Failures++
		case Pass:
		default:
			c.Error = result
			s.Errors++
		}
		s.Tests++
		s.Cases = append(s.Cases, c)
	}
	add("verdict", f.Verdict, f.Headline, strings.Join(f.Reasons, "\n"))
	if c := f.Capacity; c != nil {
		for _, g := range c.Goals {
			v, text := c.goalVerdict(g), c.goalText(g)
			if f.Verdict == Inconclusive && v == Pass {
				v, text = Inconclusive, "the search is inconclusive: "+first(f.Reasons)+"\n"+text
			}
			add(fmt.Sprintf("capacity, at most %s lost", percent(g.LossRatio)), v, c.goalText(g), text)
		}
	}
	for i, r := range slices.Concat(f.Thresholds, f.Expected) {
		v := r.Result
		text := r.Detail
		name := r.Threshold
		if i >= len(f.Thresholds) {
			name = "expect: " + name
			if v == Fail {
				v = Inconclusive // not reproduced here, which is no fault
			}
		}
		if f.Verdict == Inconclusive && v == Pass {
			// Whatever was measured, the run as a whole says nothing.
			v, text = Inconclusive, "the run is inconclusive: "+first(f.Reasons)+"\n"+text
		}
		add(name, v, thresholdLine(r), text)
	}
	if _, err := io.WriteString(w, xml.Header); err != nil {
		return fmt.Errorf("write junit: %w", err)
	}
	e := xml.NewEncoder(w)
	e.Indent("", "  ")
	if err := e.Encode(junitSuites{Tests: s.Tests, Failures: s.Failures, Errors: s.Errors, Suites: []junitSuite{s}}); err != nil {
		return fmt.Errorf("encode junit: %w", err)
	}
	_, err := io.WriteString(w, "\n")
	if err != nil {
		return fmt.Errorf("write junit: %w", err)
	}
	return nil
}

func first(s []string) string {
	if len(s) == 0 {
		return ""
	}
	return s[0]
}
