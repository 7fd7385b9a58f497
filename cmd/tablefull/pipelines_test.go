package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"gopkg.in/yaml.v3"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/json"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/kubernetes/scheme"
)

// pipelineScenario holds, or with headroom 50 does not.
const pipelineScenario = `
name: pipeline
duration: 1s
conntrack: {headroom: 2000}
services: [{name: web}]
traffic: [{name: clients, to: web, timeout: 500ms, short_lived: {rate: 100/s}}]
thresholds: [drop == 0]
`

// shellEnv is what a step's shell gets, with tablefull on its path.
func shellEnv(t *testing.T, more map[string]string) []string {
	t.Helper()
	bin := t.TempDir()
	self, err := os.Executable()
	require.NoError(t, err)
	// The test binary stands in for the program by its name: see TestMain.
	require.NoError(t, os.Symlink(self, filepath.Join(bin, "tablefull")))
	env := []string{"PATH=" + bin + ":" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "XDG_STATE_HOME=" + t.TempDir(), "TMPDIR=" + os.TempDir()}
	for k, v := range more {
		env = append(env, k+"="+v)
	}
	return env
}

// shell runs a script as a pipeline does, and returns its exit code.
func shell(t *testing.T, dir, script string, env []string) (code int, out string) {
	t.Helper()
	c := exec.CommandContext(t.Context(), "bash", "--noprofile", "--norc", "-e", "-o", "pipefail", "-c", script)
	c.Dir, c.Env = dir, env
	b, err := c.CombinedOutput()
	if _, isExit := err.(*exec.ExitError); err != nil && !isExit { //nolint:errorlint // as it comes
		require.NoError(t, err)
	}
	return c.ProcessState.ExitCode(), string(b)
}

func pipelineDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "pipeline.yaml"), []byte(pipelineScenario), 0o644))
	return dir
}

type githubAction struct {
	Inputs map[string]struct {
		Description string
		Default     *string
	}
	Outputs map[string]struct{ Description, Value string }
	Runs    struct {
		Using string
		Steps []struct {
			Name, ID, If, Shell, Run, Uses string
			Env                            map[string]string
		}
	}
}

var githubExpression = regexp.MustCompile(`\$\{\{ *([^}]*[^} ]) *\}\}`)

// The action's last step, run as the runner does: its exit code, outputs and
// summary.
func TestGitHubAction(t *testing.T) {
	needLab(t)
	b, err := os.ReadFile("../../.github/actions/tablefull/action.yml")
	require.NoError(t, err)
	var a githubAction
	dec := yaml.NewDecoder(bytes.NewReader(b))
	require.NoError(t, dec.Decode(&a))
	require.Equal(t, "composite", a.Runs.Using)
	for _, s := range a.Runs.Steps {
		assert.Equal(t, "bash", s.Shell, s.Name)
		assert.NotContains(t, s.Run, "${{", "%s: inputs reach a script through its environment only", s.Name)
		code, out := shell(t, t.TempDir(), "bash -n <<'END'\n"+s.Run+"\nEND", os.Environ())
		assert.Zero(t, code, out)
		for _, v := range s.Env {
			in, ok := strings.CutPrefix(githubExpression.FindStringSubmatch(v)[1], "inputs.")
			assert.True(t, ok, v)
			assert.Contains(t, a.Inputs, in)
		}
	}
	for name, o := range a.Outputs {
		assert.Equal(t, "${{ steps.run.outputs."+name+" }}", o.Value)
	}
	step := a.Runs.Steps[len(a.Runs.Steps)-1]
	require.Equal(t, "run", step.ID)
	perform := func(with map[string]string) (code int, out, outputs, summary string, dir string) {
		dir = pipelineDir(t)
		env := map[string]string{"RUNNER_TEMP": dir, "GITHUB_OUTPUT": filepath.Join(dir, "outputs"), "GITHUB_STEP_SUMMARY": filepath.Join(dir, "summary")}
		for name, v := range step.Env {
			in := strings.TrimPrefix(githubExpression.FindStringSubmatch(v)[1], "inputs.")
			env[name] = *a.Inputs[in].Default
			if given, ok := with[in]; ok {
				env[name] = given
			}
		}
		code, out = shell(t, dir, step.Run, shellEnv(t, env))
		o, _ := os.ReadFile(env["GITHUB_OUTPUT"])
		s, _ := os.ReadFile(env["GITHUB_STEP_SUMMARY"])
		return code, out, string(o), string(s), dir
	}
	with := func(more map[string]string) map[string]string {
		m := map[string]string{"binary": "tablefull", "scenario": "pipeline.yaml", "args": "--quiet"}
		maps.Copy(m, more)
		return m
	}
	code, out, outputs, summary, dir := perform(with(nil))
	require.Contains(t, []int{exitPass, exitInconclusive}, code, out)
	assert.Equal(t, fmt.Sprintf("exit-code=%d\nresults=tablefull-results\n", code), outputs)
	assert.Contains(t, summary, "pipeline")
	assert.FileExists(t, filepath.Join(dir, "tablefull-results", "junit.xml"))

	code, out, outputs, _, _ = perform(with(map[string]string{"args": "--quiet --set conntrack.headroom=50"}))
	assert.Contains(t, []int{exitFail, exitInconclusive}, code, out)
	assert.Contains(t, outputs, "exit-code=")
	assert.Contains(t, out, "::error title=tablefull::")

	code, out, _, _, _ = perform(with(map[string]string{"args": "--set no.such=1"}))
	assert.Equal(t, exitUsage, code, out)
	// A gate's arguments, as far as its plan.
	code, out, _, _, _ = perform(with(map[string]string{"baseline": "builtin", "candidate": "builtin", "trials": "3", "args": "--dry-run"}))
	assert.Equal(t, exitPass, code, out)
	assert.Contains(t, out, "2 arms, 3 of each")
	code, out, _, _, _ = perform(with(map[string]string{"candidate": "builtin", "args": "--dry-run"}))
	assert.Equal(t, exitUsage, code, "without a baseline there is no gate: %s", out)
}

