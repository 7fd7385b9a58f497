// Package conntrack reads, fills and questions the connection tracking table
// of the network namespace this process is in. It provides four workers:
//
//   - [NewSampler] reads counters at fixed moments of run time,
//   - [NewCensus] walks the whole table and counts entries that are alike,
//   - [NewBallast] fills the table up to a headroom and keeps it there,
//   - [NewAutopsy] looks up one failed connection.
//
// It never listens for ctnetlink events: a listener anywhere on the machine
// makes the kernel allocate and fill an event extension for each new entry, so
// it would change what is measured.
//
// Everything needs Linux. Reading counters needs no privilege; the rest needs
// CAP_NET_ADMIN over the network namespace, which root of an unprivileged user
// namespace has.
//
// Namespaces: /proc/net shows the namespace of the thread group's leader,
// while a netlink socket and /proc/sys belong to that of the calling thread.
// They are the same as long as no thread of the process has changed its own.
package conntrack
