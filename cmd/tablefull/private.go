package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tablefull/tablefull/report/runlog"
	"github.com/tablefull/tablefull/runner"
	"github.com/tablefull/tablefull/runner/env"
	"github.com/tablefull/tablefull/runner/lab"
	"github.com/tablefull/tablefull/runner/private"
	"github.com/tablefull/tablefull/scenarios"
)

// consoleName is where a private kernel that crashed leaves its last words, in
// the result directory.
const consoleName = "console.log"

// privateFiles is where the private kernel is: the Debian package's, or one of
// the user's own.
func privateFiles() private.Files {
	return private.Files{Kernel: os.Getenv("TABLEFULL_UML"), Modules: os.Getenv("TABLEFULL_UML_MODULES")}
}

// chooseKernel resolves lab.kernel: auto for this machine.
func chooseKernel(ctx context.Context, sc *scenarios.Scenario) error {
	if sc.Lab.Kernel != "auto" {
		return nil
	}
	caps, err := lab.New(lab.Config{}).Probe(ctx)
	if err != nil {
		return fmt.Errorf("probe this machine: %w", err)
	}
	private := runner.NeedsPrivateKernel(sc, caps)
	sc.Lab.Kernel = "host"
	if private {
		sc.Lab.Kernel = "private"
	}
	return nil
}

// privateJob is what runs inside a private kernel.
type privateJob struct {
	Scenario string `json:"scenario"` // resolved
	Out      string `json:"out"`      // absolute
	DryRun   bool   `json:"dry_run"`
	Quiet    bool   `json:"quiet"`
	Segment  int    `json:"segment"` // MiB
}

// runPrivate is run for a scenario with a kernel of its own: it boots one, and
// the program in there leaves a run log. What follows from that is worked out
// here, where it takes a tenth of the time.
func runPrivate(ctx context.Context, sc *scenarios.Scenario, f runFlags, s Streams) error {
	if c := private.Probe(ctx, privateFiles()); c.State != env.Yes {
		return unfit(c.Reason)
	}
	if missing := missingProxies(sc); len(missing) > 0 {
		return &runner.Unsupported{Reasons: missing}
	}
	yaml, err := sc.YAML()
	if err != nil {
		return fmt.Errorf("write resolved scenario: %w", err)
	}
	job := privateJob{Scenario: string(yaml), DryRun: f.dryRun, Quiet: f.quiet, Segment: f.segment}
	c := private.Config{Files: privateFiles(), Memory: uint64(sc.Lab.Memory), Needs: needsOf(sc), Stdout: s.Out, Stderr: s.Err}
	if err := sameFiles(&c); err != nil {
		return err
	}
	if f.dryRun {
		return bootPrivate(ctx, c, job)
	}
	if err := restoreOld(s); err != nil {
		return err
	}
	dir, cleanup, err := makeOut(f.out, sc.Name)
	if err != nil {
		return err
	}
	defer cleanup()
	if c.Dir, err = filepath.Abs(dir); err != nil {
		return fmt.Errorf("find result directory: %w", err)
	}
	job.Out = c.Dir
	journal, err := runner.OpenJournal(runner.StateDir(), runID())
	if err != nil {
		return err
	}
	if !f.quiet {
		c.Took = func(boot, off time.Duration) {
			fmt.Fprintf(s.Err, "tablefull: the private kernel took %.1f s to boot and %.1f s to power off\n", boot.Seconds(), off.Seconds())
		}
	}
	c.Remove = filepath.Join(c.Dir, ".agents")
	if err := journal.Plan(runner.Undo{RemoveDir: c.Remove}); err != nil {
		return errors.Join(err, journal.Undo())
	}
	if !f.quiet {
		fmt.Fprintf(s.Err, "tablefull: booting a private kernel (%s)\n", private.Probe(ctx, privateFiles()).Reason)
	}
	endFollowing := f.followed(c.Dir)
	err = bootPrivate(ctx, c, job)
	endFollowing()
	if undoErr := journal.Undo(); undoErr != nil {
		return &runner.Dirty{Err: errors.Join(undoErr, err)}
	}
	var inside exitWith
	if err != nil && !errors.As(err, &inside) {
		return err
	}
	if _, statErr := runlog.StatDir(c.Dir); statErr != nil {
		return err // it failed before there was anything to tell, and has said why
	}
	return conclude(c.Dir, err, f, s)
}

