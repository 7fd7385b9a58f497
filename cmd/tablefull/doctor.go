package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

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

// doctorFlags are those of both targets and of --rbac.
type doctorFlags struct {
	target    string
	role      roleFlags
	kube      kubeFlags
	readNodes bool
	json      bool
}

func doctorCommand(s Streams) *cobra.Command {
	f := doctorFlags{kube: newKubeFlags()}
	c := &cobra.Command{
		Use: "doctor [SCENARIO...]", Short: "Say whether this machine or a cluster is ready, and what is missing", GroupID: groupMachine,
		Long: `Doctor tries each thing a lab needs in a throw-away namespace, and works out
whether each scenario of the library can run here. It changes nothing.

Its last line begins with "ready:" (exit code 0), with "not ready:" and what is
missing (5), or with "not sure:" where something could not be tried (4). With
--json all of it is an object, with the same codes.

With --target kubernetes it looks at the cluster of the kubeconfig: its nodes,
kube-proxy with its mode and version, which rights the account has of those that
the scenarios need, and which scenarios would be refused and why: those that are
named, or those of the library. That reads only. With --read-nodes a pod on each
node (or on each --node) reads its connection tracking: entries, limit, buckets.
It has no capabilities, runs for some seconds in a namespace labelled as a run's,
and is removed; tablefull clean removes what a killed doctor left.

With --rbac it prints, for kubectl apply, the roles and bindings that a run of a
scenario in a cluster needs, and not one right more; "watch" and "doctor" are
these verbs there. No cluster is asked. The run checks for exactly these before
it starts anything.

` + exitHelp + seeAlso("run --dry-run", "watch", "restore"),
		Example: `  tablefull doctor
  tablefull doctor --json | jq -r .answer
  tablefull doctor --target kubernetes --context staging
  tablefull doctor --target kubernetes short-lived --read-nodes --image registry.example/tablefull:v1
  tablefull doctor --rbac short-lived | kubectl apply -f -
  tablefull doctor --rbac watch --for User:jane | kubectl apply -f -
  tablefull doctor --rbac proxy.yaml --kube-proxy kube-system/kube-proxy --for Group:sre`,
		ValidArgsFunction: completeScenarios,
		RunE: func(c *cobra.Command, args []string) error {
			if err := f.check(c.Flags(), args); err != nil {
				return err
			}
			switch {
			case f.role.scenario != "":
				return f.role.print(s, f.readNodes)
			case f.target == "kubernetes":
				f.kube.proxy = f.role.proxy
				return clusterDoctor{kube: f.kube, sets: f.role.sets, readNodes: f.readNodes, json: f.json}.run(c.Context(), args, s)
			}
			return diagnose(c.Context(), f.json, s)
		},
	}
	c.Flags().StringVar(&f.target, "target", "lab", "what to look at: lab (this machine) or kubernetes (a cluster)")
	f.role.bind(c)
	f.kube.bindPods(c.Flags())
	c.Flags().StringSliceVar(&f.kube.nodes, "node", nil, "with --target kubernetes: these `nodes` alone (default: all)")
	c.Flags().BoolVar(&f.readNodes, "read-nodes", false, "with --target kubernetes: read each node's connection tracking in a pod that is removed again; with --rbac doctor: the rights for that, too")
	c.Flags().BoolVar(&f.json, "json", false, "print an object")
	return c
}

// check refuses flags and arguments that do not go together.
func (f *doctorFlags) check(flags *pflag.FlagSet, args []string) error {
	if f.target != "lab" && f.target != "kubernetes" {
		return usagef("--target %s: there are lab and kubernetes", f.target)
	}
	inCluster, role := f.target == "kubernetes", f.role.scenario != ""
	switch {
	case inCluster && role:
		return usagef("--rbac asks no cluster: leave --target out")
	case len(args) > 0 && !inCluster:
		return usagef("doctor takes scenarios with --target kubernetes only")
	}
	for _, x := range []struct {
		flag string
		ok   bool
		with string
	}{
		{"for", role, "--rbac"},
		{"set", role || inCluster, "--rbac or --target kubernetes"},
		{"kube-proxy", role || inCluster, "--rbac or --target kubernetes"},
		{"read-nodes", inCluster || f.role.scenario == doctorRole, "--target kubernetes or --rbac doctor"},
		{"json", !role, "--target lab or kubernetes"},
		{"node", inCluster, "--target kubernetes"},
	} {
		if flags.Changed(x.flag) && !x.ok {
			return usagef("--%s is for %s", x.flag, x.with)
		}
	}
	return nil
}

