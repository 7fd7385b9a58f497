package runner

import (
	"fmt"

	"github.com/tablefull/tablefull/scenarios"
)

// What this program reached per CPU where it was measured (`make bench`, on 2
// CPUs shared by both ends and the node). Other machines differ, so a load is
// doubted only from twice as much on.
const (
	connectionsPerCPU = 8_000  // new TCP connections per second
	requestsPerCPU    = 4_500  // HTTP requests per second, each a new connection
	packetsPerCPU     = 55_000 // SYNs of a flood per second: the cheapest thing there is
	doubtFrom         = 2
)

// Doubts is what makes it unlikely that this machine carries the plan out, as
// far as that can be known beforehand. A run says how it really was: where the
// generator could not keep up, its verdict is inconclusive.
func (p *Plan) Doubts() []string {
	f := p.fill()
	var out []string
	var share float64 // of what all CPUs can do
	for i, t := range p.Scenario.Traffic {
		rate, perCPU := peakOf(t), capacityOf(t)
		share += rate / (perCPU * float64(max(1, p.Caps.CPUs)))
		if n := rate * p.Traffic[i].Timeout; holdsSocket(t) && f.full && p.Caps.MaxFiles > 0 && n > float64(p.Caps.MaxFiles) {
			out = append(out, fmt.Sprintf("%s: once the table is full each attempt holds a socket for its timeout, %.0f/s x %gs = %.0f, and the client may open %d files", p.Traffic[i].Name, rate, p.Traffic[i].Timeout, n, p.Caps.MaxFiles))
		}
	}
	if share > doubtFrom {
		out = append(out, fmt.Sprintf("the load is about %.0f times what %d CPUs did where this program was measured (%d connections/s or %d packets/s each): the generator will probably be the limit, and the verdict inconclusive", share, p.Caps.CPUs, connectionsPerCPU, packetsPerCPU))
	}
	if need := p.Limit() * smallestEntry; p.Scenario.Conntrack.Max != nil && p.Caps.MemoryBytes > 0 && need > p.Caps.MemoryBytes/2 {
		out = append(out, fmt.Sprintf("a full table of %d entries takes at least %d MiB of kernel memory, and this machine has %d MiB in all", p.Limit(), need>>20, p.Caps.MemoryBytes>>20))
	}
	return out
}

// smallestEntry is the memory of a table's entry on kernels where it is
// smallest, bytes.
const smallestEntry = 256

// peakOf is the traffic's highest rate, per s.
func peakOf(t scenarios.Traffic) float64 {
	if t.Idle != nil {
		return float64(t.Idle.OpenRate)
	}
	if p := t.Pacing(); p != nil {
		return peakRate(*p)
	}
	return 0
}

// capacityOf is how many attempts of t one CPU was seen to make per second;
// where that was not measured, how many of something cheaper.
func capacityOf(t scenarios.Traffic) float64 {
	switch {
	case t.ShortLived != nil, t.Idle != nil:
		return connectionsPerCPU
	case t.HTTP != nil && t.HTTP.KeepAlive != nil && !*t.HTTP.KeepAlive:
		return requestsPerCPU
	}
	return packetsPerCPU
}

// holdsSocket says whether each attempt of t has a socket of its own.
func holdsSocket(t scenarios.Traffic) bool {
	switch {
	case t.ShortLived != nil:
		return true
	case t.UDP != nil:
		return t.UDP.Socket == "per_request"
	}
	return false
}