// GitLab's jobs, run as its shell executor does.
func TestGitLabJobs(t *testing.T) {
	needLab(t)
	b, err := os.ReadFile("../../docs/pipelines/gitlab.yml")
	require.NoError(t, err)
	type job struct {
		Extends      string
		Variables    map[string]string
		BeforeScript []string `yaml:"before_script"`
		Script       []string
		Artifacts    struct {
			When    string
			Paths   []string
			Reports map[string]string
		}
	}
	jobs := map[string]job{}
	dec := yaml.NewDecoder(bytes.NewReader(b))
	dec.KnownFields(true)
	require.NoError(t, dec.Decode(&jobs))
	perform := func(name, dir string, set map[string]string) (int, string) {
		j := jobs[name]
		env := map[string]string{}
		if j.Extends != "" {
			maps.Copy(env, jobs[j.Extends].Variables)
		}
		maps.Copy(env, j.Variables)
		maps.Copy(env, set)
		return shell(t, dir, strings.Join(append(j.BeforeScript, j.Script...), "\n"), shellEnv(t, env))
	}
	base := jobs[".tablefull"]
	assert.Equal(t, "always", base.Artifacts.When, "a failure's report is the one that is wanted")
	dir := pipelineDir(t)
	code, out := perform(".tablefull", dir, map[string]string{"SCENARIO": "pipeline.yaml", "ARGS": "--quiet --set conntrack.headroom=50"})
	assert.Contains(t, []int{exitFail, exitInconclusive}, code, out)
	assert.FileExists(t, filepath.Join(dir, strings.ReplaceAll(base.Artifacts.Reports["junit"], "$OUT", base.Variables["OUT"])))
	code, out = perform(".tablefull-gate", dir, map[string]string{"SCENARIO": "pipeline.yaml", "BASELINE": "builtin", "CANDIDATE": "builtin:nftables", "TRIALS": "4", "ARGS": "--dry-run"})
	assert.Equal(t, exitPass, code, out)
	assert.Contains(t, out, "2 arms, 4 of each")
	code, _ = perform(".tablefull-gate", dir, nil)
	assert.Equal(t, exitUsage, code, "a gate of nothing does not pass")
}

