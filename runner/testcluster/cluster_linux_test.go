package testcluster_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/tablefull/tablefull/runner/env/envtest"
	"github.com/tablefull/tablefull/runner/kubeproxy"
	"github.com/tablefull/tablefull/runner/testcluster"
	"github.com/tablefull/tablefull/runner/testcluster/ociimage"
)

func TestMain(m *testing.M) {
	testcluster.Stage()
	goleak.VerifyTestMain(m)
}

const (
	version = "v1.36.3"
	image   = "localhost/tablefull:test"
	token   = "of the test"
)

// config is what a cluster needs, less its directory.
func config(t *testing.T) testcluster.Config {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("a test cluster needs root") // which CI runs these tests as, too
	}
	// Only what is in the cache: `make kube-programs` takes minutes.
	programs, err := testcluster.Find(t.Context(), kubeproxy.Getter{Site: "http://127.0.0.1:1", Go: "/nonexistent"}, version)
	if err != nil {
		envtest.Require(t, "cluster", err.Error()+" (see: make kube-programs)")
	}
	dir := t.TempDir()
	archives, err := testcluster.MakeImages(t.Context(), dir, version, programs["kube-proxy"])
	require.NoError(t, err)
	return testcluster.Config{Version: version, Programs: programs, Images: archives, Log: func(line string) { t.Log(line) }}
}

func tablefullImage(t *testing.T) string {
	t.Helper()
	program, archive := filepath.Join(t.TempDir(), "tablefull"), filepath.Join(t.TempDir(), "tablefull.tar")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-o", program, "github.com/tablefull/tablefull/cmd/tablefull")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, string(out))
	require.NoError(t, ociimage.WriteFile(archive, testcluster.TablefullImage(image, program)))
	return archive
}

// The whole life of a cluster: a service over both nodes is reached, kube-proxy
// is what kubeadm would have installed, and after a crash nothing is left.
func TestCluster(t *testing.T) {
	c := config(t)
	c.Images = append(c.Images, tablefullImage(t))
	c.Dir = filepath.Join(t.TempDir(), "cluster")
	before := snapshot(t, c.Programs)
	cluster, err := testcluster.Up(t.Context(), c)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, testcluster.Down(context.Background(), c.Dir)) })
	_, err = testcluster.Up(t.Context(), c)
	require.ErrorIs(t, err, os.ErrExist, "it runs already, and goes on")

	t.Run("kube-proxy", func(t *testing.T) { checkProxy(t, cluster) })
	t.Run("service", func(t *testing.T) { checkService(t, cluster) })
	t.Run("gone", func(t *testing.T) { checkGone(t, cluster) })

	during := snapshot(t, c.Programs)
	maps.DeleteFunc(during.Settings, func(path, _ string) bool { return strings.Contains(path, "/tfc") }) // the link's own
	assert.Equal(t, before.Settings, during.Settings)
	assert.Equal(t, before.Mounts, during.Mounts)
	assert.Equal(t, before.Files, during.Files)
	assert.NotEqual(t, before.Processes, during.Processes, "the comparison sees what runs")
	assert.NotEqual(t, before.Cgroups, during.Cgroups, "the comparison sees control groups")

	// One host dies of whatever; the rest ends with it.
	require.NoError(t, cluster.Signal("node-a", "", unix.SIGKILL))
	require.Eventually(t, func() bool { _, err := testcluster.Open(c.Dir); return err != nil }, 20*time.Second, 20*time.Millisecond)
	require.NoError(t, testcluster.Down(t.Context(), c.Dir))
	assert.Equal(t, before, snapshot(t, c.Programs))
	assert.NoDirExists(t, c.Dir)
	require.NoError(t, testcluster.Down(t.Context(), c.Dir), "again")
}

