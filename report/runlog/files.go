package runlog

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/klauspost/compress/zstd"
)

const (
	// FileName is the file of a run's directory that is being written. Where
	// it has grown large, what it held becomes a segment and it begins again.
	FileName = "run.jsonl"

	segmentPrefix, plainSuffix, packedSuffix = "run-", ".jsonl", ".jsonl.zst"
)

// segmentName is like run-000001.jsonl, and .zst behind it once compressed.
func segmentName(n int, suffix string) string {
	return fmt.Sprintf("%s%06d%s", segmentPrefix, n, suffix)
}

// segments are the numbers of the segments in dir, in order, and which of them
// are there compressed.
func segments(fsys fs.FS, dir string) (numbers []int, packed map[int]bool, err error) {
	entries, err := fs.ReadDir(fsys, dir)
	if err != nil {
		return nil, nil, err //nolint:wrapcheck // it names the operation and the path
	}
	packed = map[int]bool{}
	for _, e := range entries {
		text, ok := strings.CutPrefix(e.Name(), segmentPrefix)
		if !ok {
			continue
		}
		for _, suffix := range []string{plainSuffix, packedSuffix} {
			digits, ok := strings.CutSuffix(text, suffix)
			n, err := strconv.Atoi(digits)
			if ok && err == nil && n > 0 && e.Name() == segmentName(n, suffix) {
				numbers = append(numbers, n)
				packed[n] = packed[n] || suffix == packedSuffix
			}
		}
	}
	slices.Sort(numbers)
	return slices.Compact(numbers), packed, nil
}

// openRegular opens a file that is no pipe, which would block.
func openRegular(fsys fs.FS, name string) (fs.File, error) {
	info, err := fs.Stat(fsys, name)
	if err != nil {
		return nil, err //nolint:wrapcheck // it names the operation and the path
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("open %s: it is no regular file", name)
	}
	return fsys.Open(name) //nolint:wrapcheck // as above
}

// Files reads the log of a run's directory, segment after segment, as if it
// were one file. Like a file that grows it can be read on after io.EOF, also
// while its writer begins new segments. One goroutine uses it.
type Files struct {
	fsys    fs.FS
	dir     string
	n       int // number of the present segment
	file    fs.File
	unpack  *zstd.Decoder // nil where the file is plain
	live    bool          // the file is the one that is being written, or was
	renamed bool          // and has become segment n meanwhile
}

// OpenDir opens the log in a directory. It fails with fs.ErrNotExist where
// there is none.
func OpenDir(dir string) (*Files, error) { return Open(os.DirFS(dir), ".") }

// Open opens the log in a directory of fsys. It fails with fs.ErrNotExist
// where there is none.
func Open(fsys fs.FS, dir string) (*Files, error) {
	f := &Files{fsys: fsys, dir: dir, n: 1}
	err := f.open()
	if errors.Is(err, io.EOF) {
		err = &fs.PathError{Op: "open", Path: path.Join(dir, FileName), Err: fs.ErrNotExist}
	}
	if err != nil {
		return nil, fmt.Errorf("open run log: %w", err)
	}
	return f, nil
}

// open opens segment n or, where it was lost, the next one there is; behind the
// last one it is the file that is being written, io.EOF where that is not there.
func (f *Files) open() error {
	for try := 0; ; try++ {
		numbers, packed, err := segments(f.fsys, f.dir)
		if err != nil {
			return err
		}
		if i, _ := slices.BinarySearch(numbers, f.n); i < len(numbers) {
			err = f.openSegment(numbers[i], packed[numbers[i]])
			if errors.Is(err, fs.ErrNotExist) && try < 10 {
				continue // it has been compressed meanwhile
			}
			return err
		}
		file, err := openRegular(f.fsys, path.Join(f.dir, FileName))
		if errors.Is(err, fs.ErrNotExist) {
			return io.EOF
		}
		if err != nil {
			return err
		}
		f.file, f.live, f.renamed = file, true, false
		// Whether this is number n nobody knows where one was added meanwhile.
		if more, err := f.behind(); !more || err != nil {
			return err
		}
		f.close()
	}
}

// behind says whether segment n or a later one exists.
func (f *Files) behind() (bool, error) {
	numbers, _, err := segments(f.fsys, f.dir)
	return len(numbers) > 0 && numbers[len(numbers)-1] >= f.n, err
}

