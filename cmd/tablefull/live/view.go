package live

import (
	"fmt"
	"os"
	"runtime/debug"
	"strings"
	"sync"
)

const (
	enter = "\x1b[?1049h\x1b[?25l"        // the alternate screen, no cursor
	leave = "\x1b[0m\x1b[?25h\x1b[?1049l" // and back
	// Terminals that know synchronized output show a frame at once; others
	// ignore it.
	beginFrame, endFrame = "\x1b[?2026h", "\x1b[?2026l"
)

// Draw makes lines of a state, as [Frame] does: at most height of them, of at
// most width columns.
type Draw[S any] func(s S, width, height int, st Style) []string

// A View has a terminal to itself until Close.
type View[S any] struct {
	tty   *os.File
	style Style
	saved *modes
	guard *guard
	wake  chan struct{} // there is something new to paint
	quit  chan struct{}
	ended chan struct{}
	stop  func() // no more signals of a new size

	mu    sync.Mutex
	state S
	draw  Draw[S]
	err   error // why it no longer paints

	// Of the painting goroutine.
	painted       []string
	width, height int

	leaving sync.Once
}

// Start takes over tty, which must be Usable, and shows what draw makes of the
// first state. The program at path self calls [Guard] when its argument is
// [GuardArg]; the guard says word where the program ended without closing the
// view.
func Start[S any](tty *os.File, first S, draw Draw[S], style Style, self, word string) (*View[S], error) {
	saved, err := quiet(tty)
	if err != nil {
		return nil, fmt.Errorf("set up the terminal: %w", err)
	}
	g, err := startGuard([]string{self}, tty, saved, word)
	if err != nil {
		saved.restore(tty)
		return nil, err
	}
	v := &View[S]{
		tty: tty, style: style, saved: saved, guard: g, state: first, draw: draw,
		wake: make(chan struct{}, 1), quit: make(chan struct{}), ended: make(chan struct{}),
	}
	var resized <-chan os.Signal
	resized, v.stop = onResize()
	_, _ = tty.WriteString(enter)
	go v.run(resized)
	return v, nil
}

// Show changes what is shown. It does not wait for the terminal.
func (v *View[S]) Show(change func(*S)) {
	v.mu.Lock()
	change(&v.state)
	v.mu.Unlock()
	select {
	case v.wake <- struct{}{}:
	default: // it will be painted with what comes before it
	}
}

// Close gives the terminal back as it was, and says what went wrong with it
// meanwhile. It may be called from anywhere, more than once, and at any time.
func (v *View[S]) Close() error {
	v.leaving.Do(func() {
		close(v.quit)
		<-v.ended
		v.stop()
		if v.err == nil { // else it has been restored
			v.restore()
		}
		v.guard.end()
	})
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.err
}

func (v *View[S]) restore() {
	_, _ = v.tty.WriteString(leave) // a terminal that is gone needs nothing
	v.saved.restore(v.tty)
}

func (v *View[S]) run(resized <-chan os.Signal) {
	defer close(v.ended)
	defer func() {
		// A mistake in here must not end the run that it shows.
		if r := recover(); r != nil {
			v.restore()
			v.mu.Lock()
			v.err = fmt.Errorf("the live view failed: %v\n%s", r, debug.Stack())
			v.mu.Unlock()
		}
	}()
	for {
		v.paint()
		select {
		case <-v.quit:
			v.paint() // what came last
			return
		case <-v.wake:
		case <-resized:
		}
	}
}

// paint writes the lines that differ from those on the screen.
func (v *View[S]) paint() {
	v.mu.Lock()
	state, draw := v.state, v.draw
	v.mu.Unlock()
	width, height := size(v.tty)
	var b strings.Builder
	b.WriteString(beginFrame)
	none := b.Len()
	if width != v.width || height != v.height {
		b.WriteString("\x1b[2J")
		v.width, v.height, v.painted = width, height, nil
	}
	lines := draw(state, width, height, v.style)
	for i, l := range lines {
		if i < len(v.painted) && v.painted[i] == l {
			continue
		}
		// Erased from the end of the text on: erasing first would flicker, and
		// a full line has nothing after it.
		fmt.Fprintf(&b, "\x1b[%d;1H%s", i+1, l)
		if columns(l) < width {
			b.WriteString("\x1b[K")
		}
	}
	if len(lines) < len(v.painted) {
		fmt.Fprintf(&b, "\x1b[%d;1H\x1b[J", len(lines)+1)
	}
	if b.Len() == none {
		return
	}
	b.WriteString(endFrame)
	_, _ = v.tty.WriteString(b.String())
	v.painted = lines
}

// columns is how wide a rendered line is: one column per rune, none for
// colours.
func columns(l string) int {
	n, escape := 0, false
	for _, r := range l {
		switch {
		case r == '\x1b':
			escape = true
		case escape:
			escape = r != 'm'
		default:
			n++
		}
	}
	return n
}
