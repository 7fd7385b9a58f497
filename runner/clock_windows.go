package runner

import "time"

var began = time.Now()

// monotonic is the time since this process began, ns: no clock of the
// machine's is needed, for each host's is measured against it.
func monotonic() int64 { return int64(time.Since(began)) }
