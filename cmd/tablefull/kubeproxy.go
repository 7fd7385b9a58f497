package main

import (
	"cmp"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/tablefull/tablefull/runner/kubeproxy"
)

func kubeProxyCommand(s Streams) *cobra.Command {
	c := &cobra.Command{
		Use: "kube-proxy", Short: "Get real kube-proxy binaries to test with", GroupID: groupMachine,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usagef("unknown command %q; see: tablefull kube-proxy --help", args[0])
			}
			return nil
		},
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(kubeProxyGetCommand(s))
	return c
}

func kubeProxyGetCommand(s Streams) *cobra.Command {
	var cache string
	c := &cobra.Command{
		Use: "get VERSION", Short: "Put the kube-proxy of a Kubernetes release into the cache and print its path",
		Long: `Get prints the path of the kube-proxy of a Kubernetes release. If it is not in
the cache it is downloaded from ` + kubeproxy.Site + `, and its checksum
is checked. If that site cannot be reached it is built from Go modules with the
Go toolchain of this machine, which takes some minutes. Which of the two it was
is told, and kept in the file source.json beside the binary.

The path goes to the standard output, everything else to the standard error.

` + exitHelp + seeAlso("doctor"),
		Example: `  tablefull kube-proxy get v1.36.3
  proxy=$(tablefull kube-proxy get v1.36.3) && "$proxy" --version
  tablefull kube-proxy get v1.35.4 --cache ./binaries`,
		Args: exactArgs(1, "a version, like v1.36.3"),
		RunE: func(c *cobra.Command, args []string) error {
			usual, err := kubeproxy.DefaultCache()
			if cache == "" && err != nil {
				return usagef("%w; name a directory with --cache", err)
			}
			g := kubeproxy.Getter{Cache: cmp.Or(cache, usual), Log: func(line string) { fmt.Fprintln(s.Err, line) }}
			b, err := g.Get(c.Context(), args[0])
			if err != nil {
				return getError(s, err)
			}
			fmt.Fprintln(s.Err, describeBinary(b))
			fmt.Fprintln(s.Out, b.Path)
			return nil
		},
	}
	c.Flags().StringVar(&cache, "cache", "", "directory of the binaries (default: tablefull/kube-proxy in the user's cache directory)")
	return c
}

// getError gives err its exit code: what this machine lacks is no failure of
// the tool.
func getError(s Streams, err error) error {
	switch {
	case errors.Is(err, kubeproxy.ErrVersion):
		return &usageError{err}
	case errors.Is(err, kubeproxy.ErrToolchain), errors.Is(err, kubeproxy.ErrUnreachable), errors.Is(err, kubeproxy.ErrPlatform):
		fmt.Fprintln(s.Err, "tablefull: "+err.Error())
		return exitWith(exitUnsupported)
	}
	return err
}

// describeBinary says where a binary is from.
func describeBinary(b kubeproxy.Binary) string {
	text := fmt.Sprintf("kube-proxy %s, %s from %s", b.Version, b.How, b.From)
	if b.Cached {
		text = fmt.Sprintf("kube-proxy %s, from the cache (it was %s from %s)", b.Version, b.How, b.From)
	}
	return text
}
