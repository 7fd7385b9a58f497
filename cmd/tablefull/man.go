package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

func manCommand(s Streams) *cobra.Command {
	return &cobra.Command{
		Use: "man DIR", Short: "Write the manual pages into a directory", GroupID: groupProgram,
		Long: `Man writes one manual page for each command, made from the same text as --help,
into DIR, which it makes where it does not exist. Their date is that of
SOURCE_DATE_EPOCH where that is set.`,
		Example: `  tablefull man ~/.local/share/man/man1
  tablefull man out/man && man -l out/man/tablefull-run.1`,
		Args: exactArgs(1, "a directory"),
		ValidArgsFunction: func(c *cobra.Command, args []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return completeDirs(c, args, typed)
		},
		RunE: func(c *cobra.Command, args []string) error {
			if err := os.MkdirAll(args[0], 0o755); err != nil {
				return &usageError{fmt.Errorf("make directory for manual pages: %w; choose another", err)}
			}
			root := c.Root()
			root.DisableAutoGenTag = true
			h := &doc.GenManHeader{Section: "1", Source: "tablefull " + version, Manual: "tablefull"}
			if err := doc.GenManTree(root, h, args[0]); err != nil {
				return fmt.Errorf("write manual pages: %w", err)
			}
			fmt.Fprintf(s.Err, "tablefull: manual pages written to %s\n", args[0])
			return nil
		},
	}
}
