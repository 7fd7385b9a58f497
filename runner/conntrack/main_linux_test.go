package conntrack

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"go.uber.org/goleak"

	"github.com/tablefull/tablefull/runner/env/envtest"
)

// TestMain puts benchmarks into a namespace of their own: all of them work on
// its table. Tests do that one by one.
func TestMain(m *testing.M) {
	flag.Parse()
	if flag.Lookup("test.bench").Value.String() != "" && os.Getenv(benchInside) == "" {
		os.Exit(benchInNamespace())
	}
	// Many tests run a process of their own; the race detector would have each
	// wait for a second at its end.
	if os.Getenv("GORACE") == "" {
		_ = os.Setenv("GORACE", "atexit_sleep_ms=0")
	}
	goleak.VerifyTestMain(m)
}

const benchInside = "TABLEFULL_BENCH_NAMESPACE"

func benchInNamespace() int {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), benchInside+"=1")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = envtest.Attr(syscall.CLONE_NEWNET)
	if err := cmd.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "run benchmarks in a new network namespace:", err)
		return 1
	}
	return 0
}

// recorder keeps records for a test to look at.
type recorder struct{ envtest.Recorder }

// last returns the last ballast event of a name, nil if there is none.
func (r *recorder) last(name string) map[string]string {
	var fields map[string]string
	for _, rec := range r.Records() {
		if rec.Event != nil && rec.Event.Kind == "ballast" && rec.Event.Name == name {
			fields = rec.Event.Fields
		}
	}
	return fields
}
