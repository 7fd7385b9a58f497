package report

import (
	"fmt"
	"strconv"

	"github.com/tablefull/tablefull/report/runlog"
)

// Aged is the wait, before a node's table was filled, for entries of a run
// before to leave it.
type Aged struct {
	Left    uint64  `json:"left" jsonschema_description:"Entries of the run before that were still there after the wait."`
	WaitedS float64 `json:"waited_s" jsonschema_description:"How long it took, s."`
}

// agedOf is nil for an event that says nothing.
func agedOf(e *runlog.Event) *Aged {
	n, err := strconv.ParseUint(e.Fields["left"], 10, 64)
	waited, werr := strconv.ParseFloat(e.Fields["waited_s"], 64)
	if err != nil || werr != nil || !sane(waited) || waited < 0 {
		return nil
	}
	return &Aged{Left: n, WaitedS: waited}
}

// why says why the node's table was not as a trial has to find it.
func (a *Aged) why(node string) string {
	return fmt.Sprintf("%s's table still had %d entries of the trial before, after %.0f s of waiting", node, a.Left, a.WaitedS)
}
