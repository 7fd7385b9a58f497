package report

import (
	"slices"
	"strings"
)

// shownReasons are the reasons less the evidence of causes, which stands beside
// these, once. A search shows no causes.
func shownReasons(f *Findings) []string {
	if f.Capacity != nil {
		return f.Reasons
	}
	out := slices.Clone(f.Reasons)
	for i := range out {
		for _, c := range f.Causes {
			if short, is := strings.CutSuffix(out[i], ": "+c.Evidence); is && c.Evidence != "" {
				out[i] = short
			}
		}
	}
	return out
}

// told says whether the reasons say something already.
func told(f *Findings, what string) bool {
	return slices.ContainsFunc(f.Reasons, func(r string) bool { return strings.Contains(r, what) })
}

// listedLine is a threshold in a list of all of them, without what the reasons say.
func listedLine(f *Findings, r ThresholdResult) string {
	if line := thresholdLine(r); !told(f, line) {
		return line
	}
	return r.Threshold
}
