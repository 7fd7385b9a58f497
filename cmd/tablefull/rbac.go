package main

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/spf13/cobra"
	rbacv1 "k8s.io/api/rbac/v1"

	"github.com/tablefull/tablefull/runner"
	"github.com/tablefull/tablefull/runner/cluster"
	"github.com/tablefull/tablefull/scenarios"
)

// roleFlags say whose rights for what doctor prints.
type roleFlags struct {
	scenario string
	sets     []string
	proxy    daemonSet
	accounts []string
}

func (r *roleFlags) bind(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&r.scenario, "rbac", "", "print the roles that a run of this `scenario` in a cluster needs, or those of the verbs watch and doctor there")
	f.StringArrayVar(&r.sets, "set", nil, "with --rbac or --target kubernetes: change the scenario, as for run: `path=value`")
	r.proxy.bind(f, "--rbac or --target kubernetes")
	f.StringArrayVar(&r.accounts, "for", []string{"ServiceAccount:default/tablefull"}, "with --rbac: whose rights, as User:`name`, Group:name or ServiceAccount:namespace/name, which is made, too; may be repeated")
	_ = c.RegisterFlagCompletionFunc("rbac", completeRoles) // the flag is there
}

// The verbs whose roles can be printed, as well as those of a scenario's run.
const (
	watchRole  = "watch"
	doctorRole = "doctor"
)

// verb prints the roles of another verb than run.
func (r *roleFlags) verb(s Streams, readNodes bool) error {
	var rights []cluster.Right
	command := "tablefull watch --target kubernetes"
	if r.scenario == watchRole || readNodes {
		look, err := cluster.LookRights()
		if err != nil {
			return err
		}
		rights = look
	}
	if r.scenario == doctorRole {
		command = "tablefull doctor --target kubernetes"
		if r.proxy.named() {
			command += " --kube-proxy " + quoteForShell(r.proxy.String())
		}
		if readNodes {
			command += " --read-nodes"
		}
		rights = cluster.LeastOf(append(rights, cluster.ViewRights(r.proxy.orDefault())...))
	}
	return r.write(s, command, r.scenario, rights)
}

// print writes the roles as YAML.
func (r *roleFlags) print(s Streams, readNodes bool) error {
	if r.scenario == watchRole || r.scenario == doctorRole {
		if len(r.sets) > 0 {
			return usagef("--set is for a scenario")
		}
		return r.verb(s, readNodes)
	}
	sc, arms, _, err := scenarios.LoadArms(r.scenario, s.In, r.sets...)
	if err != nil {
		return scenarioError(err)
	}
	if len(arms) > 0 {
		return errArmsInCluster
	}
	if refused := cluster.Refusals(sc, r.proxy.named()); len(refused) > 0 {
		return &runner.Unsupported{Reasons: refused}
	}
	rights, err := cluster.Rights(sc, r.proxy.NamespacedName)
	if err != nil {
		return err
	}
	return r.write(s, "tablefull run "+runArgs(r.scenario, r.sets, r.proxy)+" --target kubernetes", sc.Name, rights)
}

// write writes the roles for a command.
func (r *roleFlags) write(s Streams, command, name string, rights []cluster.Right) error {
	var subjects []rbacv1.Subject
	for _, a := range r.accounts {
		subject, err := parseSubject(a)
		if err != nil {
			return err
		}
		subjects = append(subjects, subject)
	}
	out, err := cluster.Roles(name, rights, subjects)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(s.Out, `# What this needs in a cluster, and not one right more:
#   %s
# A run makes a namespace of its own, whose name nobody knows before: no Role can
# be in it. What has a fixed name there is named.
%s`, command, out)
	if err != nil {
		return fmt.Errorf("write roles: %w", err)
	}
	return nil
}

// parseSubject reads one of --for.
func parseSubject(text string) (rbacv1.Subject, error) {
	kind, name, _ := strings.Cut(text, ":")
	switch {
	case name == "":
	case kind == rbacv1.UserKind || kind == rbacv1.GroupKind:
		return rbacv1.Subject{Kind: kind, APIGroup: rbacv1.GroupName, Name: name}, nil
	case kind == rbacv1.ServiceAccountKind:
		if namespace, name, ok := strings.Cut(name, "/"); ok && namespace != "" && name != "" {
			return rbacv1.Subject{Kind: kind, Namespace: namespace, Name: name}, nil
		}
	}
	return rbacv1.Subject{}, usagef("--for %s: write User:name, Group:name or ServiceAccount:namespace/name", text)
}

// roleCommand is the command that prints the roles for a run.
func roleCommand(ref string, sets []string, proxy daemonSet) string {
	return "tablefull doctor --rbac " + runArgs(ref, sets, proxy)
}

// runArgs are a scenario and what changes which rights it needs, for a shell.
func runArgs(ref string, sets []string, proxy daemonSet) string {
	args := []string{quoteForShell(ref)}
	for _, set := range sets {
		args = append(args, "--set", quoteForShell(set))
	}
	if proxy.named() {
		args = append(args, "--kube-proxy", quoteForShell(proxy.String()))
	}
	return strings.Join(args, " ")
}

var plainWord = regexp.MustCompile(`^[\w./:=,@%+-]+$`)

func quoteForShell(word string) string {
	if plainWord.MatchString(word) {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}
