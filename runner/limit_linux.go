package runner

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// limitPath is the machine's one limit. Through Linux 6.18 it is shared by all
// network namespaces and writable only from the initial one.
const limitPath = "/proc/sys/net/netfilter/nf_conntrack_max"

// setLimit writes nf_conntrack_max for the run, or for what remains of it, and
// returns what it was. In a kernel that is the run's own it goes away with that.
//
// Of the machine's kernel it is put back. There setLimit refuses while another
// run has it changed, and while any namespace that can be seen and is not the
// run's own holds more than half of what the new limit allows, because it could
// run full within the run.
func setLimit(j *Journal, want uint64, ownKernel bool) (old uint64, err error) {
	if old, err = readUint(limitPath); err != nil {
		return 0, fmt.Errorf("read nf_conntrack_max: %w", err)
	}
	if !ownKernel {
		if err := j.lockFor(limitPath); err != nil {
			return old, err
		}
		// Only now nobody else writes it.
		if old, err = readUint(limitPath); err != nil {
			return 0, fmt.Errorf("read nf_conntrack_max: %w", err)
		}
	}
	if old == want {
		return old, nil
	}
	if !ownKernel {
		if err := planLimit(j, old, want); err != nil {
			return old, err
		}
	}
	if err := os.WriteFile(limitPath, []byte(strconv.FormatUint(want, 10)), 0); err != nil {
		return old, fmt.Errorf("write nf_conntrack_max: %w", err)
	}
	got, err := readUint(limitPath)
	if err != nil {
		return old, fmt.Errorf("read back nf_conntrack_max: %w", err)
	}
	if got != want {
		return old, fmt.Errorf("write nf_conntrack_max: it reads %d after %d was written", got, want)
	}
	return old, nil
}

// planLimit refuses a limit that others could feel, and journals how it is put
// back. Steps are undone last first, so each leads to the one before.
func planLimit(j *Journal, old, want uint64) error {
	fullest, pid, err := fullestNamespace()
	if err != nil {
		return fmt.Errorf("look into the other network namespaces: %w", err)
	}
	if fullest > want/2 {
		return fmt.Errorf("conntrack.max: %d is refused: the network namespace of process %d holds %d entries already, and could soon drop new connections; use conntrack.headroom instead", want, pid, fullest)
	}
	return j.Plan(Undo{WriteFile: &WriteFile{
		Path: limitPath, Value: strconv.FormatUint(old, 10), Ours: strconv.FormatUint(want, 10), Boot: bootID(),
	}})
}

const (
	hashSizePath = "/sys/module/nf_conntrack/parameters/hashsize"
	bucketsPath  = "/proc/sys/net/netfilter/nf_conntrack_buckets"
)

// setBuckets resizes the hash table of a kernel that is the run's own, and
// goes away with it: there is nothing to undo. The kernel moves all entries
// into a new table.
func setBuckets(want uint64) error {
	if err := os.WriteFile(hashSizePath, []byte(strconv.FormatUint(want, 10)), 0); err != nil {
		return fmt.Errorf("write hashsize of nf_conntrack: %w", err)
	}
	got, err := readUint(bucketsPath)
	if err != nil {
		return fmt.Errorf("read back nf_conntrack_buckets: %w", err)
	}
	if got != want {
		return fmt.Errorf("write hashsize of nf_conntrack: nf_conntrack_buckets reads %d after %d was written", got, want)
	}
	return nil
}

func readUint(path string) (uint64, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	return strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
}

// fullestNamespace returns the largest entry count of all network namespaces
// that processes live in other than those that only ours do, and one of their
// processes: the run's own nodes are there to be full.
func fullestNamespace() (entries uint64, pid int, err error) {
	links, err := filepath.Glob("/proc/[0-9]*/ns/net")
	if err != nil {
		return 0, 0, err
	}
	seen := map[string]bool{}
	for _, link := range links {
		at, _ := strconv.Atoi(strings.Split(link, "/")[2])
		id, err := os.Readlink(link)
		if err != nil || seen[id] || at != os.Getpid() && descends(at) {
			continue // ended meanwhile, or not ours to see
		}
		seen[id] = true
		n, err := entriesIn(link)
		if errors.Is(err, os.ErrNotExist) {
			continue // its process ended meanwhile, or it tracks nothing
		}
		if err != nil {
			return 0, 0, fmt.Errorf("%s: %w", link, err)
		}
		if n >= entries {
			entries, pid = n, at
		}
	}
	return entries, pid, nil
}

// descends says whether a process is this one or was started by it, or by one
// that was.
func descends(pid int) bool {
	for pid > 1 {
		if pid == os.Getpid() {
			return true
		}
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			return false
		}
		// The name, in brackets, may hold anything; then come state and parent.
		_, rest, _ := strings.Cut(string(b[max(0, strings.LastIndexByte(string(b), ')')):]), " ")
		fields := strings.Fields(rest)
		if len(fields) < 2 {
			return false
		}
		if pid, err = strconv.Atoi(fields[1]); err != nil {
			return false
		}
	}
	return false
}

// entriesIn reads nf_conntrack_count from inside a namespace, on a thread of
// its own that ends with it: a thread that could not be put back must not run
// other code.
func entriesIn(link string) (n uint64, err error) {
	f, err := os.Open(link)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if err = unix.Setns(int(f.Fd()), unix.CLONE_NEWNET); err == nil {
			n, err = readUint("/proc/sys/net/netfilter/nf_conntrack_count")
		}
	}()
	<-done
	return n, err
}
