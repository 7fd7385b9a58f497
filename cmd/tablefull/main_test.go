package main

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestMain lets the test binary stand in for the program: for the scripts, and
// for the agents and the supervisor that a lab starts.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && (os.Args[1] == "agent" || os.Args[1] == "lab" || os.Args[1] == "private") {
		addNodeRules()
		main()
	}
	testscript.Main(ownState{m}, map[string]func(){"tablefull": main})
}

// nodeRules names the variable of nft commands that a lab's nodes begin with.
const nodeRules = "TABLEFULL_TEST_NODE_RULES"

// addNodeRules gives the node's namespace, where this process is its agent,
// rules that are not the lab's own: a limit that a test knows.
func addNodeRules() {
	rules := os.Getenv(nodeRules)
	if rules == "" || os.Args[1] != "agent" || !slices.Contains(os.Args, "node1") {
		return
	}
	nft := exec.Command("nft", "-f", "-")
	nft.Stdin, nft.Stdout, nft.Stderr = strings.NewReader(rules), os.Stderr, os.Stderr
	if err := nft.Run(); err != nil {
		panic(err)
	}
}

// ownState keeps the tests' journals apart from the user's, and fails where all
// tests have run and left out a report of the library.
type ownState struct{ m *testing.M }

func (o ownState) Run() int {
	dir, err := os.MkdirTemp("", "tablefull-test-state-")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	os.Setenv("XDG_STATE_HOME", dir)
	code := o.m.Run()
	if left := notLookedAt(); code == 0 && len(left) > 0 {
		fmt.Fprintf(os.Stderr, "no test has opened the report of %s: make a run of it with runIt, or show it to lookAtArms\n", strings.Join(left, ", "))
		return 1
	}
	return code
}
