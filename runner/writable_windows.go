package runner

// writable says whether this user may write into the directory. A home always
// is its user's.
func writable(string) bool { return true }
