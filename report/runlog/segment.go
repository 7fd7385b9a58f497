package runlog

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/klauspost/compress/zstd"
)

const (
	// SegmentBytes is how large run.jsonl becomes at most, and a line more.
	SegmentBytes = 64 << 20
	// Compressing rests between parts of that size: the run is on the same
	// machine. It keeps up with 12 MB/s, far more than any run writes.
	packBytes = 256 << 10
	packRest  = 20 * time.Millisecond
)

// A File is the log of a run's directory as it is written: run.jsonl, which
// becomes a numbered segment whenever it has grown large, and those, which are
// compressed in the background. Whenever the process ends, all that was
// written can be read: a segment goes only when its compressed form is whole.
type File struct {
	dir     string
	segment int64
	file    *os.File
	size    int64
	n       int // segments so far

	packing sync.WaitGroup
	one     sync.Mutex    // held while compressing: one at a time
	closing chan struct{} // closed by Close: no more rests
}

// Create makes the log of a directory that holds none. A segment is begun
// whenever the last one has that many bytes; 0 is never.
func Create(dir string, segment int64) (*File, error) {
	if _, err := StatDir(dir); err == nil {
		return nil, fmt.Errorf("create run log: %s holds one already: %w", dir, os.ErrExist)
	}
	f := &File{dir: dir, segment: segment, closing: make(chan struct{})}
	return f, f.create()
}

func (f *File) create() error {
	file, err := os.OpenFile(filepath.Join(f.dir, FileName), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("create run log: %w", err)
	}
	f.file, f.size = file, 0
	return nil
}

// Write is part of io.Writer.
func (f *File) Write(p []byte) (int, error) {
	n, err := f.file.Write(p)
	f.size += int64(n)
	return n, err //nolint:wrapcheck // os names the operation and the path
}

// Sync makes what was written durable.
func (f *File) Sync() error { return f.file.Sync() } //nolint:wrapcheck // as above

// full says whether it is time for next, which Writer calls between lines.
func (f *File) full() bool { return f.segment > 0 && f.size >= f.segment }

// next makes what was written a segment and begins run.jsonl again.
func (f *File) next() error {
	if err := f.file.Close(); err != nil {
		return err //nolint:wrapcheck // as above
	}
	plain := filepath.Join(f.dir, segmentName(f.n+1, plainSuffix))
	if err := os.Rename(filepath.Join(f.dir, FileName), plain); err != nil {
		return err //nolint:wrapcheck // as above
	}
	f.n++
	packed := filepath.Join(f.dir, segmentName(f.n, packedSuffix))
	f.packing.Go(func() {
		f.one.Lock()
		defer f.one.Unlock()
		// Where it cannot be compressed it stays as it is, and can be read.
		_ = f.pack(plain, packed)
	})
	return f.create()
}

// pack compresses a file, and removes it once that is safely on the disk.
func (f *File) pack(plain, packed string) (err error) {
	in, err := os.Open(plain)
	if err != nil {
		return err //nolint:wrapcheck // nobody is told
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return err //nolint:wrapcheck // nobody is told
	}
	out, err := os.CreateTemp(f.dir, ".run-*.zst")
	if err != nil {
		return err //nolint:wrapcheck // nobody is told
	}
	defer func() {
		if err != nil {
			_ = os.Remove(out.Name())
		}
	}()
	err = errors.Join(f.compress(out, in, info.Size()), out.Chmod(0o644), out.Sync(), out.Close())
	if err != nil {
		return err
	}
	if err := os.Rename(out.Name(), packed); err != nil {
		return err //nolint:wrapcheck // nobody is told
	}
	return os.Remove(plain) //nolint:wrapcheck // nobody is told
}

func (f *File) compress(out io.Writer, in io.Reader, size int64) error {
	z, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(1<<20), zstd.WithLowerEncoderMem(true), zstd.WithEncoderLevel(zstd.SpeedFastest))
	if err != nil {
		return err //nolint:wrapcheck // nobody is told
	}
	z.ResetContentSize(out, size)
	for {
		_, err := io.CopyN(z, in, packBytes)
		if errors.Is(err, io.EOF) {
			return z.Close() //nolint:wrapcheck // nobody is told
		}
		if err != nil {
			return errors.Join(err, z.Close())
		}
		select {
		case <-f.closing:
		case <-time.After(packRest):
		}
	}
}

// Close closes the file and waits until all segments are compressed.
func (f *File) Close() error {
	close(f.closing)
	err := f.file.Close()
	f.packing.Wait()
	return err //nolint:wrapcheck // os names the operation and the path
}
