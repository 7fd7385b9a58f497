package main

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tablefull/tablefull/runner"
)

// killClients ends the agent that makes the traffic of each run below dir, once
// traffic has begun, with SIGKILL, until stop is called, which says how many.
func killClients(ctx context.Context, dir string) (stop func() int) {
	ctx, cancel := context.WithCancel(ctx)
	var wait sync.WaitGroup
	killed := map[string]bool{}
	wait.Go(func() {
		for ctx.Err() == nil {
			time.Sleep(30 * time.Millisecond)
			commands, _ := filepath.Glob("/proc/[0-9]*/cmdline")
			for _, c := range commands {
				b, _ := os.ReadFile(c)
				_, spool, ok := strings.Cut(string(b), "\x00--spool\x00"+dir+"/")
				if !ok || killed[c] || !strings.Contains(string(b), "\x00--host\x00client\x00") {
					continue
				}
				spool = filepath.Join(dir, strings.TrimRight(spool, "\x00")) // RUN/.agents/client.jsonl
				if log, _ := os.ReadFile(filepath.Join(filepath.Dir(filepath.Dir(spool)), runner.LogName)); !bytes.Contains(log, []byte(`"bin":`)) {
					continue
				}
				pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(c)))
				killed[c] = syscall.Kill(pid, syscall.SIGKILL) == nil
			}
		}
	})
	return func() int { cancel(); wait.Wait(); return len(killed) }
}

// An agent that dies leaves nothing to pass or to decide: in a run, in an
// experiment and in a search.
func TestDeadAgent(t *testing.T) {
	needLab(t)
	const traffic = `
name: dead
duration: 4s
services: [{name: web}]
traffic: [{name: clients, to: web, timeout: 500ms, short_lived: {rate: 100/s}}]
`
	for _, c := range []struct{ name, more string }{
		{"run", "thresholds: [drop == 0]\n"},
		{"arms", "thresholds: [drop == 0]\narms: [{name: one}, {name: other}]\n"},
		{"search", "search: {knob: 'traffic[0].short_lived.rate', min: 100/s, max: 200/s, trial: 4s, duration_sum: 4s, retries: 1}\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "out")
			stop := killClients(t.Context(), dir)
			var out, errOut bytes.Buffer
			code := run(t.Context(), []string{"run", "-", "--out", dir, "--quiet"}, Streams{In: strings.NewReader(traffic + c.more), Out: &out, Err: &errOut})
			require.Positive(t, stop(), "%s%s", out.String(), errOut.String())
			assert.Equal(t, exitInconclusive, code, "%s%s", out.String(), errOut.String())
			assert.Contains(t, strings.Join(strings.Fields(out.String()), " "), "the agent on client was lost")
			if c.name != "run" {
				return
			}
			for _, args := range [][]string{{dir}, {dir, "--verify"}} {
				errOut.Reset()
				assert.Equal(t, exitInconclusive, run(t.Context(), append([]string{"size"}, args...), Streams{Out: io.Discard, Err: &errOut}))
				assert.Contains(t, errOut.String(), "do not size from this run: ")
			}
		})
	}
}
