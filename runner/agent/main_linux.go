//go:build linux

package agent

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/tablefull/tablefull/runner/env"
	"github.com/tablefull/tablefull/runner/proxy"
)

// TokenVar is the environment variable that holds an agent's token.
const TokenVar = "TABLEFULL_TOKEN"

// Main is the hidden command agent. It serves until a caller asks for
// /v1/exit, ctx is done, or, with --lifeline, stdin ends: whoever started the
// agent holds the other end, so that an agent never outlives it.
//
//	--host NAME       name of this host
//	--spool PATH      file for its records, which must not exist; its directory's owner removes it
//	--listen WHERE    fd:N (an inherited listener), unix:PATH or tcp:HOST:PORT
//	--lifeline        end when stdin does
//	--lonely TIME     end when no caller has been heard of for so long
//	--pod             a SIGTERM is for the servers: see Config.Pod
//	--stopped PATH    journal of an env.PauseJob: what an agent that was killed has left stopped goes on first
//
// The token comes from the environment variable TABLEFULL_TOKEN.
func Main(ctx context.Context, args []string, stdin io.Reader, stderr io.Writer) error {
	return Run(ctx, args, stdin, stderr, New)
}

// processors is how many of an agent's goroutines can run at a time, at least.
const processors = 8

// Run is Main with jobs made into workers by build.
func Run(ctx context.Context, args []string, stdin io.Reader, stderr io.Writer, build func(env.Job) (env.Worker, error)) error {
	fs := flag.NewFlagSet("agent", flag.ContinueOnError)
	fs.SetOutput(stderr)
	host := fs.String("host", "", "name of this host")
	spoolPath := fs.String("spool", "", "file for records")
	where := fs.String("listen", "", "fd:N, unix:PATH or tcp:HOST:PORT")
	lifeline := fs.Bool("lifeline", false, "end when stdin does")
	lonely := fs.Duration("lonely", 0, "end when no caller has been heard of for so long")
	pod := fs.Bool("pod", false, "a SIGTERM is for the servers")
	stopped := fs.String("stopped", "", "journal of what an agent that was killed may have left stopped")
	if err := fs.Parse(args); err != nil {
		return fmt.Errorf("read arguments: %w", err)
	}
	if err := proxy.Unpause(*stopped); err != nil {
		return err
	}
	token := os.Getenv(TokenVar)
	if token == "" {
		return fmt.Errorf("the environment variable %s is empty", TokenVar)
	}
	if err := raiseFileLimit(); err != nil {
		return err
	}
	// A worker's own thread that comes back from a system call must not queue
	// for one of only a few processors: with 2 of them 1.6 % of a generator's
	// attempts started late, with 8 of them 0.1 %.
	runtime.GOMAXPROCS(max(processors, runtime.NumCPU()))
	spool, err := NewSpool(*spoolPath, *host)
	if err != nil {
		return err
	}
	l, err := listen(*where)
	if err != nil {
		spool.Close()
		return errors.Join(err, spool.Remove())
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if *lifeline {
		go func() {
			// Ends with the process at the latest: reading a pipe cannot be
			// interrupted.
			_, _ = io.Copy(io.Discard, stdin)
			cancel()
		}()
	}
	s := NewServer(Config{Host: *host, Token: token, Spool: spool, Build: build, Lonely: *lonely, Pod: *pod, Errs: stderr})
	err = s.Serve(ctx, l)
	return errors.Join(err, spool.Remove())
}

// raiseFileLimit makes the soft limit of open files the hard one. The Go
// runtime does so for itself, but takes it back in child processes.
func raiseFileLimit() error {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		return fmt.Errorf("read limit of open files: %w", err)
	}
	l.Cur = l.Max
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		return fmt.Errorf("raise limit of open files to %d: %w", l.Max, err)
	}
	return nil
}

// listen opens what --listen names.
func listen(where string) (net.Listener, error) {
	kind, rest, _ := strings.Cut(where, ":")
	switch kind {
	case "fd":
		n, err := strconv.ParseUint(rest, 10, 31)
		if err != nil {
			return nil, fmt.Errorf("listen on %q: not a descriptor number", where)
		}
		f := os.NewFile(uintptr(n), "listener")
		defer f.Close()
		l, err := net.FileListener(f)
		if err != nil {
			return nil, fmt.Errorf("listen on descriptor %d: %w", n, err)
		}
		return l, nil
	case "unix", "tcp":
		l, err := net.Listen(kind, rest)
		if err != nil {
			return nil, fmt.Errorf("listen: %w", err)
		}
		return l, nil
	}
	return nil, fmt.Errorf("listen on %q: write fd:N, unix:PATH or tcp:HOST:PORT", where)
}
