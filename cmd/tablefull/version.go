package main

import (
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tablefull/tablefull/report/runlog"
)

// build is what a bug report needs to name.
type build struct {
	Version string `json:"version"`
	Go      string `json:"go"`
	OS      string `json:"os"`
	Arch    string `json:"arch"`
	Kernel  string `json:"kernel"`  // empty where it cannot be read
	Runlog  int    `json:"run_log"` // format that run.jsonl is written in
}

func thisBuild() build {
	// Only for people; without it the rest is still worth printing.
	release, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	return build{
		Version: version, Go: runtime.Version(), OS: runtime.GOOS, Arch: runtime.GOARCH,
		Kernel: strings.TrimSpace(string(release)), Runlog: runlog.Format,
	}
}

func versionCommand(s Streams) *cobra.Command {
	asJSON := false
	c := &cobra.Command{
		Use: "version", Short: "Print the version, and what it was built with", GroupID: groupProgram,
		Long: `Version prints what a bug report should name: this program's version, the Go
release it was built with, and the running kernel.`,
		Example: `  tablefull version
  tablefull version --json`,
		Args: exactArgs(0, "no argument"),
		RunE: func(*cobra.Command, []string) error {
			b := thisBuild()
			if asJSON {
				e := json.NewEncoder(s.Out)
				e.SetIndent("", "  ")
				return e.Encode(b)
			}
			_, err := fmt.Fprintf(s.Out, "tablefull %s, %s %s/%s, kernel %s, run log format %d\n",
				b.Version, b.Go, b.OS, b.Arch, b.Kernel, b.Runlog)
			return err
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}
