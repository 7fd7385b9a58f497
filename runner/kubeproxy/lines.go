package kubeproxy

import (
	"bytes"
	"slices"
	"sync"
)

const maxLine = 64 << 10 // bytes; what is longer is told in pieces

// lines is a writer that tells lines, and keeps the last of them.
type lines struct {
	tell func(line string) // may be nil
	keep int

	mu   sync.Mutex
	part []byte
	tail []string
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := len(b)
	for {
		line, rest, whole := bytes.Cut(b, []byte("\n"))
		l.part = append(l.part, line...)
		if whole || len(l.part) > maxLine {
			l.emit()
		}
		if !whole {
			return n, nil
		}
		b = rest
	}
}

// flush tells what has no end of line.
func (l *lines) flush() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.part) > 0 {
		l.emit()
	}
}

func (l *lines) emit() {
	line := string(l.part)
	l.part = l.part[:0]
	l.tail = append(l.tail, line)
	if len(l.tail) > l.keep {
		l.tail = slices.Delete(l.tail, 0, len(l.tail)-l.keep)
	}
	if l.tell != nil {
		l.tell(line)
	}
}

// last returns the last lines.
func (l *lines) last() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.tail)
}
