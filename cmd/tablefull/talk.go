package main

import (
	"bytes"
	"io"
	"os"
	"strings"
	"sync"

	"github.com/tablefull/tablefull/cmd/tablefull/live"
)

// talk is standard error. A live view can have it to itself for a while: what
// is said meanwhile is kept, and comes out when the view is gone.
type talk struct {
	file *os.File

	mu   sync.Mutex
	view io.Closer // a live.View
	held bytes.Buffer
}

var _ io.Writer = (*talk)(nil)

// Write is part of io.Writer.
func (t *talk) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.view != nil {
		return t.held.Write(p)
	}
	return t.file.Write(p)
}

// unended is the last word of a program that was killed while it showed a run.
const unended = "tablefull: it ended without putting things back; do that with: tablefull restore"

// show begins a live view on t. It is nil where none can be shown. word is said
// where the program does not live to close it.
func show[S any](t *talk, first S, draw live.Draw[S], env func(string) string, word string) *live.View[S] {
	t.mu.Lock()
	defer t.mu.Unlock()
	v, err := live.Start(t.file, first, draw, style(env), "/proc/self/exe", word)
	if err != nil {
		return nil // plain lines do as well
	}
	t.view = v
	return v
}

// unshow ends the view, whatever goes on, and lets out what was kept.
func (t *talk) unshow() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.view == nil {
		return
	}
	err := t.view.Close()
	t.view = nil
	_, _ = t.held.WriteTo(t.file)
	if err != nil {
		_, _ = io.WriteString(t.file, "tablefull: "+err.Error()+"\n")
	}
}

// liveOn returns err's terminal where a live view belongs on it.
func liveOn(err io.Writer, env func(string) string) (*talk, bool) {
	t, ok := err.(*talk)
	if !ok || env("CI") != "" || env("TERM") == "dumb" || env("TERM") == "" {
		return nil, false
	}
	return t, live.Usable(t.file)
}

// style is what the terminal can show, by the usual environment variables.
func style(env func(string) string) live.Style {
	st := live.Style{Color: env("NO_COLOR") == ""}
	for _, name := range []string{"LC_ALL", "LC_CTYPE", "LANG"} {
		if v := strings.ToLower(env(name)); v != "" {
			st.ASCII = !strings.Contains(v, "utf-8") && !strings.Contains(v, "utf8")
			break
		}
	}
	// The Linux console's font has no eighths of blocks.
	st.ASCII = st.ASCII || env("TERM") == "linux"
	return st
}

// colored says whether text for out may have colours.
func colored(out io.Writer, env func(string) string) bool {
	f, ok := out.(*os.File)
	return ok && live.IsTerminal(f) && env("NO_COLOR") == "" && env("TERM") != "dumb" && env("TERM") != ""
}
