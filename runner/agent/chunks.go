package agent

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
)

// chunkBytes is how much of a spool is in one file. Whole files are what can be
// given back to every file system.
const chunkBytes = 4 << 20

var errTrimmed = errors.New("these records have been taken and removed")

// chunks is one file in parts, PATH, PATH.1, PATH.2 and so on, of which the
// first ones can be removed while the rest is used.
type chunks struct {
	path string
	size int64

	mu    sync.RWMutex // held for reading while a file is used
	files map[int64]*os.File
	first int64 // number of the first part that is kept
}

func newChunks(path string, size int64) (*chunks, error) {
	c := &chunks{path: path, size: size, files: map[int64]*os.File{}}
	_, err := c.part(0)
	return c, err
}

// part returns a part's file, and makes it where it is not there.
func (c *chunks) part(i int64) (*os.File, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if i < c.first {
		return nil, errTrimmed
	}
	if f := c.files[i]; f != nil {
		return f, nil
	}
	name := c.path
	if i > 0 {
		name = fmt.Sprintf("%s.%d", c.path, i)
	}
	f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err //nolint:wrapcheck // the caller says what for
	}
	c.files[i] = f
	return f, nil
}

// WriteAt is part of io.WriterAt.
func (c *chunks) WriteAt(p []byte, off int64) (n int, err error) {
	for n < len(p) {
		at := off + int64(n)
		f, err := c.part(at / c.size)
		if err != nil {
			return n, err
		}
		k, err := f.WriteAt(p[n:min(int64(len(p)), int64(n)+c.size-at%c.size)], at%c.size)
		if n += k; err != nil {
			return n, err //nolint:wrapcheck // the caller says what for
		}
	}
	return n, nil
}

// ReadAt is part of io.ReaderAt.
func (c *chunks) ReadAt(p []byte, off int64) (n int, err error) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	for n < len(p) {
		at := off + int64(n)
		f := c.files[at/c.size]
		switch {
		case at/c.size < c.first:
			return n, errTrimmed
		case f == nil:
			return n, io.EOF
		}
		k, err := f.ReadAt(p[n:min(int64(len(p)), int64(n)+c.size-at%c.size)], at%c.size)
		if n += k; err != nil {
			return n, err //nolint:wrapcheck // the caller says what for
		}
	}
	return n, nil
}

// Discard removes the parts that are wholly before off.
func (c *chunks) Discard(off int64) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	var errs []error
	for ; c.first < off/c.size; c.first++ {
		if f := c.files[c.first]; f != nil {
			errs = append(errs, f.Close(), os.Remove(f.Name()))
			delete(c.files, c.first)
		}
	}
	return errors.Join(errs...)
}

// Close closes all parts.
func (c *chunks) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	var errs []error
	for _, f := range c.files {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}
