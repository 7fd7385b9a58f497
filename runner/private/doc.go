// Package private runs something inside a Linux kernel of its own: user-mode
// Linux (Debian package user-mode-linux), a kernel that is an ordinary program
// and needs no privileges.
//
// There are three processes:
//
//   - the caller, in [Run];
//   - a supervisor, the first process of a PID namespace and the owner of a
//     mount namespace ([Supervise]). Everything the kernel makes on this machine
//     lives in these two and goes away with them: its processes, and the
//     temporary file systems with its memory and the files it is told things
//     through. Its standard input is the caller's life-line;
//   - inside the kernel this same program as init ([Init]), which sees this
//     machine's files read-only, except for one directory.
//
// The host's kernel does all input and output; nothing in here has a network.
package private

import (
	"fmt"
	"strings"
)

// Package is the Debian package that has the kernel and its modules.
const Package = "user-mode-linux"

// Needs says what will run inside, and so which parts of the kernel are loaded.
type Needs struct {
	KubeProxy bool `json:"kube_proxy,omitempty"` // a real one: iptables and ipset
	NodePorts bool `json:"node_ports,omitempty"` // the built-in proxy's: masquerading
	IPv6      bool `json:"ipv6,omitempty"`       // in the lab
}

// Unfit says that this machine cannot run a private kernel, and why.
type Unfit struct{ Reason string }

func (e *Unfit) Error() string { return e.Reason }

// A Crash is a private kernel that ended, or had to be ended, without a
// result.
type Crash struct {
	Reason string
	// Console is the last the kernel said.
	Console string
}

func (e *Crash) Error() string {
	if e.Console == "" {
		return e.Reason + "; its console is empty"
	}
	return fmt.Sprintf("%s; the last lines of its console:\n%s", e.Reason, strings.Join(lastLines(e.Console), "\n"))
}

// lastLines are those that say why: a panic's own line and what went before
// it, without the trace that follows.
func lastLines(console string) []string {
	lines := strings.Split(strings.TrimSpace(console), "\n")
	for i, line := range lines {
		if strings.Contains(line, "Kernel panic") {
			lines = lines[:i+1]
			break
		}
	}
	return lines[max(0, len(lines)-consoleLines):]
}

// consoleLines is how much of the console goes into a message.
const consoleLines = 12
