//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"html"
	"image"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/creack/pty"
	"github.com/hinshun/vt10x"

	"github.com/tablefull/tablefull/report/browser"
)

// A cell is one place of a terminal.
type cell struct {
	char   rune
	fg, bg vt10x.Color
	bold   bool
}

// watch runs the program on a terminal of its own until it ends, and returns
// what was on the screen at a moment.
func watch(ctx context.Context, at time.Duration, cols, rows uint16, program string, args ...string) ([][]cell, error) {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = append(os.Environ(), "TERM=xterm-256color", "LANG=C.UTF-8", "LC_ALL=C.UTF-8", "CI=", "NO_COLOR=")
	p, err := pty.StartWithSize(cmd, &pty.Winsize{Cols: cols, Rows: rows})
	if err != nil {
		return nil, fmt.Errorf("start %s on a terminal: %w", program, err)
	}
	defer p.Close()
	vt := vt10x.New(vt10x.WithSize(int(cols), int(rows)))
	var mu sync.Mutex
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		buf := make([]byte, 64<<10)
		for {
			n, err := p.Read(buf)
			mu.Lock()
			_, _ = vt.Write(buf[:n])
			mu.Unlock()
			if err != nil {
				return // EIO: the program is gone
			}
		}
	}()
	select {
	case <-time.After(at):
	case <-ended:
	case <-ctx.Done():
	}
	mu.Lock()
	screen := cells(vt)
	mu.Unlock()
	<-ended
	var exit *exec.ExitError
	if err := cmd.Wait(); errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signaled() || err != nil && exit == nil {
		return nil, fmt.Errorf("run %s: %w", program, err)
	}
	return screen, nil
}

// bold is a bit of a glyph's mode, which the library does not export.
const bold = 1 << 2

func cells(vt vt10x.Terminal) [][]cell {
	cols, rows := vt.Size()
	out := make([][]cell, rows)
	for y := range rows {
		for x := range cols {
			g := vt.Cell(x, y)
			c := cell{char: g.Char, fg: g.FG, bg: g.BG, bold: g.Mode&bold != 0}
			if c.char == 0 {
				c.char = ' '
			}
			out[y] = append(out[y], c)
		}
	}
	for len(out) > 0 && blank(out[len(out)-1]) {
		out = out[:len(out)-1]
	}
	return out
}

func blank(line []cell) bool {
	for _, c := range line {
		if c.char != ' ' || c.bg != vt10x.DefaultBG {
			return false
		}
	}
	return true
}

// terminalPicture is a screen as a browser draws it: the same characters in
// the same places and the colours of xterm.
func terminalPicture(b *browser.Browser, dir string, screen [][]cell) (image.Image, error) {
	var s strings.Builder
	s.WriteString(`<!doctype html><meta charset="utf-8"><style>html{background:#14181d}body{margin:0;padding:14px 18px;width:max-content;background:#14181d}
pre{margin:0;color:#e5e5e5;font:14px/18px "DejaVu Sans Mono","Liberation Mono",monospace}span{display:inline-block;height:18px;vertical-align:top}</style><pre>`)
	for _, line := range screen {
		for i := 0; i < len(line); {
			j := i + 1
			for j < len(line) && line[j].fg == line[i].fg && line[j].bg == line[i].bg && line[j].bold == line[i].bold {
				j++
			}
			var text strings.Builder
			for _, c := range line[i:j] {
				text.WriteRune(c.char)
			}
			fmt.Fprintf(&s, `<span style="%s">%s</span>`, style(line[i]), html.EscapeString(text.String()))
			i = j
		}
		s.WriteByte('\n')
	}
	file := filepath.Join(dir, "live.html")
	if err := os.WriteFile(file, []byte(s.String()), 0o600); err != nil {
		return nil, fmt.Errorf("write screen: %w", err)
	}
	p, err := b.Open("file://"+file, browser.View{Width: 1600, Height: 900})
	if err != nil {
		return nil, err
	}
	size, err := browser.Eval[[]int64](p, `(b => [Math.ceil(b.width), Math.ceil(b.height)])(document.body.getBoundingClientRect())`)
	p.Close()
	if err != nil {
		return nil, err
	}
	return shot(b, "file://"+file, browser.View{Width: size[0], Height: size[1]}, "")
}

func style(c cell) string {
	var s string
	if c.fg != vt10x.DefaultFG {
		s += "color:" + xterm(c.fg) + ";"
	}
	if c.bg != vt10x.DefaultBG {
		s += "background:" + xterm(c.bg) + ";"
	}
	if c.bold {
		s += "font-weight:bold;"
	}
	return s
}

// xterm is a colour as xterm shows it.
func xterm(c vt10x.Color) string {
	base := [16]string{
		"#000000", "#cd0000", "#00cd00", "#cdcd00", "#3a8cff", "#cd00cd", "#00cdcd", "#e5e5e5",
		"#7f7f7f", "#ff5f5f", "#00ff00", "#ffff00", "#5c9cff", "#ff00ff", "#00ffff", "#ffffff",
	}
	switch {
	case c == vt10x.DefaultFG:
		return "#e5e5e5"
	case c >= vt10x.DefaultFG:
		return "#14181d"
	case c < 16:
		return base[c]
	case c < 232:
		level := func(n vt10x.Color) int { return []int{0, 95, 135, 175, 215, 255}[n%6] }
		c -= 16
		return fmt.Sprintf("#%02x%02x%02x", level(c/36), level(c/6), level(c))
	case c < 256:
		return fmt.Sprintf("#%02[1]x%02[1]x%02[1]x", 8+10*int(c-232))
	}
	return fmt.Sprintf("#%06x", int(c))
}
