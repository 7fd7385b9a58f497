package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/tablefull/tablefull/runner"
	"github.com/tablefull/tablefull/scenarios"
)

// Exit codes, part of the contract with scripts.
const (
	exitPass         = 0
	exitError        = 1 // the tool failed
	exitUsage        = 2 // bad usage or a bad scenario
	exitFail         = 3 // a threshold or gate failed
	exitInconclusive = 4
	exitUnsupported  = 5 // this machine or cluster cannot do it
	exitDirty        = 6 // something could not be put back
)

// exitHelp is indented by four, which makes it a block of its own in the
// manual pages.
const exitHelp = `Exit codes:

    0  pass
    1  the tool failed
    2  bad usage, or a mistake in the scenario
    3  a threshold failed
    4  inconclusive: no data, or the generator was the limit
    5  this machine cannot do it; the message says what is missing
    6  something could not be put back; the message says what, and how`

// What the verbs are for, as the help sorts them.
const (
	groupMeasure = "measure"
	groupMachine = "machine"
	groupProgram = "program"
)

// helpTemplate is cobra's, with the examples first.
const helpTemplate = `{{.Short}}.

Usage:{{if .Runnable}}
  {{.UseLine}}{{end}}{{if .HasAvailableSubCommands}}
  {{.CommandPath}} COMMAND{{end}}
{{if .HasExample}}
Examples:
{{.Example}}
{{end}}{{with .Long}}
{{.}}
{{end}}{{range $group := .Groups}}
{{.Title}}{{range $.Commands}}{{if and (eq .GroupID $group.ID) .IsAvailableCommand}}
  {{rpad .Name .NamePadding}} {{.Short}}{{end}}{{end}}
{{end}}{{if and .HasAvailableSubCommands (not .AllChildCommandsHaveGroup)}}
Commands:{{range .Commands}}{{if and (eq .GroupID "") .IsAvailableCommand}}
  {{rpad .Name .NamePadding}} {{.Short}}{{end}}{{end}}
{{end}}{{if .HasAvailableLocalFlags}}
Flags:
{{.LocalFlags.FlagUsages | trimTrailingWhitespaces}}
{{end}}{{if .HasAvailableSubCommands}}
More about one of them: {{.CommandPath}} COMMAND --help
{{end}}`

// seeAlso names related verbs at the end of a help text.
func seeAlso(verbs ...string) string {
	return "\n\nSee also: tablefull " + strings.Join(verbs, ", tablefull ")
}

// version is set by the linker (see Makefile).
var version = "devel"

// usageError is a mistake in how the command was called.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

func usagef(format string, args ...any) error { return &usageError{fmt.Errorf(format, args...)} }

// cannotError is what this machine, or this user on it, cannot do.
type cannotError struct{ err error }

func (e *cannotError) Error() string { return e.err.Error() }
func (e *cannotError) Unwrap() error { return e.err }

// exitWith carries an exit code that is not an error: a verdict.
type exitWith int

func (e exitWith) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

// run is the whole program less the process: it returns the exit code.
func run(ctx context.Context, args []string, s Streams) int {
	root := rootCommand(s)
	root.SetArgs(args)
	root.SetIn(s.In)
	root.SetOut(s.Out)
	root.SetErr(s.Err)
	err := root.ExecuteContext(ctx)
	var verdict exitWith
	if errors.As(err, &verdict) {
		return int(verdict)
	}
	if err != nil {
		fmt.Fprintln(s.Err, "tablefull: "+strings.ReplaceAll(err.Error(), "\n", "\n  "))
	}
	if errors.Is(err, syscall.ENOSPC) {
		fmt.Fprintln(s.Err, "  make room, or choose another directory with --out; what was written until then is in the report")
	}
	return exitCode(err)
}

func exitCode(err error) int {
	var (
		usage       *usageError
		mistakes    scenarios.Errors
		unsupported *runner.Unsupported
		dirty       *runner.Dirty
		cannot      *cannotError
	)
	switch {
	case err == nil:
		return exitPass
	case errors.As(err, &dirty):
		return exitDirty
	case errors.As(err, &usage), errors.As(err, &mistakes):
		return exitUsage
	case errors.As(err, &unsupported), errors.As(err, &cannot):
		return exitUnsupported
	case errors.Is(err, context.Canceled):
		return exitInconclusive
	}
	return exitError
}

func rootCommand(s Streams) *cobra.Command {
	root := &cobra.Command{
		Use:   "tablefull",
		Short: "Find where a node's conntrack table begins to drop, why, and what would have held",
		Long: `Tablefull fills a node's connection tracking table on purpose, safely, and
explains it: at which occupancy the node begins to drop, why, and which limit
would have held. It needs no cluster and no root: the node is a network
namespace on this machine.

Data goes to standard output, messages to standard error.

` + exitHelp,
		Example: `  tablefull doctor                      is this machine ready?
  tablefull run short-lived             the demo: TIME_WAIT fills the table
  tablefull scenarios list              what else there is
  tablefull run my.yaml --out results   a scenario of your own
  tablefull report results              the same findings once more`,
		SilenceUsage: true, SilenceErrors: true, Version: version,
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usagef("unknown command %q; see: tablefull help", args[0])
			}
			return nil
		},
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	root.SetHelpTemplate(helpTemplate)
	root.AddGroup(
		&cobra.Group{ID: groupMeasure, Title: "Measure:"},
		&cobra.Group{ID: groupMachine, Title: "This machine:"},
		&cobra.Group{ID: groupProgram, Title: "This program:"},
	)
	root.SetHelpCommandGroupID(groupProgram)
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return usagef("%w; see: %s --help", err, c.CommandPath())
	})
	root.AddCommand(
		runCommand(s), reportCommand(s), compareCommand(s), gateCommand(s), scenariosCommand(s),
		doctorCommand(s), restoreCommand(s), cleanCommand(s), kubeProxyCommand(s),
		completionCommand(s), manCommand(s), versionCommand(s),
		agentCommand(s), labCommand(s), privateCommand(s),
	)
	root.AddCommand(serveCommand(s), sizeCommand(s), watchCommand(s))
	completeFlags(root)
	return root
}

// exactArgs is cobra.ExactArgs with our kind of message and exit code.
func exactArgs(n int, what string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) != n {
			return usagef("%s needs %s; see: %s --help", c.CommandPath(), what, c.CommandPath())
		}
		return nil
	}
}
