package main

import (
	"github.com/spf13/cobra"

	"github.com/tablefull/tablefull/runner/agent"
	"github.com/tablefull/tablefull/runner/lab"
)

// The two commands below are how the program starts itself inside the lab.

func agentCommand(s Streams) *cobra.Command {
	return &cobra.Command{
		Use: "agent", Short: "Run jobs on a host (started by the program itself)",
		Hidden: true, DisableFlagParsing: true,
		RunE: func(c *cobra.Command, args []string) error {
			return agent.Main(c.Context(), args, s.In, s.Err)
		},
	}
}

func labCommand(s Streams) *cobra.Command {
	return &cobra.Command{
		Use: "lab", Short: "Build and hold a lab (started by the program itself)",
		Hidden: true, DisableFlagParsing: true,
		RunE: func(c *cobra.Command, args []string) error {
			return lab.Main(c.Context(), args, s.In, s.Err)
		},
	}
}