// needsOf is what runs inside.
func needsOf(sc *scenarios.Scenario) private.Needs {
	return private.Needs{
		KubeProxy: len(namedProxies(sc)) > 0, IPv6: sc.Lab.Family == "ipv6",
		NodePorts: slices.ContainsFunc(sc.Services, func(s scenarios.Service) bool { return s.NodePort != 0 }),
	}
}

// sameFiles makes names of kube-proxies, which may be relative paths or
// versions in the user's cache, lead to the same files inside.
func sameFiles(c *private.Config) (err error) {
	if c.WorkDir, err = os.Getwd(); err != nil {
		return fmt.Errorf("find working directory: %w", err)
	}
	if cache, err := os.UserCacheDir(); err == nil {
		c.Env = map[string]string{"XDG_CACHE_HOME": cache}
	}
	return nil
}

// bootPrivate turns how a private kernel ended into an exit code.
func bootPrivate(ctx context.Context, c private.Config, job privateJob) error {
	input, err := json.Marshal(job)
	if err != nil {
		return fmt.Errorf("encode job: %w", err)
	}
	c.Input = input
	code, err := private.Run(ctx, c)
	var (
		crash *private.Crash
		lacks *private.Unfit
	)
	switch {
	case errors.As(err, &lacks):
		return unfit(lacks.Reason)
	case errors.As(err, &crash):
		return keepConsole(c.Dir, crash)
	case errors.Is(err, context.Canceled):
		return fmt.Errorf("interrupted before traffic began: nothing was measured, and everything has been put back (%w)", context.Canceled)
	case err != nil:
		return err
	case code != exitPass:
		return exitWith(code)
	}
	return nil
}

func unfit(reason string) error {
	return &runner.Unsupported{Reasons: []string{"lab.kernel: private: " + reason}}
}

// keepConsole leaves all that is known of the kernel's console beside the
// results, and says what can still be done with these.
func keepConsole(dir string, crash *private.Crash) error {
	if dir == "" {
		return crash
	}
	var hints []string
	if crash.Console != "" {
		name := filepath.Join(dir, consoleName)
		if err := writeFile(name, func(w io.Writer) error {
			_, err := io.WriteString(w, crash.Console+"\n")
			return err
		}); err != nil {
			return errors.Join(crash, err)
		}
		hints = append(hints, "more of its console: "+name)
	}
	if _, err := runlog.StatDir(dir); err == nil {
		hints = append(hints, "what was measured until then: tablefull report "+dir)
	}
	if len(hints) == 0 {
		return crash
	}
	return fmt.Errorf("%w\n%s", crash, strings.Join(hints, "\n"))
}

// privateCommand is how the program starts itself around and inside a private
// kernel.
func privateCommand(s Streams) *cobra.Command {
	return &cobra.Command{
		Use: "private", Short: "Hold a private kernel, be its init, or run in it (started by the program itself)",
		Hidden: true, Args: exactArgs(1, "supervise, init or run"),
		RunE: func(c *cobra.Command, args []string) error {
			switch args[0] {
			case "supervise":
				return private.Supervise(s.In, s.Out, s.Err)
			case "init":
				return private.Init(c.Context(), s.In, func(ctx context.Context, job io.Reader, out, errOut io.Writer) int {
					return run(ctx, []string{"private", "run"}, Streams{In: job, Out: out, Err: errOut})
				})
			case "run":
				return runInside(c.Context(), s)
			}
			return usagef("%s is for the program itself", c.CommandPath())
		},
	}
}

// runInside runs the job that standard input holds, inside a private kernel.
func runInside(ctx context.Context, s Streams) error {
	if !private.Inside() {
		return usagef("this command is for the program itself")
	}
	var j privateJob
	if err := json.NewDecoder(s.In).Decode(&j); err != nil {
		return fmt.Errorf("read job: %w", err)
	}
	sc, _, err := scenarios.Load("-", strings.NewReader(j.Scenario))
	if err != nil {
		return scenarioError(err)
	}
	f := runFlags{target: "lab", out: j.Out, dryRun: j.DryRun, quiet: j.Quiet, segment: j.Segment, bare: true}
	return runHere(ctx, privateLab{lab.New(lab.Config{Alone: true})}, sc, f, s)
}

// privateLab is the lab under a private kernel.
type privateLab struct{ env.Environment }

// Probe is part of env.Environment. It says which kernel this is.
func (l privateLab) Probe(ctx context.Context) (env.Capabilities, error) {
	caps, err := l.Environment.Probe(ctx)
	caps.Kernel += " (private, user-mode Linux)"
	caps.Private = true
	return caps, err
}
