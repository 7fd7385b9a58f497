package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tablefull/tablefull/report"
	"github.com/tablefull/tablefull/runner"
	"github.com/tablefull/tablefull/runner/env"
	"github.com/tablefull/tablefull/runner/lab"
	"github.com/tablefull/tablefull/runner/private"
	"github.com/tablefull/tablefull/scenarios"
)

// gateScenario is what a gate runs where nobody says what.
const gateScenario = "upgrade"

type gateFlags struct {
	runFlags
	baseline, candidate         string
	baselineSets, candidateSets []string
	trials                      int
	gates, margins              []string
}

func gateCommand(s Streams) *cobra.Command {
	var f gateFlags
	c := &cobra.Command{
		Use:   "gate [SCENARIO]",
		Short: "Decide whether a kube-proxy is worse than another: two arms, many trials, one exit code",
		Long: `Gate runs a scenario (by default the library's "upgrade": a rollout and a restart
of the proxy under load) with one kube-proxy and with another, again and again in
a random order, and compares. It is short for a scenario with the two arms
baseline and candidate. No cluster, and no root but for what the scenario needs.

A proxy is given as a version that "tablefull kube-proxy get" has fetched, as the
path of a binary, or as builtin, each with or without a mode behind a colon; or as
a mode alone, of the scenario's own proxy:

    v1.36.3    v1.36.3:iptables    ./kube-proxy:nftables    builtin    ipvs

Its exit code is 3 where the candidate is shown to be worse in a metric that
decides, by more than its margin; 0 where nothing of the kind is shown; and 4
where that cannot be said: too few trials, a run without data, a generator that
was the limit. The number of trials is fixed beforehand, and so are the metrics.

` + exitHelp + seeAlso("compare", "run", "kube-proxy"),
		Example: `  tablefull gate --baseline v1.35.4 --candidate v1.36.3 --trials 10
  tablefull gate --baseline v1.36.3:iptables --candidate v1.36.3:nftables --out gate
  tablefull gate --baseline builtin --candidate builtin --candidate-set lab.proxy.delay=500ms`,
		GroupID: groupMeasure,
		Args: func(c *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usagef("%s takes one scenario; see: %s --help", c.CommandPath(), c.CommandPath())
			}
			return nil
		},
		ValidArgsFunction: completeOneScenario,
		RunE: func(c *cobra.Command, args []string) error {
			return gate(c.Context(), append(args, gateScenario)[0], f, s)
		},
	}
	c.Flags().StringVar(&f.baseline, "baseline", "", "the `proxy` that is compared with (required)")
	c.Flags().StringVar(&f.candidate, "candidate", "", "the `proxy` that is to be judged (required)")
	c.Flags().StringArrayVar(&f.sets, "set", nil, "change the scenario in both: `path=value`")
	c.Flags().StringArrayVar(&f.baselineSets, "baseline-set", nil, "change the scenario in the baseline: `path=value`")
	c.Flags().StringArrayVar(&f.candidateSets, "candidate-set", nil, "change the scenario in the candidate: `path=value`")
	c.Flags().IntVar(&f.trials, "trials", 8, "how often each is run")
	c.Flags().StringSliceVar(&f.gates, "gate", report.DefaultGate(), "metrics that decide, comma-separated, of: "+strings.Join(report.MetricNames(), ", "))
	c.Flags().StringArrayVar(&f.margins, "margin", nil, "how much worse a metric may be: `metric=value`, for example p99=10% or errors=0.5")
	c.Flags().StringVar(&f.out, "out", "", "`directory` for the results (default tablefull-out/SCENARIO-TIME)")
	c.Flags().BoolVar(&f.dryRun, "dry-run", false, "print the plan of both and touch nothing")
	c.Flags().BoolVar(&f.quiet, "quiet", false, "no progress, only the result")
	bindMetrics(c.Flags(), &f.metrics)
	return c
}

