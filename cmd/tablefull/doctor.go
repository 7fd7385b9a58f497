package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/tablefull/tablefull/runner"
	"github.com/tablefull/tablefull/runner/env"
	"github.com/tablefull/tablefull/runner/lab"
	"github.com/tablefull/tablefull/runner/private"
	"github.com/tablefull/tablefull/scenarios"
)

// purposes says what each capability is for.
var purposes = map[string]string{
	"userns":             "the lab without root",
	"pidns":              "processes that end with the run",
	"netns":              "hosts of the lab",
	"veth":               "links between them",
	"nftables":           "service addresses (the node's proxy)",
	"ipvs":               "only for lab.proxy.mode: ipvs",
	"ctnetlink":          "ballast, census, autopsies",
	"conntrack_settings": "the node's limit and timeouts",
	"private_kernel":     "only for lab.kernel: private, or mode ipvs without ipvs above",
	"limit_writable":     "only for conntrack.max",
	"slabinfo":           "only to measure what an entry costs",
}

func doctorCommand(s Streams) *cobra.Command {
	var role roleFlags
	c := &cobra.Command{
		Use: "doctor", Short: "Say whether this machine is ready, and what is missing", GroupID: groupMachine,
		Long: `Doctor tries each thing a lab needs in a throw-away namespace, and works out
whether each scenario of the library can run here. It changes nothing.

Its last line begins with "ready:" (exit code 0), with "not ready:" and what is
missing (5), or with "not sure:" where something could not be tried (4).

With --rbac it prints, for kubectl apply, the roles and bindings that a run of a
scenario in a cluster needs, and not one right more. No cluster is asked. The run
checks for exactly these before it starts anything.

` + exitHelp + seeAlso("run --dry-run", "restore"),
		Example: `  tablefull doctor
  tablefull doctor --rbac short-lived | kubectl apply -f -
  tablefull doctor --rbac proxy.yaml --kube-proxy kube-system/kube-proxy --for Group:sre`,
		Args: exactArgs(0, "no argument"),
		RunE: func(c *cobra.Command, _ []string) error {
			if role.scenario != "" {
				return role.print(s)
			}
			for _, name := range roleOnly {
				if c.Flags().Changed(name) {
					return usagef("--%s is for --rbac", name)
				}
			}
			return diagnose(c.Context(), s)
		},
	}
	role.bind(c)
	return c
}

func diagnose(ctx context.Context, s Streams) error {
	caps, err := lab.New(lab.Config{}).Probe(ctx)
	if err != nil {
		return fmt.Errorf("probe this machine: %w", err)
	}
	caps.List = append(caps.List, private.Probe(ctx, privateFiles()))
	if err := writeCapabilities(s.Out, caps); err != nil {
		return err
	}
	text, code := diagnosis(caps)
	fmt.Fprintln(s.Out, text)
	if code != exitPass {
		return exitWith(code)
	}
	return nil
}

func writeCapabilities(out io.Writer, caps env.Capabilities) error {
	fmt.Fprintf(out, "Linux %s %s, %d CPUs, %d MiB\n", caps.Kernel, caps.Arch, caps.CPUs, caps.MemoryBytes>>20)
	if caps.Limit > 0 {
		fmt.Fprintf(out, "conntrack: at most %d entries a namespace, %d buckets\n", caps.Limit, caps.Buckets)
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, k := range caps.List {
		fmt.Fprintf(w, "%s\t%s\t%s\n", k.Name, k.State, cmp.Or(purposes[k.Name], "-"))
		// Why something that is needed is missing, the last line says.
		if k.Reason != "" && (k.State == env.Yes || !slices.Contains(runner.NeededForLab(), k.Name)) {
			fmt.Fprintf(w, "\t\t%s\n", k.Reason)
		}
	}
	fmt.Fprintf(w, "open files\t%d\tsockets of one host (hard RLIMIT_NOFILE)\n", caps.MaxFiles)
	return w.Flush()
}

// diagnosis is the last line of doctor, and the exit code that goes with it.
func diagnosis(caps env.Capabilities) (string, int) {
	if missing := runner.MissingForLab(caps); len(missing) > 0 {
		return "not ready: " + strings.Join(missing, "\n           "), exitUnsupported
	}
	for _, name := range runner.NeededForLab() {
		if k := caps.Lookup(name); k.State != env.Yes {
			return fmt.Sprintf("not sure: %s could not be tried: %s", k.Name, cmp.Or(k.Reason, "for a reason that is not known")), exitInconclusive
		}
	}
	var refused []string
	for _, name := range scenarios.Names() {
		for _, why := range refusals(name, caps) {
			refused = append(refused, name+": "+why)
		}
	}
	if len(refused) > 0 {
		return "not ready: a lab can be built, but not for all scenarios of the library:\n  " + strings.Join(refused, "\n  "), exitUnsupported
	}
	return fmt.Sprintf("ready: all %d scenarios of the library can run here", len(scenarios.Names())), exitPass
}

// refusals is why a scenario of the library cannot run on that machine.
func refusals(name string, caps env.Capabilities) []string {
	src, _ := scenarios.Source(name)
	s, err := scenarios.Parse(name, src)
	if err != nil {
		return []string{err.Error()}
	}
	plan, err := runner.NewPlan(s, caps)
	if err != nil {
		return []string{err.Error()}
	}
	return plan.Refused
}