func (f *Files) openSegment(n int, packed bool) error {
	suffix := plainSuffix
	if packed {
		suffix = packedSuffix
	}
	file, err := openRegular(f.fsys, path.Join(f.dir, segmentName(n, suffix)))
	if err != nil {
		return err
	}
	f.n, f.file, f.live = n, file, false
	if packed {
		// Whatever the file says, decoding it takes no more than this.
		f.unpack, err = zstd.NewReader(file, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(8<<20), zstd.WithDecoderLowmem(true))
		if err != nil {
			f.close()
			return fmt.Errorf("decompress segment %d: %w", n, err)
		}
	}
	return nil
}

func (f *Files) close() {
	if f.unpack != nil {
		f.unpack.Close()
	}
	if f.file != nil {
		_ = f.file.Close() // opened for reading: nothing can be lost
	}
	f.file, f.unpack = nil, nil
}

// Close is part of io.Closer.
func (f *Files) Close() error {
	f.close()
	return nil
}

// Read is part of io.Reader. A compressed segment that is damaged ends there:
// what follows is missing, which the numbers of the records will show.
func (f *Files) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for {
		if f.file == nil {
			if err := f.open(); err != nil {
				return 0, err
			}
		}
		n, err := f.read(p)
		switch {
		case n > 0:
			return n, nil
		case err == nil:
			continue
		case !errors.Is(err, io.EOF) && f.unpack == nil:
			return 0, err
		case !errors.Is(err, io.EOF):
			f.next()
			p[0] = '\n' // the line it was in ends here
			return 1, nil
		case !f.live || f.renamed:
			f.next()
			continue
		}
		// At the end of what has been written. Where the file is a segment by
		// now, some of it may have been written after we looked.
		if f.renamed, err = f.behind(); err != nil {
			return 0, err
		}
		if !f.renamed {
			return 0, io.EOF
		}
	}
}

func (f *Files) read(p []byte) (int, error) {
	if f.unpack != nil {
		return f.unpack.Read(p) //nolint:wrapcheck // as io.Reader
	}
	return f.file.Read(p) //nolint:wrapcheck // as io.Reader
}

func (f *Files) next() {
	f.close()
	f.n++
}

// Stat is what can be said of a log without reading it.
type Stat struct {
	Size     int64       // bytes, of compressed segments what they hold
	Segments int         // besides the last file
	Last     fs.FileInfo // the file written last
	LastName string      // its path in the file system
}

// StatDir is StatFS of a directory.
func StatDir(dir string) (Stat, error) { return StatFS(os.DirFS(dir), ".") }

// StatFS looks at the log in a directory. It fails with fs.ErrNotExist where
// there is none.
func StatFS(fsys fs.FS, dir string) (Stat, error) {
	var s Stat
	numbers, packed, err := segments(fsys, dir)
	if err != nil {
		return s, fmt.Errorf("look at run log: %w", err)
	}
	for _, n := range numbers {
		name := path.Join(dir, segmentName(n, plainSuffix))
		if packed[n] {
			name = path.Join(dir, segmentName(n, packedSuffix))
		}
		info, err := fs.Stat(fsys, name)
		if err != nil {
			return s, fmt.Errorf("look at run log: %w", err)
		}
		size := info.Size()
		if packed[n] {
			size = unpackedSize(fsys, name)
		}
		s.Size, s.Segments, s.Last, s.LastName = s.Size+size, s.Segments+1, info, name
	}
	name := path.Join(dir, FileName)
	info, err := fs.Stat(fsys, name)
	switch {
	case err == nil && !info.Mode().IsRegular():
		return s, fmt.Errorf("look at run log: %s is no regular file", name)
	case err == nil:
		s.Size, s.Last, s.LastName = s.Size+info.Size(), info, name
	case !errors.Is(err, fs.ErrNotExist) || s.Segments == 0:
		return s, fmt.Errorf("look at run log: %w", err)
	default:
		s.Segments--
	}
	return s, nil
}

// unpackedSize is what a compressed segment says of itself, 0 where it says
// nothing that can be right.
func unpackedSize(fsys fs.FS, name string) int64 {
	file, err := openRegular(fsys, name)
	if err != nil {
		return 0
	}
	defer file.Close()
	begin := make([]byte, zstd.HeaderMaxSize)
	n, _ := io.ReadFull(file, begin)
	var h zstd.Header
	if h.Decode(begin[:n]) != nil || !h.HasFCS || h.FrameContentSize > 1<<50 {
		return 0
	}
	return int64(h.FrameContentSize)
}