func diagnose(ctx context.Context, asJSON bool, s Streams) error {
	caps, err := lab.New(lab.Config{}).Probe(ctx)
	if err != nil {
		return fmt.Errorf("probe this machine: %w", err)
	}
	caps.List = append(caps.List, private.Probe(ctx, privateFiles()))
	d := diagnosis(caps)
	if asJSON {
		enc := json.NewEncoder(s.Out)
		enc.SetIndent("", "  ")
		err = enc.Encode(d)
	} else if err = writeCapabilities(s.Out, caps); err == nil {
		_, err = fmt.Fprintln(s.Out, d.text())
	}
	switch {
	case err != nil:
		return fmt.Errorf("write diagnosis: %w", err)
	case d.Answer != ready:
		return exitWith(d.Answer.code())
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

// labDiagnosis is what doctor says of this machine.
type labDiagnosis struct {
	Target      string `json:"target"`
	Kernel      string `json:"kernel"`
	Arch        string `json:"arch"`
	CPUs        int    `json:"cpus"`
	MemoryBytes uint64 `json:"memory_bytes"`
	Limit       uint64 `json:"limit"` // nf_conntrack_max; 0 is none, or not known
	Buckets     uint64 `json:"buckets"`
	MaxFiles    uint64 `json:"max_files"` // hard RLIMIT_NOFILE
	// Capabilities are in the order in which they were tried.
	Capabilities []labCapability `json:"capabilities"`
	Scenarios    []labScenario   `json:"scenarios"` // of the library; none where no lab can be built
	Answer       answer          `json:"answer"`
	Reasons      []string        `json:"reasons"`
}

// labScenario is why a scenario would be refused; empty where it would not.
type labScenario struct {
	Name    string   `json:"name"`
	Refused []string `json:"refused"`
}

// labCapability is what one try has shown.
type labCapability struct {
	Name   string    `json:"name"`
	State  env.State `json:"state"`
	Reason string    `json:"reason"` // what is missing, where it is
	Needed bool      `json:"needed"` // for any lab
}

// diagnosis is whether a machine is ready, and why it is not.
func diagnosis(caps env.Capabilities) labDiagnosis {
	d := labDiagnosis{
		Target: "lab", Kernel: caps.Kernel, Arch: caps.Arch, CPUs: caps.CPUs, MemoryBytes: caps.MemoryBytes,
		Limit: caps.Limit, Buckets: caps.Buckets, MaxFiles: caps.MaxFiles, Scenarios: []labScenario{},
	}
	for _, k := range caps.List {
		d.Capabilities = append(d.Capabilities, labCapability{k.Name, k.State, k.Reason, slices.Contains(runner.NeededForLab(), k.Name)})
	}
	if d.Reasons = runner.MissingForLab(caps); len(d.Reasons) > 0 {
		d.Answer = notReady
		return d
	}
	for _, name := range runner.NeededForLab() {
		if k := caps.Lookup(name); k.State != env.Yes {
			d.Answer, d.Reasons = notSure, []string{fmt.Sprintf("%s could not be tried: %s", k.Name, cmp.Or(k.Reason, "for a reason that is not known"))}
			return d
		}
	}
	for _, name := range scenarios.Names() {
		x := labScenario{name, []string{}}
		for _, why := range refusals(name, caps) {
			x.Refused = append(x.Refused, why)
			d.Reasons = append(d.Reasons, name+": "+why)
		}
		d.Scenarios = append(d.Scenarios, x)
	}
	if d.Answer = notReady; len(d.Reasons) == 0 {
		d.Answer, d.Reasons = ready, []string{fmt.Sprintf("all %d scenarios of the library can run here", len(d.Scenarios))}
	}
	return d
}

// text is doctor's last line.
func (d labDiagnosis) text() string {
	if d.Answer == notReady && len(d.Scenarios) > 0 {
		return "not ready: a lab can be built, but not for all scenarios of the library:\n  " + strings.Join(d.Reasons, "\n  ")
	}
	return string(d.Answer) + ": " + strings.Join(d.Reasons, "\n           ")
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
