package testcluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
)

// record is what the cluster's directory says about it, in recordFile.
type record struct {
	Version string `json:"version"` // of Kubernetes
	// PID and Start are the first process of the cluster's PID namespace, and
	// when it started, in clock ticks since boot; Boot is which boot. A process
	// with the same number but another start is none of ours. PID is 0 until
	// there is one.
	PID      int               `json:"pid"`
	Start    uint64            `json:"start"`
	Boot     string            `json:"boot"`
	Programs map[string]string `json:"programs"`
	Images   []string          `json:"images"`
}

func (l layout) writeRecord(r record) error {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("encode record: %w", err)
	}
	tmp := l.path("." + recordFile)
	if err := os.WriteFile(tmp, append(b, '\n'), 0o600); err != nil {
		return fmt.Errorf("write record: %w", err)
	}
	if err := os.Rename(tmp, l.path(recordFile)); err != nil {
		return fmt.Errorf("write record: %w", err)
	}
	return nil
}

// readRecord returns fs.ErrNotExist where there is no cluster.
func (l layout) readRecord() (record, error) {
	var r record
	b, err := os.ReadFile(l.path(recordFile))
	if err != nil {
		return r, fmt.Errorf("read record of the cluster: %w", err)
	}
	if err := json.Unmarshal(b, &r); err != nil {
		return r, fmt.Errorf("read record of the cluster: %w", err)
	}
	return r, nil
}

// alive reports whether the recorded process still runs.
func (r record) alive() (bool, error) {
	boot, err := bootID()
	if err != nil || r.PID == 0 || boot != r.Boot {
		return false, err
	}
	start, state, err := processStart(r.PID)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	// A zombie that was the first process of its namespace is the last to go.
	return start == r.Start && state != "Z", err
}

func bootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("read boot id: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

// processStart reads when a process started and its state (proc(5)).
func processStart(pid int) (start uint64, state string, err error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, "", fmt.Errorf("look at process %d: %w", pid, err)
	}
	// The name may hold anything, spaces and parentheses too.
	_, rest, _ := strings.Cut(string(b[strings.LastIndexByte(string(b), ')'):]), " ")
	f := strings.Fields(rest)
	const stateField, startField = 0, 19 // the third and the 22nd of all
	if len(f) <= startField {
		return 0, "", fmt.Errorf("look at process %d: its stat is short", pid)
	}
	start, err = strconv.ParseUint(f[startField], 10, 64)
	if err != nil {
		return 0, "", fmt.Errorf("look at process %d: %w", pid, err)
	}
	return start, f[stateField], nil
}
