package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/tablefull/tablefull/report/watch"
	"github.com/tablefull/tablefull/runner"
	"github.com/tablefull/tablefull/runner/cluster"
	"github.com/tablefull/tablefull/runner/env"
	"github.com/tablefull/tablefull/scenarios"
)

// clusterDoctor is doctor --target kubernetes.
type clusterDoctor struct {
	kube      kubeFlags
	sets      []string
	readNodes bool
	json      bool
}

// clusterDiagnosis is what it prints.
type clusterDiagnosis struct {
	Target string `json:"target"`
	cluster.View
	// Missing are the rights that the account does not have, of those that any
	// of the scenarios needs.
	Missing   []missingRight      `json:"missing_rights"`
	Scenarios []scenarioDiagnosis `json:"scenarios"`
	Answer    answer              `json:"answer"`
	Reasons   []string            `json:"reasons"`

	asked int // rights
}

type answer string

const (
	ready    answer = "ready"
	notReady answer = "not ready"
	notSure  answer = "not sure"
)

// code is the exit code that goes with it.
func (a answer) code() int {
	switch a {
	case ready:
		return exitPass
	case notReady:
		return exitUnsupported
	}
	return exitInconclusive
}

// missingRight is one right, and which scenarios need it; with none of these it
// is doctor's own, for --read-nodes.
type missingRight struct {
	Right     string   `json:"right"`
	Scenarios []string `json:"scenarios"`
}

// scenarioDiagnosis is what would become of a run.
type scenarioDiagnosis struct {
	Name string `json:"name"`
	// Refused is why it would be refused; empty where it would not.
	Refused []string `json:"refused"`
	// Elsewhere says that no cluster can do what it wants, NeedsProxy that one
	// can where kube-proxy is named.
	Elsewhere  bool `json:"no_cluster_can"`
	NeedsProxy bool `json:"needs_kube_proxy"`

	sc     *scenarios.Scenario
	rights []cluster.Right
	lacks  []string // of these
}

func (d clusterDoctor) run(ctx context.Context, refs []string, s Streams) error {
	if d.readNodes && d.kube.image == "" {
		return errNoImage("--read-nodes")
	}
	out := clusterDiagnosis{Target: "kubernetes", Missing: []missingRight{}, Reasons: []string{}}
	if err := d.load(&out, refs, s.In); err != nil {
		return err
	}
	e, err := d.kube.env()
	if err != nil {
		return err
	}
	if out.View, err = e.Examine(ctx); err != nil {
		return cannotAsk(ctx, err)
	}
	if err := d.choose(&out.View); err != nil {
		return err
	}
	readable, err := d.askRights(ctx, e, &out)
	if err != nil {
		return cannotAsk(ctx, err)
	}
	var facts map[string]env.Capabilities
	var left error
	if d.readNodes && readable {
		facts, left = e.ReadTables(ctx, &out.View)
		if ctx.Err() != nil && left == nil {
			return ctx.Err()
		}
	}
	out.place(d.kube.nodes, facts)
	out.decide(d.readNodes, len(refs) > 0)
	if d.json {
		enc := json.NewEncoder(s.Out)
		enc.SetIndent("", "  ")
		err = enc.Encode(out)
	} else {
		err = out.write(s.Out, d.readNodes)
	}
	switch {
	case left != nil:
		return &runner.Dirty{Err: errors.Join(left, err)}
	case err != nil:
		return fmt.Errorf("write diagnosis: %w", err)
	case out.Answer != ready:
		return exitWith(out.Answer.code())
	}
	return nil
}

// cannotAsk is for an API server that does not answer.
func cannotAsk(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return err
	}
	return &cannotError{err}
}

