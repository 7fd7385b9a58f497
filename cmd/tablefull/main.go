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
	"time"

	"github.com/tablefull/tablefull/cmd/tablefull/live"
)

func main() {
	if len(os.Args) == 2 && os.Args[1] == live.GuardArg {
		live.Guard(os.Stdin, os.Stderr)
		return
	}
	var stderr io.Writer = os.Stderr
	if live.IsTerminal(os.Stderr) {
		stderr = &talk{file: os.Stderr}
	}
	os.Exit(run(withSignals(stderr), os.Args[1:], Streams{os.Stdin, os.Stdout, stderr}))
}

// Streams is where a command reads and writes: data goes to Out, talk to Err.
type Streams struct {
	In  io.Reader
	Out io.Writer
	Err io.Writer
}

// withSignals returns a context that ends at the first SIGINT, SIGTERM or
// SIGHUP. The second one ends the process at once: what was changed outside of
// it is in the journal. A SIGHUP is never the second: a terminal that goes
// away sends one, and the shell in it another.
func withSignals(stderr io.Writer) context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGQUIT)
	if !signal.Ignored(syscall.SIGHUP) { // as under nohup
		signal.Notify(signals, syscall.SIGHUP)
	}
	go func() {
		for s := range signals {
			switch {
			case s == syscall.SIGQUIT:
				leave(stderr, "")
				quit()
			case ctx.Err() == nil:
				if !isWatch(os.Args) { // which ends at once, as one expects
					fmt.Fprintln(stderr, "tablefull: "+stopping(os.Args)+"; once more to leave at once")
				}
				cancel()
			case s != syscall.SIGHUP:
				if readsOnly(os.Args) {
					leave(stderr, "tablefull: left at once; nothing had been changed\n")
					os.Exit(exitError)
				}
				leave(stderr, "tablefull: left at once; put back what may remain with: tablefull restore\n")
				os.Exit(exitDirty)
			}
		}
	}()
	return ctx
}

// stopping is what begins at the first signal: only a run has something to put
// back.
func stopping(args []string) string {
	if readsOnly(args) {
		return "stopping"
	}
	return "stopping, putting things back"
}

// readsOnly says whether the command changes nothing outside its process.
func readsOnly(args []string) bool {
	return isWatch(args) || len(args) > 1 && args[1] == "serve"
}

func isWatch(args []string) bool { return len(args) > 1 && args[1] == "watch" }

// leave gives the terminal back and says a last word. It does not wait for a
// terminal that takes nothing any more.
func leave(stderr io.Writer, word string) {
	said := make(chan struct{})
	go func() {
		defer close(said)
		if t, ok := stderr.(*talk); ok {
			t.unshow()
		}
		_, _ = io.WriteString(stderr, word)
	}()
	select {
	case <-said:
	case <-time.After(3 * time.Second):
	}
}
