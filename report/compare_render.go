package report

import (
	"cmp"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"unicode/utf8"
)

type comparisonRenderer struct {
	Format
	render func(*Comparison, io.Writer) error
}

func comparisonRenderers() []comparisonRenderer {
	return []comparisonRenderer{
		{Format{Name: "text", For: "the tables, for a terminal"}, func(c *Comparison, w io.Writer) error { return c.renderText(w, false) }},
		{Format{Name: "color", For: "the same with ANSI colours"}, func(c *Comparison, w io.Writer) error { return c.renderText(w, true) }},
		{Format{Name: "markdown", For: "for a CI job summary or a pull request"}, (*Comparison).renderMarkdown},
		{Format{Name: "json", For: "comparison.json: all of it, for programs"}, (*Comparison).renderJSON},
		{Format{Name: "junit", For: "one test case per metric, skipped where it does not decide, and one for the verdict, for CI"}, (*Comparison).renderJUnit},
		{Format{Name: "html", For: "the arms over each other, as one file that needs nothing else"}, (*Comparison).renderHTML},
		{Format{Name: "gobench", For: "each trial as Go benchmark lines: benchstat -col /arm"}, (*Comparison).renderGoBench},
	}
}

// ComparisonFormats is what [Comparison.Render] can write.
func ComparisonFormats() []Format {
	var out []Format
	for _, r := range comparisonRenderers() {
		out = append(out, r.Format)
	}
	return out
}

// Render writes the comparison in one of ComparisonFormats.
func (c *Comparison) Render(format string, w io.Writer) error {
	var names []string
	for _, r := range comparisonRenderers() {
		if r.Name == format {
			if err := r.render(c, w); err != nil {
				return fmt.Errorf("render comparison: %w", err)
			}
			return nil
		}
		names = append(names, r.Name)
	}
	return fmt.Errorf("render comparison: unknown format %q; known are %s", format, strings.Join(names, ", "))
}

func (c *Comparison) renderJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(c)
}

// tableOrder is in which order metrics are worth a column.
var tableOrder = []string{"failures_per_action", "spike", "stale", "drop_at", "failures", "errors", "entries_per_attempt", "peak_entries", "p99", "capacity", "programming", "proxy_cpu", "proxy_memory"}

// short names of metrics for the head of a column.
var columnNames = map[string][2]string{
	"failures_per_action": {"failed per", "action"}, "spike": {"longest", "spike"}, "stale": {"stale", ""}, "drop_at": {"drops", "from"},
	"failures": {"failed", ""}, "errors": {"errors", ""}, "entries_per_attempt": {"entries per", "attempt"}, "peak_entries": {"entries", "at most"},
	"p99": {"p99", ""}, "capacity": {"capacity", ""}, "programming": {"program-", "ming"}, "proxy_cpu": {"proxy", "CPU"}, "proxy_memory": {"proxy", "memory"},
}

func (c *Comparison) renderText(w io.Writer, color bool) error {
	t := &text{color: color}
	t.para("", t.paint("1", plain(c.Headline)))
	t.line("")
	t.line("verdict of %s: %s", plain(c.Scenario), t.paint(verdictColors[c.Verdict], string(c.Verdict)))
	for _, r := range c.Reasons {
		t.para("  - ", plain(r))
	}
	t.list("what to change", c.change)
	t.line("")
	c.textTable(t)
	if s := c.same(); s != "" && c.Test == "" {
		t.para("  ", plain(s))
	}
	t.line("")
	t.para("", plain(c.about()))
	for _, a := range c.Arms {
		if len(a.Set) > 0 || a.Description != "" {
			t.para("  "+plain(a.Name)+": ", plain(a.made()))
		}
	}
	c.textDetails(t)
	t.list("warnings", c.Warnings)
	_, err := io.WriteString(w, t.b.String())
	return err
}

var verdictColors = map[Verdict]string{Pass: "1;32", Fail: "1;31", Inconclusive: "1;33"}

