package report

import (
	"fmt"
	"strings"
)

// causeAdvice is for attempts that failed of a cause that says by itself what is to be
// changed; false where that stands on more than the cause.
func causeAdvice(f *Findings, cause string) (a advice, is bool) {
	switch {
	case cause == chainLong && blamed(f, cause) != nil:
		return chainsAdvice(f, blamed(f, cause)), true
	case cause == snatPorts && blamed(f, cause) != nil && blamed(f, cause).Ports != nil:
		return portsAdvice(blamed(f, cause)), true
	case cause == natClash:
		return advice{
			Do:  "Not the limit: connections were translated to the same addresses and ports at once, and the kernel dropped the second.",
			Why: []string{"Choose the source ports of masquerading fully at random (kube-proxy does), or do without it; give the node more addresses or the service more pods."},
		}, true
	case cause == noEndpoint:
		return noEndpointAdvice(f), true
	case cause == drainingBackend:
		return drainingAdvice(f), true
	case cause == unknownCause:
		return unknownAdvice(f), true
	}
	return remedies[cause], remedies[cause].Do != ""
}

// otherCauses is a line for each cause of a tenth of the failures or more that the
// advice is not about.
func otherCauses(f *Findings) (lines []string) {
	top, _, all := mainCause(f)
	for _, c := range f.Causes {
		about := c.Cause == top
		switch {
		case f.Verdict == Inconclusive:
			about = c.Cause == unknownCause // else there is no advice
		case tableTrouble(f):
			about = byRoom(c.Cause)
		}
		if about || strings.HasPrefix(c.Cause, generatorPrefix) || 10*c.Failures < all || c.Failures == 0 {
			continue
		}
		lines = append(lines, fmt.Sprintf("Besides, %d of the %d attempts that failed did so because of %s. %s", c.Failures, all, c.Cause, besideText(f, c.Cause)))
	}
	return lines
}

// besideText is what to do about such a cause, in short.
func besideText(f *Findings, cause string) string {
	switch cause {
	case staleBackend:
		return "They were led to addresses that were no usable pods any more: let pods serve on for longer than nodes, and entries, lead there."
	case unknownCause:
		return "What those failed of this run does not show."
	case natClash:
		return "Choose the source ports of masquerading fully at random (kube-proxy does), or do without it."
	}
	a, _ := causeAdvice(f, cause)
	if cause == untranslated {
		a.Do = untranslatedDo
	}
	if a.Do == "" {
		return "See its evidence below."
	}
	short := strings.TrimPrefix(a.Do, notTheLimit)
	return strings.ToUpper(short[:1]) + short[1:]
}

const (
	notTheLimit    = "Not the limit: "
	untranslatedDo = notTheLimit + "let no client connect before the node's proxy has programmed the service."
)
