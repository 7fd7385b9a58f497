package main

import (
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/tablefull/tablefull/runner"
	"github.com/tablefull/tablefull/runner/env"
	"github.com/tablefull/tablefull/runner/lab"
)

func doctorCommand(s Streams) *cobra.Command {
	return &cobra.Command{
		Use: "doctor", Short: "Say what this machine can do, and what is missing",
		Long: "Doctor tries each thing a lab needs in a throw-away namespace and changes nothing.\n\n" + exitHelp,
		Args: exactArgs(0, "no argument"),
		RunE: func(c *cobra.Command, _ []string) error {
			caps, err := lab.New(lab.Config{}).Probe(c.Context())
			if err != nil {
				return fmt.Errorf("probe this machine: %w", err)
			}
			w := tabwriter.NewWriter(s.Out, 0, 0, 2, ' ', 0)
			fmt.Fprintf(w, "kernel\t%s\t%s, %d CPUs, %d MiB\n", caps.Kernel, caps.Arch, caps.CPUs, caps.MemoryBytes>>20)
			fmt.Fprintf(w, "conntrack\tlimit %d\t%d buckets\n", caps.Limit, caps.Buckets)
			for _, k := range caps.List {
				fmt.Fprintf(w, "%s\t%s\t%s\n", k.Name, k.State, k.Reason)
			}
			if err := w.Flush(); err != nil {
				return err
			}
			return missing(caps)
		},
	}
}

// missing is an *runner.Unsupported where no lab can be built here.
func missing(caps env.Capabilities) error {
	if reasons := runner.MissingForLab(caps); len(reasons) > 0 {
		return &runner.Unsupported{Reasons: reasons}
	}
	return nil
}