// about says what kind of comparison this is, and of what runs.
func (c *Comparison) about() string {
	s := c.kind()
	if v := c.length(); v > 0 {
		were := "were"
		if c.cutShort() {
			were = "were to be"
		}
		s += fmt.Sprintf(" Attempts %s due for %s in each run.", were, amount(v, "s"))
	}
	var on []string
	for _, a := range c.Arms {
		for _, t := range a.trials {
			e := t.Findings.Environment
			if text := fmt.Sprintf("kernel %s, %s", e.Kernel, plural(uint64(max(0, e.CPUs)), "CPU")); e.Kernel != "" && !slices.Contains(on, text) { //nolint:gosec // at least 0
				on = append(on, text)
			}
		}
	}
	if len(on) > 0 {
		s += " Made on " + strings.Join(on, "; and on ") + "."
	}
	return s
}

// cutShort says whether some run may have ended before its time.
func (c *Comparison) cutShort() bool {
	return slices.ContainsFunc(c.Arms, func(a ArmFindings) bool {
		return slices.ContainsFunc(a.trials, func(t Trial) bool { return t.Findings.Incomplete || t.Findings.aborted })
	})
}

func (c *Comparison) kind() string {
	n := map[int]bool{}
	least := math.MaxInt
	for _, a := range c.Arms {
		n[len(a.trials)] = true
		least = min(least, len(a.trials))
	}
	switch {
	case len(c.Arms) == 0:
		return "There are no arms."
	case c.Test == "" && len(c.Metrics) == 0:
		return "Nothing was measured that could stand beside each other."
	case c.Test == "" && least == 0:
		var none []string
		for _, a := range c.Arms {
			if len(a.trials) == 0 {
				none = append(none, a.Name)
			}
		}
		return fmt.Sprintf("No run counts of %s: a plain table of the others, without a test.", listed(none))
	case c.Test == "" && least <= 1:
		return "One trial of each arm: a plain table, without a test. Whether another trial would show the same, nobody can tell from one."
	case c.Test == "":
		return "No test was made."
	}
	order := "in a random order"
	if c.Trials == 0 {
		order = "as they were given; nobody fixed their number in advance"
	}
	trials := fmt.Sprintf("%d", least)
	if len(n) > 1 {
		trials += " or more"
	}
	few := ""
	if least < 6 {
		few = " (±∞: fewer than 6 trials give none)"
	}
	return fmt.Sprintf("%s trials of each arm, %s. %s%s. ~ is no difference shown, at alpha %g for all that decide together.", trials, order, c.Test, few, c.Alpha)
}

// made is how the arm differs, in a line.
func (a *ArmFindings) made() string {
	parts := slices.Clone(a.Set)
	if a.Description != "" {
		parts = append(parts, a.Description)
	}
	return strings.Join(parts, "; ")
}

// textTable has the arms as rows.
func (c *Comparison) textTable(t *text) {
	cols := c.columnsShown(5)
	if len(cols) == 0 {
		if len(c.Metrics) == 0 {
			return // which is said below
		}
		t.line("  nothing was measured that could stand beside each other")
		return
	}
	width := 3
	for _, a := range c.Arms {
		width = max(width, utf8.RuneCountInString(a.Name))
	}
	width = min(width, 24)
	head := func(k int) {
		line := fmt.Sprintf("  %-*s", width, "")
		for _, r := range cols {
			name := columnNames[r.Group][k]
			if r.Group == "p99" {
				name = [2]string{"p99", strings.TrimPrefix(strings.TrimPrefix(r.Metric, "p99"), " ")}[k]
			}
			line += fmt.Sprintf(" %11.11s", name)
		}
		t.line("%s", strings.TrimRight(line, " "))
	}
	head(0)
	head(1)
	for k, a := range c.Arms {
		line := fmt.Sprintf("  %-*.*s", width, width, plain(a.Name))
		for _, r := range cols {
			line += fmt.Sprintf(" %11s", amount(r.Arms[k].median, r.Unit))
		}
		if a.Verdict != "" {
			line += "  " + t.paint(verdictColors[a.Verdict], string(a.Verdict))
		}
		t.line("%s", line)
	}
}