// A start that is interrupted leaves nothing.
func TestUpIsCanceled(t *testing.T) {
	c := config(t)
	c.Dir = filepath.Join(t.TempDir(), "cluster")
	before := snapshot(t, c.Programs)
	why := errors.New("no longer wanted")
	ctx, cancel := context.WithCancelCause(t.Context())
	c.Log = func(string) { cancel(why) } // the API server is ready, containers are being started
	_, err := testcluster.Up(ctx, c)
	require.ErrorIs(t, err, why)
	assert.ErrorContains(t, err, "the last of control-kube-apiserver.log")
	assert.Equal(t, before, snapshot(t, c.Programs))
	assert.NoDirExists(t, c.Dir)
}

func checkProxy(t *testing.T, c *testcluster.Cluster) {
	var ds struct {
		Metadata struct{ Labels map[string]string }
		Status   struct{ NumberReady, DesiredNumberScheduled int }
	}
	get(t, c, &ds, "--namespace=kube-system", "daemonset/kube-proxy")
	assert.Equal(t, "kube-proxy", ds.Metadata.Labels["k8s-app"])
	assert.Equal(t, 2, ds.Status.NumberReady)
	assert.Equal(t, 2, ds.Status.DesiredNumberScheduled)
	var cm struct{ Data map[string]string }
	get(t, c, &cm, "--namespace=kube-system", "configmap/kube-proxy")
	assert.Contains(t, cm.Data["config.conf"], "mode: nftables")
	for _, node := range c.NodeNames() {
		assert.NoError(t, c.Inside(node, func() error {
			out, err := exec.CommandContext(t.Context(), "nft", "list", "table", "ip6", "kube-proxy").CombinedOutput()
			if err != nil {
				return fmt.Errorf("%w: %s", err, out)
			}
			out, err = exec.CommandContext(t.Context(), "nft", "list", "table", "ip", "kube-proxy").CombinedOutput()
			if err == nil && !strings.Contains(string(out), "10.96.0.1") {
				err = errors.New("the service kubernetes is not in it")
			}
			return err
		}), node)
	}
}

