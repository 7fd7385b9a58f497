//go:build linux

package traffic

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if r := os.Getenv(roleVariable); r != "" {
		name := strings.Split(r, ",")
		if err := playRole(name[0], name[1:]); err != nil {
			fmt.Fprintln(os.Stderr, name[0]+":", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}