// textDetails is what each metric showed, where tests were made.
func (c *Comparison) textDetails(t *text) {
	if c.Test == "" {
		return
	}
	for i := range c.Metrics {
		r := &c.Metrics[i]
		decides := "for information"
		if r.Gate {
			decides = "decides; margin " + r.Margin
		}
		t.line("")
		t.para("", fmt.Sprintf("%s: %s (%s is better; %s)", r.Metric, plain(r.About), r.Better, decides))
		for _, v := range r.Arms {
			line := fmt.Sprintf("  %-18.18s %-34s", plain(v.Arm), v.Text)
			if x := v.Against; x != nil {
				line += fmt.Sprintf(" %10s", x.Mark)
				if x.Adjusted != nil {
					line += fmt.Sprintf("  p=%.3f", *x.Adjusted)
				}
				if x.Result != NotShown {
					line += "  " + t.paint(map[Result]string{Worse: "1;31", Better: "1;32"}[x.Result]+"", string(x.Result))
				}
			}
			t.line("%s", strings.TrimRight(line, " "))
		}
	}
}

func (c *Comparison) renderMarkdown(w io.Writer) error {
	var b strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	p("## tablefull: %s: **%s**\n", md(cmp.Or(c.Scenario, "comparison")), c.Badge())
	p("**%s**\n", md(c.Headline))
	mdList(p, "", c.Reasons)
	mdList(p, "**What to change:**\n", c.change)
	head, rule := "| |", "|---|"
	for i, a := range c.Arms {
		head += " " + md(a.Name) + " |"
		rule += "---:|"
		if i > 0 && c.Test != "" {
			head += " |"
			rule += "---|"
		}
	}
	p("%s\n%s", head, rule)
	for _, r := range c.rows() {
		name := md(r.Metric)
		if r.Gate {
			name = "**" + name + "**"
		}
		line := "| " + name + " |"
		for k, v := range r.Arms {
			line += " " + md(v.Text) + " |"
			if k > 0 && c.Test != "" {
				line += " " + md(v.Against.cell()) + " |"
			}
		}
		p("%s", line)
	}
	if s := c.same(); s != "" && c.Test == "" {
		p("\n%s", md(s))
	}
	p("\n%s", md(c.about()))
	if slices.ContainsFunc(c.Metrics, func(r MetricRow) bool { return r.Gate }) {
		p("Metrics in bold decide.")
	}
	p("")
	for _, a := range c.Arms {
		if len(a.Set) > 0 || a.Description != "" {
			p("- **%s**: %s", md(a.Name), md(a.made()))
		}
	}
	p("")
	mdList(p, "### Warnings", c.Warnings)
	p("<sub>Seed %d; order: %s</sub>", c.Seed, md(strings.Join(c.Order, ", ")))
	_, err := io.WriteString(w, b.String())
	return err
}

// change is like: +12.5 % (p=0.002).
func (x *Against) change() string {
	s := x.Mark
	if x.Adjusted != nil {
		s += fmt.Sprintf(" (p=%.3f)", *x.Adjusted)
	}
	return s
}

// cell is the comparison of one metric in a table's cell.
func (x *Against) cell() string {
	s := x.change()
	if x.Result == Worse || x.Result == Better {
		s += " " + string(x.Result)
	}
	return strings.TrimSpace(s)
}

