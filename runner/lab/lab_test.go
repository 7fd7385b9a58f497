//go:build linux

package lab

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tablefull/tablefull/report/runlog"
	"github.com/tablefull/tablefull/runner/env"
	"github.com/tablefull/tablefull/scenarios"
)

func topology(t testing.TB, services ...scenarios.Service) env.Topology {
	return env.Topology{RunID: "test", WorkDir: filepath.Join(t.TempDir(), "work"), Services: services}
}

func service(name string, pods int) scenarios.Service {
	return scenarios.Service{Name: name, Protocol: "tcp", Port: 8080, PortCount: 1, Pods: pods, NoPods: pods == 0}
}

// up brings a lab up, starts a server on every pod, and takes all down with the test.
func up(t testing.TB, top env.Topology) *Lab {
	t.Helper()
	l, err := newEnv().Up(t.Context(), top)
	require.NoError(t, err)
	t.Cleanup(func() {
		assert.NoError(t, l.Close(context.Background()))
		assert.NoDirExists(t, top.WorkDir)
	})
	lab := l.(*Lab)
	for i, s := range lab.Services() {
		for _, b := range s.Backends {
			require.NoError(t, lab.host(b.Name).Start(t.Context(), env.Job{ID: "serve", Serve: &env.ServeJob{
				Service: s.Name, Backend: b.Name, Protocol: s.Protocol, Addr: b.Addr, Ports: top.Services[i].PortCount,
			}}))
		}
	}
	return lab
}

func (l *Lab) host(name string) env.Host {
	for _, h := range l.Hosts() {
		if h.Name() == name {
			return h
		}
	}
	return nil
}

func controller(ctx context.Context, args []string) error { return nil }

func TestUpDown(t *testing.T) {
	t0 := time.Now()
	l := up(t, topology(t, service("web", 10)))
	t.Log(time.Since(t0))
	_ = l
	t1 := time.Now()
	require.NoError(t, l.Close(t.Context()))
	t.Log(time.Since(t1))
	_ = runlog.OK
}

func TestProbe(t *testing.T) {
	c, err := newEnv().Probe(t.Context())
	require.NoError(t, err)
	t.Logf("%+v", c)
}
