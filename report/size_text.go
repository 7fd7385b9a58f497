package report

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"strings"
)

// SizeFormats are what RenderSize can write.
func SizeFormats() []string { return []string{"text", "markdown", "json"} }

// sized is a sizing by itself, as JSON.
type sized struct {
	*Sizing
	Verified *Verification `json:"verified"` // null where it was not
}

// RenderSize writes a sizing by itself, in one of SizeFormats, with the tables
// that a run's own summary leaves out, and how it was verified where it was.
func RenderSize(format string, s *Sizing, v *Verification, w io.Writer) error {
	var b strings.Builder
	s = s.withAllNotes()
	switch format {
	case "text":
		t := &text{}
		t.sizing(s)
		t.sizeTables(s)
		t.verification(v)
		b.WriteString(strings.TrimPrefix(t.b.String(), "\n"))
	case "markdown":
		p := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
		mdSizing(p, s)
		mdSizeTables(p, s)
		mdVerification(p, v)
	case "json":
		e := json.NewEncoder(&b)
		e.SetIndent("", "  ")
		if err := e.Encode(sized{s, v}); err != nil {
			return fmt.Errorf("encode sizing: %w", err)
		}
	default:
		return fmt.Errorf("render sizing: unknown format %q; known are %s", format, strings.Join(SizeFormats(), ", "))
	}
	if _, err := io.WriteString(w, b.String()); err != nil {
		return fmt.Errorf("write sizing: %w", err)
	}
	return nil
}

// residualText is like: what was counted is 0.4 % from what arrivals and
// residence make, on average of 43 samples up to 4.2 s.
func residualText(r *Residual) string {
	second := ""
	if r.second {
		second = " and second entries after clashes (clashres) can"
	}
	s := fmt.Sprintf("what was counted is %s from what arrivals and residence%s make, on average of %d samples up to %s; at most %.0f entries apart",
		percent(r.MeanShare), second, r.Samples, seconds(r.ToS), max(0, math.Ceil(math.Abs(r.Computed-r.Measured)-slop))) // and not -0
	if r.MeanShare <= coarse {
		return s
	}
	apart := r.Measured - r.Computed
	n := float64(r.others.grew())
	if r.others.walks > 1 && apart > 0 && n > apart/2 {
		s += fmt.Sprintf(". In what was counted, and in no size, are connections to no service of the run, such as a kube-proxy's own: a census found up to %s of them more than before it", plural(r.others.grew(), "entry", "entries"))
	}
	if r.others.walks <= 1 || apart <= 0 || n < 0.8*apart {
		s += ". The sizes rest on arrivals and residence: trust them to no better than that"
	}
	return s
}

// coarse is how far the model may be from what was counted before somebody has to be
// told what it is good for.
const coarse = 0.05

func (t *text) sizeTables(s *Sizing) {
	if len(s.Growth) > 0 {
		t.line("")
		t.line("more of the same        entries     limit  memory when full")
		for _, g := range s.Growth {
			t.line("  x %-16g %12d %9d  %s", g.Factor, g.NeededEntries, g.Limit, byteSize(g.MemoryBytesMax))
		}
	}
	if len(s.Fits) > 0 {
		t.line("")
		t.line("nodes with kube-proxy's defaults (maxPerCore 32768, min 131072)%s", strings.Replace(s.aloneText(), "on an otherwise empty node", "otherwise empty", 1))
		t.line("  cores   up to 1.35  holds it   from 1.36  holds it")
		for _, f := range s.Fits {
			t.line("  %5d %12d  %-8s %11d  %s", f.Cores, f.Limit, f.Holds, f.LimitFrom136, f.HoldsFrom136)
		}
		t.para("  ", "tight: it holds, with less than a quarter of the limit free, or not when the collector of expired entries comes late")
	}
	if len(s.Fills) > 0 {
		t.line("")
		t.line("how long the present limit of %d lasts%s", s.Fills[0].Limit, s.aloneText())
		for _, f := range s.Fills {
			t.line("  %-28s %-16s %d entries in the end", f.Case, fullAfter(f), f.SteadyEntries)
		}
		t.para("  ", "without entries that have expired and are not collected yet")
	}
}

func fullAfter(f Fill) string {
	switch {
	case f.Seconds == nil:
		return "never full"
	case *f.Seconds == 0:
		return "full at once"
	}
	return "full after " + seconds(*f.Seconds)
}

func mdSizeTables(p func(string, ...any), s *Sizing) {
	if alone := s.aloneText(); alone != "" && len(s.Growth)+len(s.Fits)+len(s.Fills) > 0 {
		p("For this traffic alone%s:\n", alone)
	}
	if len(s.Growth) > 0 {
		p("| traffic | entries | limit | memory when full |\n|---:|---:|---:|---:|")
		for _, g := range s.Growth {
			p("| x %g | %d | %d | %s |", g.Factor, g.NeededEntries, g.Limit, byteSize(g.MemoryBytesMax))
		}
		p("")
	}
	if len(s.Fits) > 0 {
		p("| cores | kube-proxy's default limit up to 1.35 | holds it | from 1.36 on | holds it |\n|---:|---:|---|---:|---|")
		for _, f := range s.Fits {
			p("| %d | %d | %s | %d | %s |", f.Cores, f.Limit, f.Holds, f.LimitFrom136, f.HoldsFrom136)
		}
		p("")
	}
	if len(s.Fills) > 0 {
		p("| the present limit of %d | | entries in the end |\n|---|---|---:|", s.Fills[0].Limit)
		for _, f := range s.Fills {
			p("| %s | %s | %d |", md(f.Case), fullAfter(f), f.SteadyEntries)
		}
		p("")
	}
}

func (t *text) verification(v *Verification) {
	if v == nil {
		return
	}
	t.line("")
	t.para("verified: ", fmt.Sprintf("%s: %s", v.Verdict, plain(v.Reason)))
	for _, x := range v.Trials {
		t.para("  ", plain(x.text()))
	}
}

func mdVerification(p func(string, ...any), v *Verification) {
	if v == nil {
		return
	}
	p("Verified: **%s**, %s.\n", v.Verdict, md(v.Reason))
	for _, x := range v.Trials {
		p("- %s", md(x.text()))
	}
	p("")
}
