package agent

// Clock reads this machine's monotonic clock in ns, which the Epoch of a job
// is on.
func Clock() int64 { return monotonic() }
