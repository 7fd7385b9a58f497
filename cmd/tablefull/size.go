package main

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/tablefull/tablefull/report"
	"github.com/tablefull/tablefull/scenarios"
)

// load is what is typed in to be sized for.
type load struct {
	connections, resets, unclosed, udp scenarios.Rate
	held, udpFlows, base               uint64
	perConnection                      float64
	timeouts                           []string
	limit, entryBytes                  uint64
	cores                              int
	memory                             string
}

// residues are the states that entries end in, with the timeout that takes
// them out, its name below net.netfilter.nf_conntrack_, and its length in s on
// a node of a cluster: the kernel's, or kube-proxy's where that sets one
// (tcpCloseWaitTimeout).
var residues = map[string]struct {
	timeout string
	seconds float64
}{
	"TIME_WAIT":  {"tcp_timeout_time_wait", 120},
	"CLOSE":      {"tcp_timeout_close", 10},
	"CLOSE_WAIT": {"tcp_timeout_close_wait", 3600},
	"UDP":        {"udp_timeout", 30},
}

func sizeCommand(s Streams) *cobra.Command {
	var l load
	var v verifyFlags
	var again bool
	v.kube = newKubeFlags()
	c := &cobra.Command{
		Use:   "size [DIR]",
		Short: "Compute the limit that a load needs, from a run or from numbers",
		Long: `Size computes how many entries a load needs in the steady state: arrivals per
second times the seconds each entry stays, plus what is held open. From that
come the limit, buckets, memory, settings to paste for kube-proxy and sysctl,
what shorter timeouts would change, what more traffic would need, which sizes of
node hold it with kube-proxy's defaults, and how long the present limit lasts
from a cold start and after a failover.

With DIR, a run's directory, arrivals are those measured there, and the model is
held against what the table did. Without, the load is given in numbers; timeouts
are then the kernel's and kube-proxy's defaults unless --timeout says otherwise.
It computes only, changes nothing and needs no rights, but for --verify: that
runs the scenario of a run in the lab twice again, with exactly as many entries
free as it needs at once, which must hold, and with a tenth less, which must
not; the rest of the table is ballast. It verifies the need of a run of that
length: to verify the steady state, let the run last longer than its entries.

A run that was made on a cluster is verified there, if you say so with --target
kubernetes, and with --image, --context and what else run was given. It enters by
the same node, unless --node names another, which then has no more room than that
for anybody's new connections. Each run first waits until the entries of the one before
have expired, which takes two minutes mostly. What the connections of others
come to on the node is left free besides, and one percent more; where they come
to too much, the run says nothing.

The exit code is 4 for a run from which nothing can be concluded: cut off, without
data, or with a generator that could not keep up. That of --verify is 0 where
both runs did as computed, 3 where one did not, 4 where one says nothing.`,
		Example: `  tablefull size results
  tablefull size results --verify
  tablefull size results --verify --target kubernetes --image REGISTRY/tablefull:v1
  tablefull size --connections 700/s --limit 131072
  tablefull size --connections 2000/s --timeout tcp_timeout_time_wait=30s --held 20000 --udp 500/s
  tablefull size --connections 700/s --entries-per-connection 2     through a gateway
  tablefull size results --format json | jq .recommended_limit`,
		GroupID: groupMeasure,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usagef("tablefull size needs one run directory, or none; see: tablefull size --help")
			}
			return nil
		}, ValidArgsFunction: completeRuns,
		RunE: func(c *cobra.Command, args []string) error {
			if !slices.Contains(report.SizeFormats(), v.format) {
				return usagef("--format %s: must be one of %s", v.format, strings.Join(report.SizeFormats(), ", "))
			}
			size, of, err := l.given(c, args)
			switch {
			case err != nil:
				return err
			case again && len(args) == 0:
				return usagef("--verify needs a run's directory")
			case again:
				return sizeVerified(c.Context(), args[0], v, s)
			case v.out != "":
				return usagef("--out is where --verify puts its runs")
			case v.target != "lab":
				return usagef("--target is where --verify makes its runs")
			}
			if err := report.RenderSize(v.format, size, nil, s.Out); err != nil {
				return err
			}
			return sizedFrom(of, s)
		},
	}
	c.Long += seeAlso("run", "report")
	c.Flags().StringVar(&v.format, "format", "text", "one of "+strings.Join(report.SizeFormats(), ", "))
	c.Flags().BoolVar(&again, "verify", false, "run the scenario again with what it needs, and with a tenth less")
	c.Flags().StringVar(&v.out, "out", "", "`directory` for the runs of --verify (default DIR/verify)")
	c.Flags().BoolVar(&v.quiet, "quiet", false, "no progress of --verify")
	c.Flags().StringVar(&v.target, "target", "lab", "where --verify makes its runs, which is where the run was made: lab or kubernetes")
	v.kube.bind(c.Flags())
	l.flags(c)
	return c
}

