// Tablefull load-tests the connection tracking table of Kubernetes nodes and
// explains what happens when it is full. See `tablefull help`.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	os.Exit(run(withSignals(os.Stderr), os.Args[1:], Streams{os.Stdin, os.Stdout, os.Stderr}))
}

// Streams is where a command reads and writes: data goes to Out, talk to Err.
type Streams struct {
	In  io.Reader
	Out io.Writer
	Err io.Writer
}

// withSignals returns a context that ends at the first SIGINT or SIGTERM. The
// second one ends the process at once: what was changed outside of it is in
// the journal.
func withSignals(stderr io.Writer) context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-signals
		fmt.Fprintln(stderr, "tablefull: stopping, putting things back; once more to leave at once")
		cancel()
		<-signals
		fmt.Fprintln(stderr, "tablefull: left at once; put back what may remain with: tablefull restore")
		os.Exit(exitDirty)
	}()
	return ctx
}
