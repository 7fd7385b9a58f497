//go:build linux

package cluster_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The CronJob of the documentation runs in the cluster, with the rights that it
// brings and as an ordinary user, its Job ends as the run does, and nothing but
// its own namespace is there afterwards. Its volume is an empty one here: this
// cluster provides none.
func checkCronJob(t *testing.T, s setup) {
	b, err := os.ReadFile(filepath.Join("..", "..", "docs", "pipelines", "cronjob.yaml"))
	require.NoError(t, err)
	text := string(b)
	for from, to := range map[string]string{
		"registry.example/tablefull:v1":               image,
		"persistentVolumeClaim: {claimName: results}": "emptyDir: {}",
		// Short, and with a threshold that fails.
		"--set=duration=10m": "--set=duration=3s\n            - --set=actions=null\n            - --set=thresholds=[failures > 100]",
	} {
		require.Contains(t, text, from)
		text = strings.ReplaceAll(text, from, to)
	}
	kubectl := func(args ...string) string {
		out, err := s.cluster.Kubectl(t.Context(), []byte(text), append([]string{"--namespace=tablefull-nightly"}, args...)...)
		require.NoError(t, err)
		return string(out)
	}
	before := s.objects(t)
	kubectl("apply", "--filename=-")
	with := s.objects(t)
	kubectl("create", "job", "--from=cronjob/tablefull-nightly", "once")
	kubectl("wait", "--for=condition=failed", "--timeout=120s", "job/once")
	said := kubectl("logs", "--selector=job-name=once", "--tail=-1")
	want := map[bool]string{true: "3", false: "4"}[strings.Contains(said, "verdict of stale-soak: fail")]
	assert.Equal(t, want, kubectl("get", "pod", "--selector=job-name=once", "--output=jsonpath={.items[0].status.containerStatuses[0].state.terminated.exitCode}"), said)
	assert.Contains(t, said, "threshold failed: failures > 100", "also where the machine was too busy for a verdict")
	assert.Equal(t, with, s.objects(t), "the run's own namespace is gone")
	kubectl("delete", "--filename=-", "--timeout=60s")
	assert.Equal(t, before, s.objects(t))
}
