package main

import (
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tablefull/tablefull/report"
	"github.com/tablefull/tablefull/report/runlog"
	"github.com/tablefull/tablefull/scenarios"
)

// What the shell completes. These functions are called while somebody types:
// they read what is there, say nothing about what is wrong, and never block.

// completeOneScenario completes the only argument: the library, and scenario
// files.
func completeOneScenario(c *cobra.Command, args []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return completeScenarios(c, args, typed)
}

// completeScenarios completes any number of scenarios. Where neither the
// library nor a file here begins as typed, the shell looks for files elsewhere.
func completeScenarios(_ *cobra.Command, _ []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
	var out []cobra.Completion
	for _, name := range scenarios.Names() {
		if !strings.HasPrefix(name, typed) {
			continue
		}
		src, _ := scenarios.Source(name)
		if s, err := scenarios.Parse(name, src); err == nil {
			out = append(out, cobra.CompletionWithDesc(name, s.Description))
		}
	}
	for _, pattern := range []string{"*.yaml", "*.yml"} {
		files, _ := filepath.Glob(literal(typed) + pattern) // a pattern that is wrong finds nothing
		out = append(out, files...)
	}
	if len(out) == 0 {
		return []cobra.Completion{"yaml", "yml"}, cobra.ShellCompDirectiveFilterFileExt
	}
	return out, cobra.ShellCompDirectiveDefault
}

// completeRoles completes what doctor --rbac prints the roles of.
func completeRoles(c *cobra.Command, args []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
	out, directive := completeScenarios(c, args, typed)
	for _, verb := range []string{watchRole, doctorRole} {
		if strings.HasPrefix(verb, typed) {
			out = append(out, cobra.CompletionWithDesc(verb, "what tablefull "+verb+" needs in a cluster"))
		}
	}
	return out, directive
}

// literal is text for a glob pattern.
func literal(text string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(text)
}

// completeSet completes path=value of --set, from the scenario that stands
// before it on the line, where one does.
func completeSet(_ *cobra.Command, args []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
	list := scenarios.AllSettings()
	if len(args) > 0 && readable(args[0]) {
		if s, _, err := scenarios.Load(args[0], strings.NewReader("")); err == nil {
			list = s.Settings()
		}
	}
	typedPath, _, hasValue := strings.Cut(typed, "=")
	var out []cobra.Completion
	for _, x := range list {
		// bash cannot complete words with brackets.
		path := x.ShellPath()
		if strings.Contains(typedPath, "[") {
			path = x.Path
		}
		switch {
		case !hasValue && strings.HasPrefix(path, typed):
			out = append(out, cobra.CompletionWithDesc(path+"=", settingText(x)))
		case hasValue && path == typedPath:
			return settingValues(path, x), cobra.ShellCompDirectiveNoFileComp
		}
	}
	return out, cobra.ShellCompDirectiveNoSpace | cobra.ShellCompDirectiveNoFileComp
}

// settingValues is what can stand behind path=: the values, where they are
// few, else the present one.
func settingValues(path string, x scenarios.Setting) []cobra.Completion {
	var out []cobra.Completion
	for _, v := range x.Enum {
		out = append(out, path+"="+v)
	}
	if len(x.Enum) == 0 && x.Value != "" {
		out = append(out, cobra.CompletionWithDesc(path+"="+x.Value, "as it is"))
	}
	return out
}

// readable says whether reading the scenario cannot block.
func readable(ref string) bool {
	if slices.Contains(scenarios.Names(), ref) {
		return true
	}
	info, err := os.Stat(ref)
	return err == nil && info.Mode().IsRegular()
}

// settingText is like: 700/s now. Constant rate, for example 700/s.
func settingText(x scenarios.Setting) string {
	if x.Value != "" {
		return x.Value + " now. " + x.Description
	}
	return x.Kind + ". " + x.Description
}

// completeRuns completes a directory that holds a run: those where runs go by
// default, latest first, and those below what was typed.
func completeRuns(_ *cobra.Command, args []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var logs []string
	for _, pattern := range []string{literal(typed) + "*/", literal(typed) + "*/*/"} {
		found, _ := filepath.Glob(pattern + runlog.FileName)
		logs = append(logs, found...)
	}
	slices.SortStableFunc(logs, func(a, b string) int { return changed(b).Compare(changed(a)) })
	var out []cobra.Completion
	for _, log := range logs {
		dir := filepath.Dir(log)
		if strings.HasPrefix(dir, typed) {
			out = append(out, cobra.CompletionWithDesc(dir, runText(dir)))
		}
	}
	if len(out) == 0 {
		return nil, cobra.ShellCompDirectiveFilterDirs
	}
	return out, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveKeepOrder
}

