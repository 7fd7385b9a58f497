package live

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"runtime/debug"
	"syscall"

	"golang.org/x/sys/unix"
)

// GuardArg is the argument with which the program is to call [Guard].
const GuardArg = "terminal-guard"

// allWell is the last thing a guard hears of a view that was closed.
const allWell = "closed"

// A guard is a process that outlives ours and gives the terminal back where we
// cannot: after a panic of any goroutine, which nobody else can catch, and
// after a kill.
type guard struct {
	cmd *exec.Cmd
	in  *os.File
}

// charge is what a guard is told first: what to put back, and what to say then.
type charge struct {
	Modes unix.Termios
	Word  string
}

// startGuard starts one, which is to put m back on tty and to say word. command
// is the program itself.
func startGuard(command []string, tty *os.File, m *modes, word string) (*guard, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	g := &guard{cmd: exec.Command(command[0], append(command[1:], GuardArg)...), in: w}
	g.cmd.Args[0] = "tablefull"
	g.cmd.Stdin, g.cmd.Stderr = r, tty
	first, err := json.Marshal(charge{m.was, word})
	if err == nil {
		err = g.cmd.Start()
	}
	if err == nil {
		_, err = w.Write(append(first, '\n'))
	}
	if err == nil {
		// The trace would be painted on the screen that goes away with us.
		err = debug.SetCrashOutput(w, debug.CrashOptions{})
	}
	if err != nil {
		_ = w.Close()
		return nil, fmt.Errorf("start the terminal's guard: %w", err)
	}
	return g, nil
}

// end lets the guard go, and waits for it.
func (g *guard) end() {
	_ = debug.SetCrashOutput(nil, debug.CrashOptions{})
	_, _ = g.in.WriteString(allWell) // fails where it is gone already
	_ = g.in.Close()
	_ = g.cmd.Wait()
}

// Guard is the guard process: it waits for the end of in, and if that was not
// said to be a good one, restores the terminal tty and says what came last.
func Guard(in io.Reader, tty *os.File) {
	// What is sent to the whole process group is not for it; nor may it be
	// stopped for touching a terminal that the shell has taken back.
	signal.Ignore(os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGTTOU, syscall.SIGTTIN)
	dec := json.NewDecoder(in)
	var told charge
	if dec.Decode(&told) != nil {
		return
	}
	last, _ := io.ReadAll(io.MultiReader(dec.Buffered(), in)) // what came before an error will do
	if len(last) > 0 && last[0] == '\n' {
		last = last[1:]
	}
	if string(last) == allWell {
		return
	}
	_, _ = tty.WriteString(leave)
	(&modes{was: told.Modes}).restore(tty)
	_, _ = tty.Write(last)
	_, _ = tty.WriteString(told.Word + "\n")
}
