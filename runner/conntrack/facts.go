package conntrack

// Facts are the settings of connection tracking as this network namespace has
// them.
type Facts struct {
	Entries    uint64 // in this namespace's table now
	Limit      uint64 // nf_conntrack_max; 0 is no limit (kernels before 6.18)
	Buckets    uint64 // of the hash table, which all namespaces share
	EntryBytes uint64 // slab object size of an entry; 0 where /proc/slabinfo cannot be read (it needs root)
	// Timeouts in s, by sysctl name less the nf_conntrack_ prefix, for example
	// tcp_timeout_time_wait.
	Timeouts map[string]float64
}
