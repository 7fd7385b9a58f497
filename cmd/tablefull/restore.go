package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/tablefull/tablefull/runner"
)

func restoreCommand(s Streams) *cobra.Command {
	return &cobra.Command{
		Use: "restore", Short: "Put back what a killed run left changed",
		Long: `Restore replays the undo journals of runs that were killed: it puts
nf_conntrack_max back where a run had written it, and removes work directories.
Runs that are still going are left alone. The next run does the same first.

Journals are in ~/.local/state/tablefull ($XDG_STATE_HOME/tablefull) of the user
who started the run, so restore has to be started as that user. What it puts
back it names on standard error; there is no data on standard output.

` + exitHelp + seeAlso("run", "doctor"),
		Example: "  tablefull restore",
		GroupID: groupMachine,
		Args:    exactArgs(0, "no argument"),
		RunE: func(*cobra.Command, []string) error {
			n, err := restore(s)
			if err == nil && n == 0 {
				fmt.Fprintln(s.Err, "tablefull: nothing to restore")
			}
			return err
		},
	}
}

// restoreOld puts back what an earlier run left, before a new one begins.
func restoreOld(s Streams) error {
	_, err := restore(s)
	return err
}

// restore returns how many journals it replayed.
func restore(s Streams) (int, error) {
	done, err := runner.Restore(runner.StateDir())
	if err != nil {
		return 0, err
	}
	n := 0
	var errs []error
	for _, r := range done {
		switch {
		case r.Alive:
			continue
		case r.Err != nil:
			errs = append(errs, fmt.Errorf("run %s: %w", r.RunID, r.Err))
			continue
		}
		n++
		fmt.Fprintf(s.Err, "tablefull: run %s was killed; put back what it left:\n", r.RunID)
		for _, u := range r.Steps {
			fmt.Fprintf(s.Err, "  %s\n", u.Command())
		}
	}
	if err := errors.Join(errs...); err != nil {
		return n, &runner.Dirty{Err: err}
	}
	return n, nil
}
