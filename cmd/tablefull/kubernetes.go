package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/cli-runtime/pkg/genericclioptions"

	"github.com/tablefull/tablefull/runner"
	"github.com/tablefull/tablefull/runner/cluster"
	"github.com/tablefull/tablefull/scenarios"
)

var errArmsInCluster = usagef("arms are compared in the lab: --target kubernetes runs a scenario once")

// kubeFlags say which cluster, and what runs in it.
type kubeFlags struct {
	config *genericclioptions.ConfigFlags
	image  string
	nodes  []string
	proxy  daemonSet
}

// daemonSet is a flag: the namespace and the name of kube-proxy's DaemonSet.
type daemonSet struct{ types.NamespacedName }

func (d *daemonSet) bind(f *pflag.FlagSet, when string) {
	f.Var(d, "kube-proxy", "with "+when+": the DaemonSet, as `namespace/name`, which the scenario may restart and change (default: none)")
}

func (d *daemonSet) named() bool { return d.NamespacedName != types.NamespacedName{} }

// orDefault is where kube-proxy is looked for where nobody says so.
func (d *daemonSet) orDefault() types.NamespacedName {
	if d.named() {
		return d.NamespacedName
	}
	return cluster.DefaultKubeProxy
}

// String is part of pflag.Value.
func (d *daemonSet) String() string {
	if !d.named() {
		return ""
	}
	return d.NamespacedName.String()
}

// Type is part of pflag.Value.
func (*daemonSet) Type() string { return "namespace/name" }

// Set is part of pflag.Value.
func (d *daemonSet) Set(text string) error {
	namespace, name, ok := strings.Cut(text, "/")
	if !ok || namespace == "" || name == "" {
		return errors.New("write namespace/name of a DaemonSet, as kube-system/kube-proxy")
	}
	d.Namespace, d.Name = namespace, name
	return nil
}

// newKubeFlags are kubectl's flags, less the namespace: each run has its own.
func newKubeFlags() kubeFlags {
	c := genericclioptions.NewConfigFlags(true)
	c.Namespace, c.CacheDir = nil, nil
	return kubeFlags{config: c}
}

// imageVar names the image where --image does not.
const imageVar = "TABLEFULL_IMAGE"

func (k *kubeFlags) bind(f *pflag.FlagSet) {
	k.bindPods(f)
	f.StringSliceVar(&k.nodes, "node", nil, "with --target kubernetes: the `nodes`, as many as lab.nodes, that traffic enters by and whose tables are filled to the headroom (default: the first by name that take ordinary pods)")
	k.proxy.bind(f, "--target kubernetes")
}

// bindPods are those for anything that starts pods.
func (k *kubeFlags) bindPods(f *pflag.FlagSet) {
	k.config.AddFlags(f)
	f.StringVar(&k.image, "image", os.Getenv(imageVar), "with --target kubernetes: tablefull's container `image`, which the nodes have or can pull (default $"+imageVar+")")
}

// errNoImage says where an image comes from.
func errNoImage(what string) error {
	return usagef("%s needs --image, a tablefull image that the nodes have or can pull (see: make image)", what)
}

// env is the cluster that the flags name.
func (k *kubeFlags) env() (*cluster.Env, error) {
	config, err := k.config.ToRESTConfig()
	if err != nil {
		return nil, &usageError{fmt.Errorf("read kubeconfig: %w", err)}
	}
	return cluster.New(cluster.Config{REST: config, Image: k.image, Nodes: k.nodes, KubeProxy: k.proxy.NamespacedName})
}

// runInCluster runs a scenario in the cluster that the flags name.
func runInCluster(ctx context.Context, ref string, sc *scenarios.Scenario, k kubeFlags, f runFlags, s Streams) error {
	e, err := k.reach(ctx, sc, ref, f.sets)
	if err != nil {
		return err
	}
	return runHere(ctx, e, sc, f, s)
}

