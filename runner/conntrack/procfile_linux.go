package conntrack

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// procFile is a file below /proc that is read over and over: opened once, read
// from its start each time into a buffer that is kept.
type procFile struct {
	f   *os.File
	buf []byte
}

func openProc(path string) (*procFile, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err // os names the operation and the path
	}
	return &procFile{f: f, buf: make([]byte, 8192)}, nil
}

// read returns the whole file. The result is valid until the next read.
func (p *procFile) read() ([]byte, error) {
	n := 0
	for {
		if n == len(p.buf) {
			p.buf = append(p.buf, make([]byte, len(p.buf))...)
		}
		k, err := p.f.ReadAt(p.buf[n:], int64(n))
		n += k
		if errors.Is(err, io.EOF) {
			return p.buf[:n], nil
		}
		if err != nil {
			return nil, err
		}
	}
}

func (p *procFile) number() (uint64, error) {
	text, err := p.read()
	if err != nil {
		return 0, err
	}
	v, err := parseNumber(text)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", p.f.Name(), err)
	}
	return v, nil
}

func (p *procFile) close() {
	if p != nil {
		_ = p.f.Close() // opened for reading: nothing can be lost
	}
}

// monotonic reads CLOCK_MONOTONIC in ns. Run time 0 of a job is its Epoch on
// this clock.
func monotonic() int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		panic("read the monotonic clock: " + err.Error()) // cannot fail on Linux
	}
	return ts.Nano()
}
