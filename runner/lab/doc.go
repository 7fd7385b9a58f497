// Package lab runs scenarios in network namespaces on this machine, as root or
// as a plain user, and changes nothing outside of them.
//
// # Who is who
//
// The controller (the process that calls New) starts one supervisor: the
// hidden command lab, in a PID and a network namespace of its own and, where
// the controller lacks the capabilities, a user namespace around them. The
// supervisor makes a network namespace per host, joins them by veth pairs, programs
// the node's proxy and starts one agent per host inside that host's namespace.
// The controller itself stays where it is and talks to the agents over unix
// sockets in the work directory, which are not bound to a network namespace.
//
//	controller ──stdin: plan, then life-line──▶ supervisor (PID 1) ──▶ agent client
//	     ▲ └───────────────fd 3: replies───────────┘       └─────────▶ agent node1, agent web-1 ...
//	     └── unix sockets in the work directory ──────────────────────▶ (every agent)
//
// # Why nothing is left behind
//
// Namespaces and their links live only as long as a process or a descriptor
// refers to them; none is bound to a file and nothing is mounted. All
// processes are in the supervisor's PID namespace, whose end kills them, and
// only the supervisor makes and removes the work directory. It does so when
// its stdin ends, which a killed controller cannot prevent, and within a
// deadline. A parent death signal would be no belt for this but a
// trap: SIGKILL would arrive before the directory is removed, and it is sent
// when the starting *thread* ends. Instead the supervisor holds a pidfd of the
// controller besides the life-line, in case somebody else inherited that.
// What remains is the case that controller and supervisor are both killed at the
// same instant: then the work directory stays, with sockets nobody listens on,
// and nothing else.
package lab