func gate(ctx context.Context, ref string, f gateFlags, s Streams) error {
	sets := append(slices.Clone(f.sets), "arms=null", fmt.Sprintf("trials=%d", f.trials))
	for _, side := range []struct {
		name, spec string
		sets       []string
	}{{"baseline", f.baseline, f.baselineSets}, {"candidate", f.candidate, f.candidateSets}} {
		if side.spec == "" {
			return usagef("--%s is missing: name the proxy, for example --%s v1.36.3; see: tablefull gate --help", side.name, side.name)
		}
		own, err := proxySets(side.spec)
		if err != nil {
			return usagef("--%s %s: %w", side.name, side.spec, err)
		}
		arm, err := json.Marshal(map[string]any{"name": side.name, "description": side.spec, "set": append(own, side.sets...)})
		if err != nil {
			return fmt.Errorf("write arm: %w", err)
		}
		sets = append(sets, "arms[+]="+string(arm))
	}
	sc, arms, source, err := scenarios.LoadArms(ref, s.In, sets...)
	if err != nil {
		return scenarioError(err)
	}
	x := newExperiment(sc, arms, source, sets)
	if err := decide(&x.Experiment, f.gates, f.margins); err != nil {
		return err
	}
	if len(x.Gate) == 0 {
		return usagef("--gate: no metric decides; there are %s", strings.Join(report.MetricNames(), ", "))
	}
	f.target = "lab"
	endMetrics, err := f.serveMetrics(ctx, sc.Name, s)
	if err != nil {
		return err
	}
	defer endMetrics()
	return runExperiment(ctx, x, f.runFlags, s)
}

var proxyModes = []string{"nftables", "iptables", "ipvs"}

// proxySets are the overrides that make the scenario's proxy the one that spec
// names: PROXY, PROXY:MODE or MODE.
func proxySets(spec string) ([]string, error) {
	if slices.Contains(proxyModes, spec) {
		return []string{"lab.proxy.mode=" + spec}, nil
	}
	name, mode := spec, ""
	if i := strings.LastIndex(spec, ":"); i >= 0 {
		name, mode = spec[:i], spec[i+1:]
		if !slices.Contains(proxyModes, mode) {
			return nil, fmt.Errorf("%q is no mode: there are %s", mode, strings.Join(proxyModes, ", "))
		}
	}
	var sets []string
	switch {
	case name == "":
		return nil, errors.New("there is no proxy before the colon")
	case name == "builtin":
		sets = append(sets, "lab.proxy.binary=null")
	case strings.ContainsRune(name, filepath.Separator):
		path, err := filepath.Abs(name)
		if err != nil {
			return nil, fmt.Errorf("find %s: %w", name, err)
		}
		if _, err := os.Stat(path); err != nil {
			return nil, fmt.Errorf("find kube-proxy: %w", err)
		}
		sets = append(sets, "lab.proxy.binary="+path)
	default:
		sets = append(sets, "lab.proxy.binary="+name)
	}
	if mode != "" {
		sets = append(sets, "lab.proxy.mode="+mode)
	}
	return sets, nil
}

// refused says before the first run what this machine cannot run.
func (x *experiment) refused(ctx context.Context) error {
	caps, err := lab.New(lab.Config{}).Probe(ctx)
	if err != nil {
		return fmt.Errorf("probe this machine: %w", err)
	}
	var reasons []string
	for _, a := range x.arms {
		if a.Scenario.Lab.Kernel == "private" {
			// The rest is for that kernel to say.
			if c := private.Probe(ctx, privateFiles()); c.State != env.Yes {
				reasons = append(reasons, "arm "+a.Name+": lab.kernel: private: "+c.Reason)
			}
			continue
		}
		plan, err := runner.NewPlan(a.Scenario, caps)
		if err != nil {
			return err
		}
		for _, r := range append(plan.Refused, missingProxies(a.Scenario)...) {
			reasons = append(reasons, "arm "+a.Name+": "+r)
		}
	}
	if len(reasons) > 0 {
		return &runner.Unsupported{Reasons: reasons}
	}
	return nil
}
