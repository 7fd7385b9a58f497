package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log"
	"net"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/tablefull/tablefull/report/serve"
)

func serveCommand(s Streams) *cobra.Command {
	var listen string
	c := &cobra.Command{
		Use:   "serve DIR",
		Short: "Show the runs of a folder in the browser, those that are going on too",
		Long: `Serve is a web page for this machine: it lists the runs in DIR and up to four
levels below it, opens the report of each, follows a run that is still going,
and lays two runs over each other. Comparisons of arms, and gates, are listed
and opened as well. New runs appear by themselves.

It prints its address to standard output and goes on until Ctrl-C. It reads the
run logs, changes nothing and needs no rights. While a run is going on it uses
at most about a fifth of one CPU, because the run is on the same machine.

There is no authentication. On a loopback address only this machine's users can
reach it; with any other --listen address, whoever can reach it can read the
runs.`,
		Example: `  tablefull serve tablefull-out
  tablefull serve results --listen 127.0.0.1:0       any free port
  ssh -L 8017:localhost:8017 HOST                    look at another machine's`,
		GroupID: groupMeasure,
		Args:    exactArgs(1, "one folder of runs"), ValidArgsFunction: completeDirs,
		RunE: func(c *cobra.Command, args []string) error {
			return serveRuns(c.Context(), args[0], listen, s)
		},
	}
	c.Long += seeAlso("report", "run")
	c.Flags().StringVar(&listen, "listen", "127.0.0.1:8017", "`address` and port to listen on")
	return c
}

func serveRuns(ctx context.Context, dir, listen string, s Streams) error {
	host, _, err := net.SplitHostPort(listen)
	if err != nil {
		return usagef("--listen %s: must be an address and a port, for example 127.0.0.1:8017", listen)
	}
	server, err := serve.New(dir)
	if bad := new(fs.PathError); errors.As(err, &bad) {
		return &usageError{err}
	}
	if err != nil {
		return err
	}
	defer server.Close()
	server.ErrorLog = log.New(s.Err, "tablefull: ", 0)
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", listen)
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("%w; choose another port, or any free one: --listen %s", err, net.JoinHostPort(host, "0"))
	}
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	if !serve.Loopback(l) {
		fmt.Fprintf(s.Err, "tablefull: listening on %s, not only for this machine: whoever can reach it can read these runs, and there is no password\n", l.Addr())
	}
	fmt.Fprintf(s.Out, "http://%s/\n", l.Addr())
	return server.Serve(ctx, l)
}
