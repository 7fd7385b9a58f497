package agent

import (
	"context"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/tablefull/tablefull/report/runlog"
	"github.com/tablefull/tablefull/runner/env"
)

func TestRunEndsWithItsLifeline(t *testing.T) {
	t.Setenv(TokenVar, "secret")
	dir := t.TempDir()
	in, lifeline := io.Pipe()
	ended := make(chan error, 1)
	stopped := make(chan struct{})
	build := func(env.Job) (env.Worker, error) {
		return workerFunc(func(ctx context.Context, ready func(), out env.Recorder) error {
			ready()
			out.Record(event(1))
			<-ctx.Done()
			out.Record(event(2))
			close(stopped)
			return nil
		}), nil
	}
	socket := filepath.Join(dir, "s")
	go func() {
		ended <- Run(context.Background(), []string{"--host", "h", "--spool", filepath.Join(dir, "spool"), "--listen", "unix:" + socket, "--lifeline"}, in, io.Discard, build)
	}()
	c := dial(t, ClientConfig{Name: "h", Token: "secret", Patience: 300 * time.Millisecond, Dial: func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", socket)
	}})
	require.NoError(t, c.Start(t.Context(), env.Job{ID: "j"}))
	var last uint64
	followed := make(chan error, 1)
	first := make(chan struct{})
	go func() {
		followed <- c.Records(t.Context(), 1, func(r runlog.Record) error {
			if last = r.N; last == 1 {
				close(first)
			}
			return nil
		})
	}()
	<-first
	require.NoError(t, lifeline.Close())
	<-stopped
	require.NoError(t, <-ended)
	assert.ErrorContains(t, <-followed, "the agent does not answer", "nobody asked it to end")
	assert.EqualValues(t, 2, last, "all the same, everything was sent")
	assert.FileExists(t, filepath.Join(dir, "spool"), "its directory's owner removes it")
	var files unix.Rlimit
	require.NoError(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &files))
	assert.Equal(t, files.Max, files.Cur)
}

func TestRunArguments(t *testing.T) {
	spool := func(t *testing.T) string { return filepath.Join(t.TempDir(), "spool") }
	for name, c := range map[string]struct {
		token string
		args  []string
		want  string
	}{
		"no token":      {"", nil, "the environment variable TABLEFULL_TOKEN is empty"},
		"unknown flag":  {"x", []string{"--hots", "h"}, "read arguments: flag provided but not defined: -hots"},
		"no spool":      {"x", []string{"--spool", ""}, "create spool: open : no such file or directory"},
		"no listener":   {"x", []string{"--spool", spool(t)}, `listen on "": write fd:N, unix:PATH or tcp:HOST:PORT`},
		"odd listener":  {"x", []string{"--spool", spool(t), "--listen", "fd:x"}, `listen on "fd:x": not a descriptor number`},
		"bad listener":  {"x", []string{"--spool", spool(t), "--listen", "fd:900000"}, "listen on descriptor 900000: "},
		"used listener": {"x", []string{"--spool", spool(t), "--listen", "unix:" + os.TempDir()}, "listen: listen unix"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv(TokenVar, c.token)
			err := Run(t.Context(), c.args, nil, io.Discard, nil)
			assert.ErrorContains(t, err, c.want)
		})
	}
}
