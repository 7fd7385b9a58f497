//go:build linux

package private

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tablefull/tablefull/runner/env"
)

// program writes a script that stands in for the kernel.
func program(t *testing.T, body string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "linux.uml")
	require.NoError(t, os.WriteFile(name, []byte("#!/bin/sh\n"+body), 0o755))
	return name
}

func TestWhatIsMissingIsNamed(t *testing.T) {
	there := program(t, "echo 1.2.3")
	for name, c := range map[string]struct {
		files Files
		want  string
	}{
		"no kernel":  {Files{Kernel: "/does/not/exist"}, "/does/not/exist is not there; as root: apt-get install user-mode-linux"},
		"no modules": {Files{Kernel: there, Modules: "/does/not/exist"}, "/does/not/exist/1.2.3/modules.dep"},
		"not it":     {Files{Kernel: program(t, "exit 1")}, "must be user-mode Linux"},
	} {
		got := Probe(t.Context(), c.files)
		assert.Equal(t, env.No, got.State, name)
		assert.Contains(t, got.Reason, c.want, name)
		_, err := Run(t.Context(), Config{Files: c.files, Memory: 512})
		var unfit *Unfit
		assert.ErrorAs(t, err, &unfit, name)
	}
}

func TestWhatIsThere(t *testing.T) {
	modules := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(modules, "1.2.3"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(modules, "1.2.3", "modules.dep"), nil, 0o644))
	got := Probe(t.Context(), Files{Kernel: program(t, "echo 1.2.3"), Modules: modules})
	assert.Equal(t, env.Capability{Name: "private_kernel", State: env.Yes, Reason: "user-mode Linux 1.2.3"}, got)
}

func TestMoreMemoryThanThereIs(t *testing.T) {
	var unfit *Unfit
	require.ErrorAs(t, checkMemory(1<<30), &unfit)
	assert.Contains(t, unfit.Reason, "lower lab.memory")
	assert.NoError(t, checkMemory(16))
}

func TestCrashShowsWhyNotTheTrace(t *testing.T) {
	e := &Crash{Reason: "it ended", Console: strings.Repeat("noise\n", 100) + "tablefull: mount proc at /proc: no\nKernel panic - not syncing: Attempted to kill init!\nCall Trace:\n [<60074557>] ? se_is_idle"}
	assert.Contains(t, e.Error(), "it ended; the last lines of its console:\nnoise\n")
	assert.True(t, strings.HasSuffix(e.Error(), "tablefull: mount proc at /proc: no\nKernel panic - not syncing: Attempted to kill init!"), e.Error())
	assert.Less(t, strings.Count(e.Error(), "\n"), 20)
	assert.Equal(t, "it ended; its console is empty", (&Crash{Reason: "it ended"}).Error())
}

// The signs of life are files; their times are given, so that no test waits.
func TestSignsOfLife(t *testing.T) {
	dir := t.TempDir()
	alive := func(n int) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, aliveFile), make([]byte, n), 0o600))
	}
	zero := time.Now()
	at := func(d time.Duration) time.Time { return zero.Add(d) }
	v := vital{dir: dir, last: zero}
	alive(0)
	assert.Empty(t, v.check(at(bootTimeout)))
	assert.Contains(t, v.check(at(bootTimeout+1)), "did not boot")
	alive(1)
	assert.Empty(t, v.check(at(bootTimeout+1)))
	assert.Empty(t, v.check(at(bootTimeout+1+silence)))
	alive(2)
	assert.Empty(t, v.check(at(bootTimeout+2+silence)))
	assert.Contains(t, v.check(at(bootTimeout+3+2*silence)), "no sign of life")
	require.NoError(t, os.WriteFile(filepath.Join(dir, codeFile), []byte("0"), 0o600))
	assert.Empty(t, v.check(at(bootTimeout+4+2*silence)), "it has ended and is powering off")
	assert.Contains(t, v.check(at(bootTimeout+5+2*silence+haltTimeout)), "did not power off")
}

func TestHiddenCommandsRefuseOutside(t *testing.T) {
	assert.ErrorContains(t, Supervise(strings.NewReader("{}\n"), nil, nil), "for the program itself")
	assert.ErrorContains(t, Init(t.Context(), strings.NewReader(""), nil), "for the program itself")
	assert.False(t, Inside())
}
