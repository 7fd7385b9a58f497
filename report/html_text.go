package report

import (
	"fmt"
	"html/template"
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"
)

var htmlFuncs = template.FuncMap{
	"percent": percent, "seconds": seconds, "rate": groupedRate, "ms": ms, "number": number, "moment": moment, "prose": prose,
	"bytes": byteSize, "table": tableOf, "when": when, "plusMinus": plusMinus, "n": grouped[uint64],
	"or0":        orUnknown,
	"words":      words,
	"breakable":  breakable,
	"deref":      func(b *bool) bool { return b != nil && *b },
	"sub":        func(a, b uint64) uint64 { return a - min(a, b) },
	"plural":     func(n int, word string) string { return plural(uint64(n), word) }, //nolint:gosec // a length
	"plural64":   func(n uint64, word string) string { return plural(n, word) },
	"inAll":      func(s *Sizing) string { return s.inAllText() },
	"margin":     func(s *Sizing) string { return prose(s.marginText()) },
	"runNeed":    func(s *Sizing) string { return s.runText() },
	"memory":     func(s *Sizing) string { return prose(memoryText(s)) },
	"prediction": func(p *Prediction) string { return prose(predictionText(p)) },
	"residual":   func(r *Residual) string { return prose(residualText(r)) },
	"entered":    func(e *Entered) string { return prose(enteredText(e)) },
	"part":       func(p SizingPart) string { return prose(partText(p)) },
	"onsetRow":   func(name string, o *Onset) map[string]any { return map[string]any{"Name": name, "Onset": o} },
}

// words lets a name like net.netfilter.nf_conntrack_max go on in the next line
// between its words, and not within one.
func words(name string) template.HTML {
	return template.HTML(wordEnds.Replace(template.HTMLEscapeString(name))) //nolint:gosec // it is escaped
}

// breakable is words for the long names in a text.
func breakable(text string) template.HTML {
	return template.HTML(longName.ReplaceAllStringFunc(template.HTMLEscapeString(text), wordEnds.Replace)) //nolint:gosec // it is escaped
}

var (
	wordEnds = strings.NewReplacer("_", "_<wbr>", ".", ".<wbr>", "/", "/<wbr>")
	longName = regexp.MustCompile(`\S{25,}`)
)

func orUnknown(v *uint64) string {
	if v == nil {
		return "?"
	}
	return grouped(*v)
}

// when is the day and the minute of a moment in RFC 3339; anything else stays
// as it is.
func when(s string) string {
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		return s
	}
	return t.UTC().Format("2006-01-02 15:04 UTC")
}

// grouped writes a whole number with its thousands apart.
func grouped[T uint64 | int64](n T) string {
	return groupDigits(fmt.Sprint(n))
}

func groupDigits(s string) string {
	sign := ""
	if strings.HasPrefix(s, "-") {
		sign, s = "-", s[1:]
	}
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return sign + s
}

// number is a measured value for people, with at most four significant digits
// behind the point and its thousands apart.
func number(v float64) string {
	a := math.Abs(v)
	switch {
	case math.IsNaN(v) || math.IsInf(v, 0):
		return "?"
	case a >= 1e15:
		return fmt.Sprintf("%.4g", v)
	case v == math.Trunc(v) || a >= 1000:
		return groupDigits(strconv.FormatFloat(math.Round(v), 'f', 0, 64))
	}
	return strconv.FormatFloat(v, 'g', 4, 64)
}

func groupedRate(v float64) string {
	if v >= 1000 {
		return number(math.Round(v)) + "/s"
	}
	return perSecond(v)
}

// moment is a run time, as exact as it was measured.
func moment(v float64) string {
	whole, part, _ := strings.Cut(fmt.Sprintf("%.3f", v), ".")
	return groupDigits(whole) + "." + part + " s"
}

// plusMinus is how exact a run time is. Nothing is exact to 0.
func plusMinus(v float64) string {
	if v < 0.0005 {
		return "under 0.001 s"
	}
	return moment(v)
}

// long is a number of four digits or more, with its fraction.
var long = regexp.MustCompile(`[0-9]{4,}(\.[0-9]+)?`)

// prose sets the thousands of a sentence's numbers apart, where they are
// numbers and not part of a name, an address, a date or a version.
func prose(s string) string {
	var b strings.Builder
	last := 0
	for _, at := range long.FindAllStringIndex(s, -1) {
		from, to := at[0], at[1]
		if from > 0 && !strings.ContainsRune(" (+[,;", rune(s[from-1])) || to < len(s) && !strings.ContainsRune(" )],;:/%.", rune(s[to])) {
			continue
		}
		if to+1 < len(s) && s[to] == '.' && s[to+1] != ' ' {
			continue
		}
		whole, fraction, has := strings.Cut(s[from:to], ".")
		b.WriteString(s[last:from])
		b.WriteString(groupDigits(whole))
		if has {
			b.WriteString("." + fraction)
		}
		last = to
	}
	b.WriteString(s[last:])
	return b.String()
}
