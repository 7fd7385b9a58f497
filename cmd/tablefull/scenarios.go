package main

import (
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/tablefull/tablefull/scenarios"
)

func scenariosCommand(s Streams) *cobra.Command {
	c := &cobra.Command{
		Use:     "scenarios",
		Short:   "List, show and check scenarios",
		GroupID: groupMachine,
		Long: `A scenario is a YAML file: a lab, the services in it, the traffic to them, and
what must hold. The library comes with this program; each of its files says
whose problem it is, how it comes about, and what to expect. These verbs change
nothing on the machine.` + seeAlso("run"),
		Example: `  tablefull scenarios list
  tablefull scenarios show short-lived > my.yaml
  tablefull scenarios validate my.yaml
  tablefull scenarios schema > scenario.schema.json`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usagef("unknown command %q; see: tablefull scenarios --help", args[0])
			}
			return nil
		},
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(listCommand(s), showCommand(s), validateCommand(s), schemaCommand(s))
	return c
}

func listCommand(s Streams) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the library", Args: exactArgs(0, "no argument"),
		Long: `List prints each scenario of the library with one sentence of what it shows,
to standard output.` + seeAlso("scenarios show", "run"),
		Example: "  tablefull scenarios list",
		RunE: func(*cobra.Command, []string) error {
			w := tabwriter.NewWriter(s.Out, 0, 0, 2, ' ', 0)
			for _, name := range scenarios.Names() {
				sc, _, err := scenarios.Load(name, s.In)
				if err != nil {
					return err
				}
				fmt.Fprintf(w, "%s\t%s\n", name, sc.Description)
			}
			return w.Flush()
		},
	}
}

func showCommand(s Streams) *cobra.Command {
	return &cobra.Command{
		Use: "show SCENARIO", Short: "Print a library scenario, to start your own from",
		Long: `Show prints the file as it is, with the comments that say how the problem comes
about, to standard output.` + seeAlso("scenarios validate", "run --dry-run"),
		Example: `  tablefull scenarios show short-lived
  tablefull scenarios show idle > my.yaml`,
		Args: exactArgs(1, "one scenario"), ValidArgsFunction: completeOneScenario,
		RunE: func(_ *cobra.Command, args []string) error {
			_, raw, err := scenarios.Load(args[0], s.In)
			if err != nil {
				return scenarioError(err)
			}
			_, err = s.Out.Write(raw)
			return err
		},
	}
}

func validateCommand(s Streams) *cobra.Command {
	var sets []string
	c := &cobra.Command{
		Use: "validate SCENARIO...", Short: "Report every mistake in scenario files",
		Long: `Validate reads scenarios and prints every mistake to standard error, each with
its line and what would be right; it prints nothing where there is none. Whether
this machine can run them is what "tablefull run --dry-run" says.

The exit code is 0 without a mistake, and 2 with one.` + seeAlso("run --dry-run", "scenarios schema"),
		Example: `  tablefull scenarios validate my.yaml
  tablefull scenarios validate short-lived --set traffic.0.short_lived.rate=2000/s`,
		ValidArgsFunction: completeScenarios,
		Args: func(c *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usagef("%s needs a scenario; see: %s --help", c.CommandPath(), c.CommandPath())
			}
			return nil
		},
		RunE: func(_ *cobra.Command, args []string) error {
			bad := false
			for _, ref := range args {
				if _, _, err := scenarios.Load(ref, s.In, sets...); err != nil {
					fmt.Fprintln(s.Err, scenarioError(err))
					bad = true
				}
			}
			if bad {
				return exitWith(exitUsage)
			}
			return nil
		},
	}
	c.Flags().StringArrayVar(&sets, "set", nil, "change the scenario first: `path=value`")
	return c
}

func schemaCommand(s Streams) *cobra.Command {
	return &cobra.Command{
		Use: "schema", Short: "Print the JSON Schema of scenario files, for editors", Args: exactArgs(0, "no argument"),
		Long: `Schema prints a JSON Schema (draft 2020-12) to standard output. Editors complete
and check scenario files with it; "tablefull scenarios validate" checks more.

With the YAML language server, as in VS Code, the first line of a scenario names
it:

    # yaml-language-server: $schema=scenario.schema.json`,
		Example: "  tablefull scenarios schema > scenario.schema.json",
		RunE: func(*cobra.Command, []string) error {
			b, err := scenarios.Schema()
			if err != nil {
				return err
			}
			_, err = s.Out.Write(append(b, '\n'))
			return err
		},
	}
}