// reach is the cluster that the flags name, if it can run the scenario and the
// account has the rights for it. Ref and sets are how the user names the
// scenario.
func (k *kubeFlags) reach(ctx context.Context, sc *scenarios.Scenario, ref string, sets []string) (*cluster.Env, error) {
	if k.image == "" {
		return nil, errNoImage("--target kubernetes")
	}
	if n := max(1, sc.Lab.Nodes); len(k.nodes) > 0 && len(k.nodes) != n {
		return nil, usagef("--node names %d nodes, and traffic enters by %d (lab.nodes)", len(k.nodes), n)
	}
	// What no cluster can do is said before anything is asked of one.
	if refused := cluster.Refusals(sc, k.proxy.named()); len(refused) > 0 {
		return nil, &runner.Unsupported{Reasons: refused}
	}
	e, err := k.env()
	if err != nil {
		return nil, err
	}
	rights, err := cluster.Rights(sc, k.proxy.NamespacedName)
	if err != nil {
		return nil, err
	}
	if err := checkRights(ctx, e, rights, roleCommand(ref, sets, k.proxy)); err != nil {
		return nil, err
	}
	families, err := e.FamiliesFor(ctx, sc)
	if err != nil {
		return nil, err
	}
	if refused := append(families.Refusals(sc), e.NodePortsRefused(ctx, sc)...); len(refused) > 0 {
		return nil, &runner.Unsupported{Reasons: refused}
	}
	return e, nil
}

// checkRights is an *runner.Unsupported where the account does not have all
// rights; role is the command that prints what gives it them.
func checkRights(ctx context.Context, e *cluster.Env, rights []cluster.Right, role string) error {
	missing, err := e.Missing(ctx, rights)
	if ctx.Err() != nil {
		return err
	}
	if err != nil {
		return &runner.Unsupported{Reasons: []string{err.Error()}}
	}
	if len(missing) == 0 {
		return nil
	}
	var not []string
	for _, r := range missing {
		not = append(not, r.String())
	}
	return &runner.Unsupported{Reasons: []string{
		"in the cluster, the account of this kubeconfig may not " + strings.Join(not, "; nor ") + "\n    what it needs, as an administrator gives it: " + role + " | kubectl apply -f -",
	}}
}

func cleanCommand(s Streams) *cobra.Command {
	k := newKubeFlags()
	var proxy daemonSet
	c := &cobra.Command{
		Use: "clean", Short: "Remove what killed runs have left in a cluster", GroupID: groupMachine,
		Long: `Clean removes every namespace of a run (label tablefull/run) from the cluster,
with all that is in it, and prints their names. A run that ends, in whatever
way, removes its own; only one whose controller was killed does not. Its agents
end by themselves a minute after that, and take their ballast out of the nodes'
tables; the empty pods stay until this.

What such a run has changed outside its namespace (kube-proxy's ConfigMap and
DaemonSet, nodes that it has drained) it puts back first, waits until that is
rolled out, and names it on standard error. Where kube-proxy's ConfigMap may have
been changed, it reads with a pod on each node, of the run's image, whether the
node has its old settings again; a node that has not is named, and the exit code
is 6. A kube-proxy that the run has paused goes on before that. What was there before stands in the annotation tablefull/undo of
each changed object; what somebody else has changed since is left alone.

Runs that go on in the cluster, yours or somebody else's, lose theirs, too.

` + exitHelp + seeAlso("run", "restore"),
		Example: `  tablefull clean --context staging`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usagef("clean takes no arguments")
			}
			return nil
		},
		RunE: func(c *cobra.Command, _ []string) error {
			config, err := k.config.ToRESTConfig()
			if err != nil {
				return &usageError{fmt.Errorf("read kubeconfig: %w", err)}
			}
			removed, err := cluster.Clean(c.Context(), cluster.Config{REST: config, Image: k.image, KubeProxy: proxy.NamespacedName}, func(what string) {
				fmt.Fprintln(s.Err, "tablefull: "+what)
			})
			for _, name := range removed {
				fmt.Fprintln(s.Out, name)
			}
			if err != nil {
				return &runner.Dirty{Err: err}
			}
			return nil
		},
	}
	k.config.AddFlags(c.Flags())
	c.Flags().StringVar(&k.image, "image", os.Getenv(imageVar), "tablefull's container `image`, to read nodes' settings back with where that of the run is not known (default $"+imageVar+")")
	c.Flags().Var(&proxy, "kube-proxy", "the DaemonSet, as `namespace/name`: also put back what a run has changed of it whose namespace is gone")
	return c
}