// changed is when a file was last written; the zero time where it is gone.
func changed(path string) time.Time {
	info, err := os.Stat(path)
	if err != nil {
		return time.Time{}
	}
	return info.ModTime()
}

// runText is like: short-lived: fail. It is empty for a run without findings.
func runText(dir string) string {
	f, err := os.Open(filepath.Join(dir, "summary.json"))
	if err != nil {
		return ""
	}
	defer f.Close()
	var s struct{ Scenario, Verdict string }
	b, err := io.ReadAll(io.LimitReader(f, 16<<20))
	if err != nil || json.Unmarshal(b, &s) != nil {
		return ""
	}
	return s.Scenario + ": " + s.Verdict
}

func completeFormats(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
	var out []cobra.Completion
	for _, f := range report.FormatList() {
		out = append(out, cobra.CompletionWithDesc(f.Name, f.For))
	}
	return out, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveKeepOrder
}

// completeGates completes the last of a list of metrics.
func completeGates(_ *cobra.Command, _ []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
	before := typed[:strings.LastIndex(typed, ",")+1]
	var out []cobra.Completion
	for _, name := range report.MetricNames() {
		if strings.HasPrefix(before+name, typed) {
			out = append(out, before+name)
		}
	}
	return out, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
}

func completeTargets(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
	return []cobra.Completion{
		cobra.CompletionWithDesc("lab", "network namespaces on this machine"),
		cobra.CompletionWithDesc("kubernetes", "the cluster of the kubeconfig"),
	}, cobra.ShellCompDirectiveNoFileComp
}

func completeWatched(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
	return []cobra.Completion{
		cobra.CompletionWithDesc("machine", "this one, or a network namespace of it"),
		cobra.CompletionWithDesc("kubernetes", "nodes of the kubeconfig's cluster"),
	}, cobra.ShellCompDirectiveNoFileComp
}

func completeDirs(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
	return nil, cobra.ShellCompDirectiveFilterDirs
}

// completeFlags gives each flag of c, wherever it is defined, what completes
// its value.
func completeFlags(c *cobra.Command) {
	for name, complete := range map[string]cobra.CompletionFunc{
		"set": completeSet, "format": completeFormats, "gate": completeGates, "target": completeTargets, "out": completeDirs,
	} {
		if c.Flags().Lookup(name) != nil && !hasCompletion(c, name) {
			// The only error is a flag that does not exist.
			_ = c.RegisterFlagCompletionFunc(name, complete)
		}
	}
	for _, sub := range c.Commands() {
		completeFlags(sub)
	}
}

func hasCompletion(c *cobra.Command, flag string) bool {
	_, ok := c.GetFlagCompletionFunc(flag)
	return ok
}

func completionCommand(s Streams) *cobra.Command {
	c := &cobra.Command{
		Use: "completion SHELL", Short: "Print what makes a shell complete tablefull's commands",
		GroupID: groupProgram,
		Long: `Completion prints a script for bash, zsh or fish. With it, the tab key completes
verbs and flags, scenario names and files, run directories, and the paths of
--set with their present values:

    tablefull run short-lived --set traffic.0.sh<TAB>

It writes to standard output and changes nothing; where to put the script:

    bash  needs the package bash-completion; for all future shells:
          tablefull completion bash > ~/.local/share/bash-completion/completions/tablefull
          for this shell only: source <(tablefull completion bash)
    zsh   a directory of $fpath, then start a new shell:
          tablefull completion zsh > "${fpath[1]}/_tablefull"
          where completion is off, put this into ~/.zshrc first: autoload -U compinit; compinit
    fish  tablefull completion fish > ~/.config/fish/completions/tablefull.fish`,
		Example: `  source <(tablefull completion bash)      this bash, until it ends
  tablefull completion zsh > "${fpath[1]}/_tablefull"
  tablefull completion fish | source       this fish, until it ends`,
		ValidArgs: []cobra.Completion{"bash", "zsh", "fish"},
		Args:      exactArgs(1, "one of bash, zsh, fish"),
		RunE: func(c *cobra.Command, args []string) error {
			switch args[0] {
			case "bash":
				return c.Root().GenBashCompletionV2(s.Out, true)
			case "zsh":
				return c.Root().GenZshCompletion(s.Out)
			case "fish":
				return c.Root().GenFishCompletion(s.Out, true)
			}
			return usagef("completion for %s: there is bash, zsh and fish", args[0])
		},
	}
	return c
}