// load reads the scenarios, of the library where none is named, and what of
// them no cluster can do.
func (d clusterDoctor) load(out *clusterDiagnosis, refs []string, in io.Reader) error {
	if len(refs) == 0 {
		refs = scenarios.Names()
	}
	for _, ref := range refs {
		sc, arms, _, err := scenarios.LoadArms(ref, in, d.sets...)
		if err != nil {
			return scenarioError(err)
		}
		x := scenarioDiagnosis{Name: sc.Name, Refused: []string{}, sc: sc}
		// What is refused also where kube-proxy is named is not for clusters.
		x.Elsewhere = len(arms) > 0 || len(cluster.Refusals(sc, true)) > 0
		if len(arms) > 0 {
			x.Refused = append(x.Refused, errArmsInCluster.Error())
		} else {
			x.Refused = append(x.Refused, cluster.Refusals(sc, d.kube.proxy.named())...)
			x.NeedsProxy = len(x.Refused) > 0 && !x.Elsewhere
		}
		if len(x.Refused) == 0 {
			if x.rights, err = cluster.Rights(sc, d.kube.proxy.NamespacedName); err != nil {
				return err
			}
		}
		out.Scenarios = append(out.Scenarios, x)
	}
	return nil
}

// choose leaves the named nodes in v.
func (d clusterDoctor) choose(v *cluster.View) error {
	if len(d.kube.nodes) == 0 || v.NodesNotRead != "" {
		return nil
	}
	for _, name := range d.kube.nodes {
		if !slices.ContainsFunc(v.Nodes, func(n cluster.NodeView) bool { return n.Name == name }) {
			return &runner.Unsupported{Reasons: []string{"the cluster has no node " + name}}
		}
	}
	v.Nodes = slices.DeleteFunc(v.Nodes, func(n cluster.NodeView) bool { return !slices.Contains(d.kube.nodes, n.Name) })
	return nil
}

// askRights asks for each right that a scenario needs, and for those to read the
// nodes' tables where that is wanted: whether these are there is returned.
func (d clusterDoctor) askRights(ctx context.Context, e *cluster.Env, out *clusterDiagnosis) (readable bool, err error) {
	var all, look []cluster.Right
	for _, x := range out.Scenarios {
		all = append(all, x.rights...)
	}
	if d.readNodes {
		if look, err = cluster.LookRights(); err != nil {
			return false, err
		}
	}
	all = slices.Concat(all, look)
	slices.SortFunc(all, func(a, b cluster.Right) int { return cmp.Compare(a.String(), b.String()) })
	all = slices.Compact(all)
	missing, err := e.Missing(ctx, all)
	if err != nil {
		return false, err
	}
	out.asked, readable = len(all), true
	for _, r := range missing {
		m := missingRight{Right: r.String(), Scenarios: []string{}}
		for i, x := range out.Scenarios {
			if slices.Contains(x.rights, r) {
				m.Scenarios = append(m.Scenarios, x.Name)
				out.Scenarios[i].lacks = append(out.Scenarios[i].lacks, r.String())
			}
		}
		readable = readable && !slices.Contains(look, r)
		out.Missing = append(out.Missing, m)
	}
	for i := range out.Scenarios {
		switch x := &out.Scenarios[i]; {
		case len(x.lacks) > 0:
			x.Refused = append(x.Refused, "the account may not "+strings.Join(x.lacks, "; nor "))
		case len(x.Refused) == 0:
			x.Refused = append(x.Refused, e.NodePortsRefused(ctx, x.sc)...)
		}
	}
	if !readable {
		for i := range out.Nodes {
			out.Nodes[i].NotRead = "the account may not do what that needs: tablefull doctor --rbac doctor --read-nodes"
		}
	}
	return readable, nil
}

// place says of each scenario whether there are nodes for it: those that a run
// would take, the named ones or the first by name that take ordinary pods.
func (out *clusterDiagnosis) place(named []string, facts map[string]env.Capabilities) {
	var fit []string
	for _, n := range out.Nodes {
		if n.Unfit == "" {
			fit = append(fit, n.Name)
		}
	}
	for i := range out.Scenarios {
		x := &out.Scenarios[i]
		if x.Elsewhere {
			continue
		}
		x.Refused = append(x.Refused, out.Services.Refusals(x.sc)...)
		if out.NodesNotRead != "" {
			continue
		}
		n, needs := max(1, x.sc.Lab.Nodes), cluster.NodesFor(x.sc)
		if len(fit) < needs && (len(named) == 0 || needs == n) {
			x.Refused = append(x.Refused, fmt.Sprintf("lab.nodes: traffic enters by %d nodes%s, and %d of the %d that were looked at take ordinary pods", n, map[bool]string{true: " and is sent from as many others"}[needs > n], len(fit), len(out.Nodes)))
			continue
		}
		candidates := fit
		if len(named) == n {
			candidates = named
		}
		for _, node := range candidates[:n] {
			x.fits(node, facts)
		}
	}
}

