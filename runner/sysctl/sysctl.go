// Package sysctl reads and writes kernel settings of the network namespace it
// is called in, and changes them for a while as a job. Names are paths below
// /proc/sys, such as net/ipv4/ip_forward.
package sysctl

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

const root = "/proc/sys"

// Read is a setting's value, its words parted by one space: the kernel prints
// tabs.
func Read(name string) (string, error) {
	b, err := os.ReadFile(filepath.Join(root, name))
	return oneSpace(string(b)), err
}

// Set writes a setting and reads it back. A setting that the kernel does not
// have is fs.ErrNotExist.
func Set(name, value string) error {
	if err := set(name, value); err != nil {
		return fmt.Errorf("set %s to %s: %w", Dotted(name), value, err)
	}
	return nil
}

func set(name, value string) error {
	err := os.WriteFile(filepath.Join(root, name), []byte(value), 0)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("this kernel has no such setting: %w", err)
	case err != nil:
		return fmt.Errorf("the kernel refuses it: %w", err)
	}
	got, err := Read(name)
	if err != nil {
		return err
	}
	if got != oneSpace(value) {
		return fmt.Errorf("the kernel kept %s", got)
	}
	return nil
}

// SetAll sets values by name, in the order of the names, up to the first that
// fails.
func SetAll(values map[string]string) error {
	for _, name := range slices.Sorted(maps.Keys(values)) {
		if err := Set(name, values[name]); err != nil {
			return err
		}
	}
	return nil
}

// Dotted is the name as people write it: net.ipv4.ip_forward.
func Dotted(name string) string { return strings.ReplaceAll(name, "/", ".") }

func oneSpace(s string) string { return strings.Join(strings.Fields(s), " ") }
