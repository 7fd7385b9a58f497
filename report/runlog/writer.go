package runlog

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"time"
)

// flushEvery is how old a buffered record may become before Write flushes it.
// A killed run loses at most that much.
const flushEvery = 200 * time.Millisecond

// A Writer writes records as lines. One goroutine uses it; it takes no locks.
//
// Write flushes by itself what is older than 200 ms, but only when it is
// called: while no records arrive, the owner calls Flush at that interval.
//
// The first write that fails, for example with ENOSPC, ends the log: that
// error, wrapped, is what every later call returns.
type Writer struct {
	out     io.Writer
	buf     *bufio.Writer
	flushed time.Time
	err     error
}

// NewWriter returns a Writer to w. It does not close w.
func NewWriter(w io.Writer) *Writer {
	return &Writer{out: w, buf: bufio.NewWriterSize(w, 64<<10), flushed: time.Now()}
}

// Write adds one record. A record that has not exactly one part, or that JSON
// cannot express (NaN, infinity), is refused and leaves the log as it was.
func (w *Writer) Write(r Record) error {
	if w.err != nil {
		return w.err
	}
	if r.Kind() == "" {
		return fmt.Errorf("write record %d of %s: it has not exactly one part", r.N, r.Host)
	}
	line, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode record %d of %s: %w", r.N, r.Host, err)
	}
	if len(line) >= MaxLine {
		return fmt.Errorf("write record %d of %s: %d bytes are more than the %d a line may have", r.N, r.Host, len(line), MaxLine)
	}
	if _, err := w.buf.Write(append(line, '\n')); err != nil {
		return w.fail("write", err)
	}
	if f, ok := w.out.(*File); ok && f.full() {
		if err := w.Flush(); err != nil {
			return err
		}
		if err := f.next(); err != nil {
			return w.fail("begin a segment of the", err)
		}
	}
	if time.Since(w.flushed) >= flushEvery {
		return w.Flush()
	}
	return nil
}

// Flush hands everything to the underlying writer.
func (w *Writer) Flush() error {
	if w.err != nil {
		return w.err
	}
	w.flushed = time.Now()
	if err := w.buf.Flush(); err != nil {
		return w.fail("flush", err)
	}
	return nil
}

// Sync flushes, and makes it durable where the underlying writer can, as
// *os.File does. It blocks on the disk.
func (w *Writer) Sync() error {
	if err := w.Flush(); err != nil {
		return err
	}
	f, ok := w.out.(interface{ Sync() error })
	if !ok {
		return nil
	}
	if err := f.Sync(); err != nil {
		return w.fail("sync", err)
	}
	return nil
}

// Err is the error that ended the log, nil while it is whole.
func (w *Writer) Err() error { return w.err }

func (w *Writer) fail(verb string, err error) error {
	w.err = fmt.Errorf("%s run log: %w", verb, err)
	return w.err
}