const deployment = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: agents}
spec:
  replicas: 2
  selector: {matchLabels: {app: agents}}
  template:
    metadata: {labels: {app: agents}}
    spec:
      topologySpreadConstraints:
      - {maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: DoNotSchedule, labelSelector: {matchLabels: {app: agents}}}
      containers:
      - name: agent
        image: ` + image + `
        imagePullPolicy: Never
        args: [agent, --host=$(NODE), --spool=/spool/records, "--listen=tcp::8080"]
        env:
        - {name: TABLEFULL_TOKEN, value: ` + token + `}
        - {name: NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}
        readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}
        securityContext: {readOnlyRootFilesystem: true, allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
        volumeMounts: [{name: spool, mountPath: /spool}]
      volumes: [{name: spool, emptyDir: {}}]
---
apiVersion: v1
kind: Service
metadata: {name: agents}
spec: {selector: {app: agents}, ipFamilyPolicy: RequireDualStack, ports: [{port: 80, targetPort: 8080}]}
`

// checkService reaches a pod on each node through the service's address of
// each family, from each host; and none once there is no service.
func checkService(t *testing.T, c *testcluster.Cluster) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	_, err := c.Kubectl(ctx, []byte(deployment), "apply", "--filename=-")
	require.NoError(t, err)
	_, err = c.Kubectl(ctx, nil, "rollout", "status", "deployment/agents", "--timeout=50s")
	require.NoError(t, err)
	var svc struct{ Spec struct{ ClusterIPs []string } }
	get(t, c, &svc, "service/agents")
	require.Len(t, svc.Spec.ClusterIPs, 2)
	for _, ip := range svc.Spec.ClusterIPs {
		addr := net.JoinHostPort(ip, "80")
		for _, from := range append(c.NodeNames(), "control") {
			seen := map[string]bool{}
			require.Eventually(t, func() bool {
				name, err := health(ctx, c, from, addr)
				if err == nil {
					seen[name] = true
				}
				return len(seen) == 2
			}, 20*time.Second, 10*time.Millisecond, "from %s only %v was reached at %s", from, &seen, addr)
			for _, node := range c.NodeNames() {
				assert.True(t, seen[node], node)
			}
		}
	}
	_, err = c.Kubectl(ctx, nil, "delete", "service/agents")
	require.NoError(t, err)
	for _, ip := range svc.Spec.ClusterIPs {
		assert.Eventually(t, func() bool {
			_, err := health(ctx, c, "control", net.JoinHostPort(ip, "80"))
			return err != nil
		}, 20*time.Second, 10*time.Millisecond, "without a service there is no answer at %s", ip)
	}
}

// What is sent to a pod that is not there is in each node's table once, and
// the router forwards it once: it does not go to and fro until its hop limit
// ends, which would be 31 times.
func checkGone(t *testing.T, c *testcluster.Cluster) {
	const packets = 40
	for family, addr := range map[string]string{"ipv4": "10.244.1.250", "ipv6": "fd00:10:244:1::fa"} {
		before := forwarded(t, c, family)
		conn, err := c.DialFrom("node-b")(t.Context(), "udp", net.JoinHostPort(addr, "9"))
		require.NoError(t, err)
		for range packets {
			_, err = conn.Write([]byte("x"))
			require.NoError(t, err)
		}
		require.NoError(t, conn.Close())
		for _, node := range c.NodeNames() { // of which the second is the first to see it
			has := func() (n int) {
				assert.NoError(t, c.Inside(node, func() error {
					out, err := exec.CommandContext(t.Context(), "conntrack", "-L", "-f", family, "-p", "udp", "--orig-dst", addr).Output()
					n = strings.Count(string(out), "\n")
					return err
				}))
				return n
			}
			require.Eventually(t, func() bool { return has() > 0 }, 10*time.Second, 10*time.Millisecond, "%s at %s", addr, node)
			assert.Never(t, func() bool { return has() > 1 }, 200*time.Millisecond, 50*time.Millisecond, "%s at %s", addr, node)
		}
		times := forwarded(t, c, family) - before
		t.Logf("%d packets to %s were forwarded %d times", packets, addr, times)
		assert.GreaterOrEqual(t, times, packets)
		assert.Less(t, times, 5*packets, "the cluster's own packets between the nodes are few") // a loop makes it 31
	}
}

var forwardedCounter = map[string]struct {
	file string
	line *regexp.Regexp
}{
	"ipv4": {"/proc/thread-self/net/snmp", regexp.MustCompile(`(?m)^Ip: (?:\d+ ){5}(\d+) `)}, // ForwDatagrams is the sixth
	"ipv6": {"/proc/thread-self/net/snmp6", regexp.MustCompile(`(?m)^Ip6OutForwDatagrams\s+(\d+)`)},
}

// forwarded is how many packets of the family the router has forwarded.
func forwarded(t *testing.T, c *testcluster.Cluster, family string) (n int) {
	t.Helper()
	counter := forwardedCounter[family]
	require.NoError(t, c.Inside("control", func() error {
		b, err := os.ReadFile(counter.file)
		if err != nil {
			return err
		}
		m := counter.line.FindSubmatch(b)
		if m == nil {
			return fmt.Errorf("find the counter in %s", b)
		}
		n, err = strconv.Atoi(string(m[1]))
		return err
	}))
	return n
}

// health asks the agent at addr for its name, from inside a host.
func health(ctx context.Context, c *testcluster.Cluster, from, addr string) (name string, err error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	conn, err := c.DialFrom(from)(ctx, "tcp", addr)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	if err := conn.SetDeadline(deadline); err != nil {
		return "", err
	}
	if _, err := fmt.Fprintf(conn, "GET /v1/health HTTP/1.0\r\nAuthorization: Bearer %s\r\n\r\n", token); err != nil {
		return "", err
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("it answers %s", resp.Status)
	}
	var h struct{ Host string }
	err = json.NewDecoder(resp.Body).Decode(&h)
	return h.Host, err
}

func get(t *testing.T, c *testcluster.Cluster, v any, args ...string) {
	t.Helper()
	out, err := c.Kubectl(t.Context(), nil, slices.Concat([]string{"get", "--output=json"}, args)...)
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(out, v))
}
