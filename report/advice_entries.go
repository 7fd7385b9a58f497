package report

import "fmt"

// entryAdvice is for incidents of entries that live for another time than
// their connections; false where there is none.
func entryAdvice(f *Findings) (advice, bool) {
	if n := headNode(f); n != nil && tableTrouble(f) && leaked(n) != "" {
		return advice{
			Do: "Close in the application what the other side has closed: no limit is a remedy for a leak that goes on.",
			Why: []string{
				fmt.Sprintf("The table of %s is full%s.", n.Name, leaked(n)),
				"A shorter nf_conntrack_tcp_timeout_close_wait needs fewer entries, as many times fewer as it is shorter: see Sizing.",
			},
		}, true
	}
	if tableTrouble(f) {
		return advice{}, false
	}
	for i := range f.Traffic {
		t := &f.Traffic[i]
		if len(t.HeldCauses) > 0 && t.HeldCauses[0].Cause == entryExpired {
			return advice{
				Do:  "Not the limit: let no connection be quiet for as long as the node's nf_conntrack_tcp_timeout_established, with TCP keep-alive or traffic of its own; or make that timeout longer.",
				Why: []string{fmt.Sprintf("%s lost %s because of %s: %s.", t.Name, plural(t.HeldCauses[0].Connections, "held connection"), entryExpired, t.HeldCauses[0].Evidence)},
			}, true
		}
	}
	if len(f.Causes) > 0 && f.Causes[0].Cause == untranslated {
		return advice{
			Do:  "Not the limit: let no client connect before the node's proxy has programmed the service.",
			Why: []string{"An entry that was made before the rules keeps its connection from being translated for as long as it lives. Deleting such entries (conntrack -D) or connecting anew, from another source port, helps at once."},
		}, true
	}
	return advice{}, false
}
