//go:build linux

// Package envtest lets a test run inside network namespaces of its own, as
// root or not, and keeps skips honest.
package envtest

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
)

const inside = "TABLEFULL_TEST_NAMESPACE"

// Require skips the test because of why, or fails it where the environment
// variable TABLEFULL_REQUIRE (a comma-separated list) names capability: a CI
// run that says it needs namespaces cannot quietly test nothing.
func Require(t testing.TB, capability string, why string) {
	t.Helper()
	if slices.Contains(strings.Split(os.Getenv("TABLEFULL_REQUIRE"), ","), capability) {
		t.Fatalf("TABLEFULL_REQUIRE names %s, but: %s", capability, why)
	}
	t.Skipf("needs %s: %s", capability, why)
}

// Namespace makes the rest of the test run in a process of its own inside a
// new network namespace (and a new user namespace where the caller is not
// root), with root's capabilities over it. Usage, as the first line of a test:
//
//	if !envtest.Namespace(t) { return }
//
// It returns true inside the namespace. Outside it runs the same test again
// inside, relays its output and result, and returns false.
func Namespace(t *testing.T) bool {
	t.Helper()
	if os.Getenv(inside) == t.Name() {
		return true
	}
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^"+pattern(t.Name())+"$", "-test.v", "-test.timeout=5m")
	// The race detector sleeps for a second when a process ends, unless told.
	cmd.Env = append(os.Environ(), inside+"="+t.Name(), "GORACE=atexit_sleep_ms=0 "+os.Getenv("GORACE"))
	cmd.SysProcAttr = Attr(syscall.CLONE_NEWNET)
	out, err := cmd.CombinedOutput()
	if cmd.Process == nil {
		Require(t, "netns", "start a process in a new network namespace: "+err.Error())
	}
	t.Logf("in a namespace of its own:\n%s", out)
	switch {
	case err != nil:
		t.Fatalf("the test failed inside its namespace: %v", err)
	case strings.Contains(string(out), "--- SKIP: "+t.Name()):
		t.Skip("the test skipped itself inside its namespace")
	case !strings.Contains(string(out), "--- PASS: "+t.Name()):
		t.Fatal("the test did not run inside its namespace")
	}
	return false
}

// Attr is how a child process is put into new namespaces: with a user
// namespace around them where this process is not root.
func Attr(flags uintptr) *syscall.SysProcAttr {
	a := &syscall.SysProcAttr{Cloneflags: flags, Pdeathsig: syscall.SIGKILL}
	if os.Geteuid() != 0 {
		a.Cloneflags |= syscall.CLONE_NEWUSER
		a.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
		a.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	}
	return a
}

// pattern anchors each element of a subtest's name.
func pattern(name string) string { return strings.ReplaceAll(name, "/", "$/^") }