func (l *load) flags(c *cobra.Command) {
	f := c.Flags()
	rate := func(to *scenarios.Rate, name, usage string) { f.TextVar(to, name, scenarios.Rate(0), usage) }
	rate(&l.connections, "connections", "TCP connections that are closed with FIN, as a `rate`: 700/s (they stay in TIME_WAIT)")
	rate(&l.resets, "resets", "TCP connections that end with RST, as a `rate` (they stay in CLOSE)")
	rate(&l.unclosed, "unclosed", "TCP connections that the server closes and the client never does, as a `rate` (they stay in CLOSE_WAIT)")
	rate(&l.udp, "udp", "UDP exchanges with a socket of their own, as a `rate`: DNS queries for example")
	f.Uint64Var(&l.held, "held", 0, "TCP connections that are open at a time")
	f.Uint64Var(&l.udpFlows, "udp-flows", 0, "UDP flows that go on all the time")
	f.Uint64Var(&l.base, "base", 0, "entries that are there besides")
	f.Float64Var(&l.perConnection, "entries-per-connection", 1, "entries that each connection costs the node: 2 through a gateway on it without keep-alive")
	f.StringArrayVar(&l.timeouts, "timeout", nil, "a conntrack timeout as `NAME=DURATION`, by the kernel's name: tcp_timeout_time_wait=30s")
	f.Uint64Var(&l.limit, "limit", 0, "the node's present nf_conntrack_max")
	f.Uint64Var(&l.entryBytes, "entry-bytes", 0, "size of an entry in its slab, without extensions (default 256)")
	f.IntVar(&l.cores, "cores", 0, "the node's cores")
	f.StringVar(&l.memory, "memory", "", "the node's memory, as a Kubernetes `quantity`: 16Gi")
}

// given is the sizing of the run, or of the numbers, and then no run.
func (l *load) given(c *cobra.Command, args []string) (*report.Sizing, *report.Findings, error) {
	if len(args) == 0 {
		size, err := l.size()
		return size, nil, err
	}
	for name := range l.numbers() {
		if c.Flags().Changed(name) {
			return nil, nil, usagef("--%s and a run's directory: the run says it already; give one of the two", name)
		}
	}
	f, err := analyzeDir(args[0])
	if err != nil {
		return nil, nil, err
	}
	if f.Sizing == nil || f.Sizing.NeededEntries == nil && f.Sizing.RunNeeded == nil {
		fmt.Fprintln(c.ErrOrStderr(), "tablefull: the run has no attempts whose entries can be computed; nothing can be sized from it")
		return nil, nil, exitWith(exitInconclusive)
	}
	return f.Sizing, f, nil
}

// sizedFrom is exit code 4 for a run from which nothing can be concluded, so
// that nobody sizes by it unawares; nil for one that is sound, and for none.
func sizedFrom(f *report.Findings, s Streams) error {
	if f == nil || len(f.Unsound()) == 0 {
		return nil
	}
	fmt.Fprintf(s.Err, "tablefull: do not size from this run: %s\n", f.Unsound()[0])
	return exitWith(exitInconclusive)
}

