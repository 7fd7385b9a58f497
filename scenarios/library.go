package scenarios

import (
	"embed"
	"slices"
	"strings"
)

//go:embed library/*.yaml
var library embed.FS

// Names lists the scenarios of the library, sorted.
func Names() []string {
	// The directory is compiled in; it cannot fail to be there.
	entries, _ := library.ReadDir("library")
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = strings.TrimSuffix(e.Name(), ".yaml")
	}
	slices.Sort(names) // as names, not as those of files
	return names
}

// Source is the YAML of a scenario of the library, with its comments.
func Source(name string) ([]byte, bool) {
	src, err := library.ReadFile("library/" + name + ".yaml")
	return src, err == nil
}