// renderJUnit writes one test case for the verdict and one for each metric and
// arm; where no metric decides, one for each arm that is asked for something,
// too. What says nothing is an error: neither passed nor failed. A metric that is
// for information is skipped, and says what was measured.
func (c *Comparison) renderJUnit(w io.Writer) error {
	class := "tablefull." + cmp.Or(c.Scenario, "comparison")
	s := junitSuite{Name: class, Out: c.Headline + "\n" + strings.Join(c.Warnings, "\n")}
	for _, a := range c.Arms {
		for _, r := range a.Runs {
			if s.Timestamp == "" || r.Started != "" && r.Started < s.Timestamp {
				s.Timestamp = r.Started
			}
		}
	}
	add := func(name string, v Verdict, message, text string) {
		k := junitCase{Name: name, Class: class}
		result := &junitResult{Message: message, Type: string(v), Text: text}
		switch v {
		case Fail:
			k.Failure = result
			s.Failures++
		case Pass:
		default:
			k.Error = result
			s.Errors++
		}
		s.Tests++
		s.Cases = append(s.Cases, k)
	}
	add("verdict", c.Verdict, c.Headline, strings.Join(c.Reasons, "\n"))
	for i := range c.Metrics {
		r := &c.Metrics[i]
		for _, v := range r.Arms[min(1, len(r.Arms)):] {
			if !r.Gate {
				s.inform(r, v, class, c.Baseline)
				continue
			}
			verdict := map[Result]Verdict{Worse: Fail, Untested: Inconclusive}[v.Against.Result]
			add(fmt.Sprintf("%s: %s against %s", r.Metric, v.Arm, c.Baseline), cmp.Or(verdict, Pass), r.sentence(v), strings.Join(v.Against.Warnings, "\n"))
		}
	}
	for _, a := range c.Arms {
		if a.Verdict != "" && !slices.ContainsFunc(c.Metrics, func(r MetricRow) bool { return r.Gate }) {
			add("arm "+a.Name, a.Verdict, first(a.Reasons), strings.Join(a.Reasons, "\n"))
		}
	}
	if _, err := io.WriteString(w, xml.Header); err != nil {
		return err
	}
	e := xml.NewEncoder(w)
	e.Indent("", "  ")
	if err := e.Encode(junitSuites{Tests: s.Tests, Failures: s.Failures, Errors: s.Errors, Skipped: s.Skipped, Suites: []junitSuite{s}}); err != nil {
		return err
	}
	_, err := io.WriteString(w, "\n")
	return err
}

// inform adds the case of a metric that decides nothing.
func (s *junitSuite) inform(r *MetricRow, v ArmValue, class, baseline string) {
	if v.Against == nil {
		return
	}
	s.Tests++
	s.Skipped++
	s.Cases = append(s.Cases, junitCase{
		Name: fmt.Sprintf("%s: %s against %s", r.Metric, v.Arm, baseline), Class: class,
		Skipped: &junitSkip{fmt.Sprintf("for information: %s against %s, %s", v.Text, r.Arms[0].Text, v.Against.cell())},
	})
}

// benchUnits are the metrics' units as benchmarks spell them.
var benchUnits = map[string]string{"s": "sec", "ms": "ms", "%": "percent", "attempts": "attempts", "entries": "entries", "MiB": "MiB", "1/s": "conn/s"}

// renderGoBench writes one line for each metric of each trial, named by metric
// and arm, so that `benchstat -col /arm` does the same comparison again from raw
// values. What never happened has no number there and is left out.
func (c *Comparison) renderGoBench(w io.Writer) error {
	b := &bench{}
	b.config("scenario", c.Scenario)
	for _, a := range c.Arms {
		if len(a.trials) > 0 {
			e := a.trials[0].Findings.Environment
			b.config("kernel", e.Kernel)
			b.config("cpus", fmt.Sprint(e.CPUs))
			break
		}
	}
	for i := range c.Metrics {
		r := &c.Metrics[i]
		for _, v := range r.Arms {
			for _, x := range v.values {
				b.add(benchOf("Run/metric="+benchName(r.Metric)+"/arm="+benchName(v.Arm), 1).value(x, benchUnits[r.Unit]))
			}
		}
	}
	_, err := io.WriteString(w, b.b.String())
	return err
}