// strictObjects reads objects as an API server with field validation does.
func strictObjects(t *testing.T, b []byte) []runtime.Object {
	t.Helper()
	strict := json.NewSerializerWithOptions(json.DefaultMetaFactory, scheme.Scheme, scheme.Scheme, json.SerializerOptions{Yaml: true, Strict: true})
	docs := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(b)))
	var out []runtime.Object
	for {
		doc, err := docs.Read()
		if err == io.EOF { //nolint:errorlint // its contract
			return out
		}
		require.NoError(t, err)
		o, _, err := strict.Decode(doc, nil, nil)
		require.NoError(t, err)
		out = append(out, o)
	}
}

// The CronJob is what the API takes, its parts fit together, and its arguments
// are the program's.
func TestCronJob(t *testing.T) {
	b, err := os.ReadFile("../../docs/pipelines/cronjob.yaml")
	require.NoError(t, err)
	var job *batchv1.CronJob
	var accounts, claims []string
	all := strictObjects(t, b)
	for _, o := range all {
		switch o := o.(type) {
		case *batchv1.CronJob:
			job = o
		case *corev1.ServiceAccount:
			accounts = append(accounts, o.Namespace+"/"+o.Name)
		case *corev1.PersistentVolumeClaim:
			claims = append(claims, o.Namespace+"/"+o.Name)
		case *rbacv1.ClusterRoleBinding:
			assert.Contains(t, accounts, o.Subjects[0].Namespace+"/"+o.Subjects[0].Name)
		}
	}
	require.NotNil(t, job)
	var roles strings.Builder
	require.Zero(t, run(t.Context(), []string{"doctor", "--rbac", "stale-soak", "--for", "ServiceAccount:" + accounts[0]}, Streams{Out: &roles, Err: io.Discard}))
	for _, o := range strictObjects(t, []byte(roles.String())) {
		assert.Contains(t, all, o, "the account has what doctor --rbac prints")
	}
	assert.Equal(t, batchv1.ForbidConcurrent, job.Spec.ConcurrencyPolicy)
	assert.Zero(t, *job.Spec.JobTemplate.Spec.BackoffLimit)
	pod := job.Spec.JobTemplate.Spec.Template.Spec
	assert.Contains(t, accounts, job.Namespace+"/"+pod.ServiceAccountName)
	assert.Contains(t, claims, job.Namespace+"/"+pod.Volumes[0].PersistentVolumeClaim.ClaimName)
	require.Len(t, pod.Containers, 1)
	c := pod.Containers[0]
	mounts := map[string]string{}
	for _, m := range c.VolumeMounts {
		mounts[m.MountPath] = m.Name
	}
	assert.Contains(t, mounts, c.WorkingDir, "results go where one can write")

	// A cluster that nobody listens for: the arguments are understood, and it is
	// the cluster that is missing.
	config := filepath.Join(t.TempDir(), "config")
	require.NoError(t, os.WriteFile(config, []byte(`{apiVersion: v1, kind: Config, current-context: x, clusters: [{name: x, cluster: {server: "http://127.0.0.1:1"}}], contexts: [{name: x, context: {cluster: x}}]}`), 0o600))
	t.Chdir(t.TempDir())
	var errOut strings.Builder
	args := append([]string{}, c.Args...)
	for i, a := range args {
		if strings.HasPrefix(a, "--metrics=") {
			args[i] = "--metrics=127.0.0.1:0"
		}
	}
	code := run(t.Context(), append(args, "--kubeconfig", config), Streams{In: strings.NewReader(""), Out: io.Discard, Err: &errOut})
	assert.Equal(t, exitUnsupported, code, errOut.String())
	assert.Contains(t, errOut.String(), "127.0.0.1:1")
	code = run(t.Context(), append(args, "--kubeconfig", config, "--no-such-flag"), Streams{In: strings.NewReader(""), Out: io.Discard, Err: &errOut})
	assert.Equal(t, exitUsage, code)

	bad := bytes.Replace(b, []byte("concurrencyPolicy:"), []byte("concurencyPolicy:"), 1)
	strict := json.NewSerializerWithOptions(json.DefaultMetaFactory, scheme.Scheme, scheme.Scheme, json.SerializerOptions{Yaml: true, Strict: true})
	parts := bytes.Split(bad, []byte("\n---\n"))
	_, _, err = strict.Decode(parts[len(parts)-1], nil, nil)
	assert.ErrorContains(t, err, "concurencyPolicy", "the check finds what is wrong")
}