// fits looks whether the scenario's plan can be made for a node.
func (x *scenarioDiagnosis) fits(node string, facts map[string]env.Capabilities) {
	f, ok := facts[node]
	if !ok {
		return
	}
	plan, err := runner.NewPlan(x.sc, cluster.Capable(f))
	if err != nil {
		x.Refused = append(x.Refused, err.Error())
		return
	}
	for _, why := range plan.Refused {
		x.Refused = append(x.Refused, "on "+node+": "+why)
	}
}

// decide makes the answer: of the named scenarios each has to run, of the
// library those that a cluster can do. A table that was to be read and was not
// makes it unsure.
func (out *clusterDiagnosis) decide(readNodes, named bool) {
	runs, proxy, elsewhere, refused := 0, 0, 0, []string{}
	for _, x := range out.Scenarios {
		switch {
		case len(x.Refused) == 0:
			runs++
		case x.Elsewhere && !named:
			elsewhere++
		case x.NeedsProxy && !named:
			proxy++
		default:
			refused = append(refused, x.Name)
		}
	}
	if len(refused) > 0 {
		out.Answer = notReady
		out.Reasons = append(out.Reasons, "refused: "+strings.Join(refused, ", "))
		return
	}
	if out.NodesNotRead != "" {
		out.Reasons = append(out.Reasons, "the nodes: "+out.NodesNotRead)
	}
	for _, n := range out.Nodes {
		if readNodes && n.Table == nil {
			out.Reasons = append(out.Reasons, "the table of "+n.Name+" was not read: "+n.NotRead)
		}
	}
	if len(out.Reasons) > 0 {
		out.Answer = notSure
		return
	}
	out.Answer = ready
	said := fmt.Sprintf("%d of %d scenarios can run here", runs, len(out.Scenarios))
	if proxy > 0 {
		said += fmt.Sprintf(", %d more with --kube-proxy", proxy)
	}
	if elsewhere > 0 {
		said += fmt.Sprintf(", %d as written in no cluster", elsewhere)
	}
	if !readNodes {
		said += "; whether the nodes' tables have room for them says --read-nodes"
	}
	out.Reasons = append(out.Reasons, said)
}

// write is for people.
func (out *clusterDiagnosis) write(w io.Writer, readNodes bool) error {
	fmt.Fprintf(w, "Kubernetes %s at %s", out.Version, out.Server)
	if out.User != "" {
		fmt.Fprintf(w, ", as %s", out.User)
	}
	fmt.Fprintln(w)
	if err := out.writeNodes(w, readNodes); err != nil {
		return err
	}
	fmt.Fprintf(w, "addresses of services: %s\n", out.Services)
	out.writeProxy(w)
	out.writeRights(w)
	if err := out.writeScenarios(w); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "%s: %s\n", out.Answer, strings.Join(out.Reasons, "\n          "))
	return err
}

