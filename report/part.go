package report

import (
	"fmt"
	"math"
	"strconv"
)

// exact is a number with as many digits as anybody multiplies with.
func exact(v float64) string { return significant(v, 6) }

// significant is a number with so many significant digits at most.
func significant(v float64, n int) string {
	rounded := asPrinted(strconv.FormatFloat(v, 'e', n-1, 64))
	return strconv.FormatFloat(rounded, 'f', -1, 64)
}

// asPrinted is the number that a reader has.
func asPrinted(s string) float64 {
	v, _ := strconv.ParseFloat(s, 64) // what FormatFloat wrote
	return v
}

// partText is how one traffic's need was computed, in numbers that multiply to what
// is printed.
func partText(p SizingPart) string {
	s := p.Traffic + ":"
	switch {
	case p.Held > 0:
		s += fmt.Sprintf(" %d held", p.Held)
	case p.Given || p.overS == 0:
		s += " " + exact(p.ArrivalsPerS) + "/s"
	default:
		s += fmt.Sprintf(" %s/s in its busiest %.2g s", exact(p.ArrivalsPerS), p.overS)
	}
	if p.Held == 0 && p.EntriesPerAttempt > 0 && p.ResidenceS > 0 {
		s += fmt.Sprintf(" x %s x %s", exact(p.EntriesPerAttempt), p.staysText())
	}
	if p.MeasuredS != nil {
		s += fmt.Sprintf(" (measured: %.3g s)", *p.MeasuredS)
	}
	if p.Entries != nil {
		s += p.equals()
	}
	if p.Note != "" {
		s += " (" + p.Note + ")"
	}
	if !p.Counted {
		s += ", not counted"
	}
	return s
}

// staysText is for how long an attempt takes an entry: while it goes on, too.
func (p SizingPart) staysText() string {
	after := fmt.Sprintf("%s s in %s", exact(p.ResidenceS), cmpOr(p.State, "its last state"))
	if p.attemptS <= 0 {
		return after
	}
	return fmt.Sprintf("(%s + %s ms until then)", after, significant(1000*p.attemptS, 3))
}

// equals is what that makes, rounded up to whole entries.
func (p SizingPart) equals() string {
	if p.Held > 0 {
		return fmt.Sprintf(" = %d entries", *p.Entries)
	}
	product := asPrinted(exact(p.ArrivalsPerS)) * asPrinted(exact(p.EntriesPerAttempt)) * (asPrinted(exact(p.ResidenceS)) + asPrinted(significant(1000*p.attemptS, 3))/1000)
	if math.Abs(product-float64(*p.Entries)) <= 1 {
		return fmt.Sprintf(" = %d entries", *p.Entries)
	}
	return fmt.Sprintf(", with all their digits = %d entries", *p.Entries)
}
