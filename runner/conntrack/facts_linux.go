package conntrack

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	sysctlDir    = "/proc/sys/net/netfilter/"
	sysctlPrefix = "nf_conntrack_"
)

// ReadFacts reads the settings of connection tracking in this namespace. It
// fails where the kernel has none: the module nf_conntrack is not loaded.
func ReadFacts() (Facts, error) {
	f := Facts{Timeouts: make(map[string]float64)}
	for name, to := range map[string]*uint64{"count": &f.Entries, "max": &f.Limit, "buckets": &f.Buckets} {
		v, err := readSysctl(sysctlPrefix + name)
		if err != nil {
			return Facts{}, err
		}
		*to = v
	}
	paths, err := filepath.Glob(sysctlDir + sysctlPrefix + "*timeout*")
	if err != nil {
		return Facts{}, fmt.Errorf("list timeouts: %w", err)
	}
	for _, p := range paths {
		v, err := readSysctl(filepath.Base(p))
		if err != nil {
			return Facts{}, err
		}
		f.Timeouts[strings.TrimPrefix(filepath.Base(p), sysctlPrefix)] = float64(v)
	}
	if text, err := os.ReadFile("/proc/slabinfo"); err == nil {
		s, _, err := parseSlab(text, uint64(unix.Getpagesize()))
		if err != nil {
			return Facts{}, err
		}
		f.EntryBytes = s.objectBytes
	}
	return f, nil
}

func readSysctl(name string) (uint64, error) {
	text, err := os.ReadFile(sysctlDir + name)
	if err != nil {
		return 0, fmt.Errorf("read connection tracking setting: %w", err)
	}
	return parseNumber(text)
}

func parseNumber(text []byte) (uint64, error) {
	v, err := strconv.ParseUint(string(bytes.TrimSpace(text)), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("parse connection tracking setting: %w", err)
	}
	return v, nil
}
