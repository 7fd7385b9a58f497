package main

import (
	"os"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/tools/go/packages"
)

// The controller is for macOS and Windows, too: all of the program has the types
// that it needs there. To build it as well, with nothing in the cache, takes minutes
// for each: make prove.
func TestTypesElsewhere(t *testing.T) {
	for _, goos := range []string{"darwin", "windows"} {
		t.Run(goos, func(t *testing.T) {
			loaded, err := packages.Load(&packages.Config{
				Context: t.Context(),
				Mode:    packages.NeedName | packages.NeedFiles | packages.NeedCompiledGoFiles | packages.NeedImports | packages.NeedDeps | packages.NeedSyntax | packages.NeedTypes | packages.NeedTypesSizes | packages.NeedTypesInfo,
				Env:     append(os.Environ(), "GOOS="+goos, "CGO_ENABLED=0"),
			}, ".")
			require.NoError(t, err)
			seen := 0
			packages.Visit(loaded, nil, func(p *packages.Package) {
				seen++
				for _, e := range p.Errors {
					t.Errorf("%s: %v", p.PkgPath, e)
				}
			})
			assert.Greater(t, seen, 500, "with all that it imports")
		})
	}
}