func (out *clusterDiagnosis) writeNodes(w io.Writer, readNodes bool) error {
	if out.NodesNotRead != "" {
		fmt.Fprintf(w, "nodes: not read: %s\n", out.NodesNotRead)
		return nil
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "node\ttakes pods\tsystem\tCPUs\tkubelet\tkube-proxy\tconntrack")
	for _, n := range out.Nodes {
		fmt.Fprintf(t, "%s\t%s\t%s %s %s\t%d\t%s\t%s\t%s\n", n.Name, cmp.Or(n.Unfit, "yes"), n.OS, n.Kernel, n.Arch, n.CPUs, n.Kubelet, proxyText(n), tableText(n))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, n := range out.Nodes {
		if n.Table != nil && n.ProxyLimit != nil && n.Table.Limit != *n.ProxyLimit {
			fmt.Fprintf(w, "%s: its limit is %d, and kube-proxy's configuration makes %d when kube-proxy starts\n", n.Name, n.Table.Limit, *n.ProxyLimit)
		}
		if readNodes && n.Table == nil {
			fmt.Fprintf(w, "%s: its table was not read: %s\n", n.Name, n.NotRead)
		}
	}
	if !readNodes {
		fmt.Fprintln(w, "conntrack is not read: with --read-nodes a pod on each node reads it, and is removed some seconds later")
	}
	return nil
}

func proxyText(n cluster.NodeView) string {
	switch {
	case n.Proxy == nil:
		return "not seen"
	case !n.Proxy.Ready:
		return cmp.Or(n.Proxy.Version, n.Proxy.Pod) + ", not ready"
	}
	return cmp.Or(n.Proxy.Version, n.Proxy.Pod)
}

func tableText(n cluster.NodeView) string {
	if n.Table == nil {
		return "not read"
	}
	t := watch.Table{Entries: n.Table.Entries, Limit: n.Table.Limit}
	return t.Filling() + ", " + watch.Count(n.Table.Buckets) + " buckets"
}

func (out *clusterDiagnosis) writeProxy(w io.Writer) {
	p := out.Proxy
	fmt.Fprintf(w, "kube-proxy: DaemonSet %s", p.DaemonSet)
	if p.Image != "" {
		fmt.Fprintf(w, ": %s, %d of %d pods ready", cmp.Or(p.Version, p.Image), p.Ready, p.Desired)
	}
	if p.NotRead != "" {
		fmt.Fprintf(w, ": not read: %s", p.NotRead)
	}
	fmt.Fprintln(w)
	switch {
	case p.ConfigNotRead != "":
		fmt.Fprintf(w, "  mode and conntrack: not read: %s\n", p.ConfigNotRead)
	case p.Mode != "":
		fmt.Fprintf(w, "  mode %s (%s)\n", p.Mode, p.From)
		if p.Mode == "ipvs" {
			fmt.Fprintln(w, "  its rules are not read: a run in this cluster cannot say which backends were stale")
		}
	}
	if c := p.Conntrack; c != nil {
		limit := fmt.Sprintf("maxPerCore %d, min %d", c.MaxPerCore, c.Min)
		if c.MaxPerCore <= 0 {
			limit = "leaves the limit alone"
		}
		fmt.Fprintf(w, "  conntrack: %s; established %s, close_wait %s\n", limit, watch.Duration(c.Established), watch.Duration(c.CloseWait))
	}
}

func (out *clusterDiagnosis) writeRights(w io.Writer) {
	if len(out.Missing) == 0 {
		fmt.Fprintf(w, "rights: all %d that were asked for\n", out.asked)
		return
	}
	fmt.Fprintf(w, "rights: %d of %d; missing\n", out.asked-len(out.Missing), out.asked)
	can := 0
	for _, x := range out.Scenarios {
		if len(x.rights) > 0 {
			can++
		}
	}
	for _, m := range out.Missing {
		who := strings.Join(m.Scenarios, ", ")
		switch {
		case len(m.Scenarios) == 0:
			who = "--read-nodes"
		case len(m.Scenarios) == can && can > 1:
			who = "all of them"
		}
		fmt.Fprintf(w, "  %s: for %s\n", m.Right, who)
	}
	fmt.Fprintln(w, "  what gives them: tablefull doctor --rbac SCENARIO | kubectl apply -f -")
}

func (out *clusterDiagnosis) writeScenarios(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, x := range out.Scenarios {
		if len(x.Refused) == 0 {
			fmt.Fprintf(t, "%s\tcan run\n", x.Name)
		}
		for i, why := range x.Refused {
			name := x.Name
			if i > 0 {
				name = ""
			}
			if len(x.lacks) > 3 && strings.HasSuffix(why, x.lacks[len(x.lacks)-1]) {
				why = fmt.Sprintf("the account lacks %d of the rights above", len(x.lacks))
			}
			fmt.Fprintf(t, "%s\trefused: %s\n", name, strings.TrimSuffix(why, " (--target kubernetes)"))
		}
	}
	return t.Flush()
}
