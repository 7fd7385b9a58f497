// Package report turns a run log into conclusions, and renders them.
//
// It is pure: Analyze reads records and nothing else, Render writes one of
// several forms of the same Findings. It imports neither the runner nor any
// operating system interface, so that a log from a Linux node can be read
// anywhere.
//
// # Whole logs and growing ones
//
// Analyze reads a log once. An Analysis can be read on while the run goes, with
// Read to the present end or with Follow to that of the run, and asked for the
// Findings in between as often as one likes: they are those of a log that ends
// there. What is plotted is thinned out while it is read, so that a run of days
// takes about 70 MB per day at ten samples per second.
//
// # What a conclusion needs
//
// A cause is named only with positive evidence; an attempt that failed without
// any is counted under unknown. A number that could not be measured is null,
// never 0. No data never passes: neither a traffic, a node or a stretch of time
// of which the log says nothing, nor attempts of whose end it says nothing, as
// long as they could change a threshold's result.
//
// # Causes and what proves them
//
// Packets are matched against the node's counters: an attempt that failed
// without any answer lost each packet it sent, and each counter increment
// explains one lost packet in the sampling interval in which it happened.
//
//   - table_full: `drop` rose, less the part that is unresolved clashes, while
//     the entries were at the limit, and the attempt's packets fall into that
//     interval. Autopsies that found the attempt's entry on the node contradict
//     it and take failures away from it. Behind a gateway an attempt also counts
//     that waited, or got a 502 to 504, while more was dropped than clients lost.
//   - chain_too_long: the kernel's chain length counter rose (hash chains of
//     more than 50 entries), and the attempt's packets fall into that interval.
//   - nat_clash: `insert_failed` and `drop` rose together (an unresolved clash
//     raises both), and the attempt's packets fall into that interval.
//   - snat_ports: the same, while a walk over the table found nine in ten or more
//     of the source ports of masquerading taken towards one pod address and port:
//     below that the kernel's search for a free one does not fail.
//   - evicted: `early_drop` rose while the attempt waited, no drop explains it,
//     and autopsies found no entry.
//   - listen_overflow: a pod of the service counted listen queue drops, and the
//     attempt's packets fall into that interval.
//   - no_endpoint: the service had no usable endpoint while the attempt was due,
//     and no autopsy of its like found an entry to a pod that was gone.
//   - stale_backend: the attempt's entry points to an address that was no usable
//     pod of the service when it was sent; or the attempt was refused at once and
//     left no entry, while the node's rules led to such an address in the last
//     reading before and the first one after, and all usable pods' counters are
//     known and do not explain it.
//   - draining_backend: the attempt's entry points to a pod that was terminating
//     when it was sent, and was not to be used any more (KEP-1669: others were
//     usable, or it served no more); or it was refused when such a pod sent that
//     many TCP resets or counted datagrams to no listener; or as a stale one.
//   - not_programmed: the attempt left no entry and was refused at once, or none of
//     its SYNs was answered, while the service had a usable endpoint, and the node's
//     rules led to no pod of it in the last reading before and the first one after.
//   - backend_gone: the attempt's entry points to a pod that was usable when it
//     was sent, and that ended before the attempt failed, within 0.5 s where
//     nothing had answered yet.
//   - untranslated: the attempt's entry leads to the service's own address,
//     which no rule had rewritten when its first packet passed, although the
//     service had usable endpoints.
//   - invalid_reset: the connection was reset while `invalid` rose at least
//     half as fast as connections were reset.
//   - backend_reset: the connection was reset or closed early while the node
//     saw no invalid packets that explain it.
//   - backend_refused: the connection was refused and a pod of the service sent
//     that many TCP resets or counted datagrams to no listener.
//   - backend_silent: the connection was established end to end, its entry was
//     still there, and no answer came.
//   - generator_ports, generator_limit, generator_late: the generator could not
//     start the attempt: no free source port, another local limit, or it was
//     behind its schedule. These attempts are no failures of the system.
//   - unknown: none of the above.
package report