// numbers are the flags that say what a run would say.
func (l *load) numbers() map[string]bool {
	out := map[string]bool{}
	for _, name := range []string{
		"connections", "resets", "unclosed", "udp", "held", "udp-flows", "base", "entries-per-connection", "timeout",
		"limit", "entry-bytes", "cores", "memory",
	} {
		out[name] = true
	}
	return out
}

func (l *load) size() (*report.Sizing, error) {
	seconds, err := l.seconds()
	m := report.Machine{EntryBytes: l.entryBytes, CPUs: l.cores, Limit: l.limit, Buckets: l.limit}
	if l.memory != "" {
		q, bad := resource.ParseQuantity(l.memory)
		if bad != nil || q.Sign() <= 0 {
			err = errors.Join(err, usagef("--memory %s: write for example 16Gi", l.memory))
		}
		m.MemoryBytes = uint64(max(0, q.Value())) //nolint:gosec // not negative
	}
	if l.cores < 0 || l.perConnection <= 0 || l.perConnection > 1000 {
		err = errors.Join(err, usagef("--cores must not be negative, and --entries-per-connection above 0 and at most 1000"))
	}
	var parts []report.SizingPart
	for _, x := range []struct {
		name, state string
		rate        scenarios.Rate
		each        float64
	}{
		{"connections", "TIME_WAIT", l.connections, l.perConnection},
		{"resets", "CLOSE", l.resets, l.perConnection},
		{"unclosed", "CLOSE_WAIT", l.unclosed, l.perConnection},
		{"udp", "UDP", l.udp, 1},
	} {
		if x.rate > maxRate {
			err = errors.Join(err, usagef("--%s %s: at most %s", x.name, x.rate, scenarios.Rate(maxRate)))
		}
		if x.rate > 0 {
			parts = append(parts, report.SizingPart{Traffic: x.name, ArrivalsPerS: float64(x.rate), EntriesPerAttempt: x.each, ResidenceS: seconds[x.state], State: x.state})
		}
	}
	if l.held > 0 {
		parts = append(parts, report.SizingPart{Traffic: "held", EntriesPerAttempt: l.perConnection, State: "ESTABLISHED", Held: uint64(float64(l.held)*l.perConnection + 0.5)})
	}
	if l.udpFlows > 0 {
		parts = append(parts, report.SizingPart{Traffic: "udp-flows", EntriesPerAttempt: 1, State: "UDP_STREAM", Held: l.udpFlows})
	}
	if err == nil && len(parts) == 0 {
		err = usagef("tablefull size needs a run's directory, or a load: for example --connections 700/s; see: tablefull size --help")
	}
	if err != nil {
		return nil, err
	}
	return report.Size(parts, l.base, m), nil
}

// maxRate is above what any node can do; what is more is a mistake.
const maxRate = 1e8

// seconds are the timeouts by state.
func (l *load) seconds() (map[string]float64, error) {
	out, state := map[string]float64{}, map[string]string{}
	for s, r := range residues {
		out[s], state[r.timeout] = r.seconds, s
	}
	var errs []error
	for _, t := range l.timeouts {
		name, value, _ := strings.Cut(t, "=")
		name = strings.TrimPrefix(strings.TrimPrefix(name, "net.netfilter."), "nf_conntrack_")
		d, err := time.ParseDuration(value)
		switch {
		case state[name] == "":
			errs = append(errs, usagef("--timeout %s: is none of %s", t, strings.Join(slices.Sorted(maps.Keys(state)), ", ")))
		case err != nil || d <= 0:
			errs = append(errs, usagef("--timeout %s: write for example %s=30s", t, name))
		default:
			out[state[name]] = d.Seconds()
		}
	}
	return out, errors.Join(errs...)
}
