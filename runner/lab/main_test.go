//go:build linux

package lab

import (
	"context"
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/tablefull/tablefull/runner/agent"
)

// TestMain makes the test binary what the lab starts: its own hidden commands.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == "hidden" {
		var err error
		ctx, args := context.Background(), os.Args[3:]
		switch os.Args[2] {
		case "lab":
			err = Main(ctx, args, os.Stdin, os.Stderr)
		case "agent":
			err = agent.Run(ctx, args, os.Stdin, os.Stderr, testWorker)
		case "controller":
			err = controller(ctx, args)
		case "leaky controller":
			err = leakyController(ctx, args)
		default:
			err = fmt.Errorf("no command %s", os.Args[2])
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	// The race detector makes each process wait for a second at its end.
	if err := os.Setenv("GORACE", "atexit_sleep_ms=0 "+os.Getenv("GORACE")); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m)
}

func newEnv() *Env { return New(Config{Args: []string{"hidden"}}) }
