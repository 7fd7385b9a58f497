package runlog

import (
	"bufio"
	"errors"
	"fmt"
	"io"
)

// MaxLine is how long a line of a run log may be, in bytes. A longer one is
// reported as unreadable and skipped without being held in memory.
const MaxLine = 16 << 20

// keptProblems bounds Reader.Problems; the rest are only counted.
const keptProblems = 100

// ProblemKind says what is wrong with a run log.
type ProblemKind string

const (
	Unreadable ProblemKind = "unreadable" // a line that is no record
	Gap        ProblemKind = "gap"        // records of a host are missing
	Repeat     ProblemKind = "repeat"     // a record came again, or out of order; it was skipped
	Unnumbered ProblemKind = "unnumbered" // a record without a number: it was used
)

// A Problem is something in the log that readers must not pass over.
type Problem struct {
	Line  uint64      `json:"line"` // from 1
	Kind  ProblemKind `json:"kind"`
	Host  string      `json:"host,omitempty"`
	Count uint64      `json:"count"` // records concerned
	Text  string      `json:"text"`
}

// A Reader reads records one by one. It goes on past damage and keeps account
// of it: a log that was cut off is read up to the cut, a line that cannot be
// read is skipped, and both are reported. Repeated records are skipped too,
// because records are increments, which must not be added twice.
type Reader struct {
	in        *bufio.Reader
	line      uint64
	last      map[string]uint64
	problems  []Problem
	count     uint64
	truncated bool
	dec       decoder
	offset    int64
	growing   bool   // see Follow
	partial   []byte // of a growing log: its last line so far
}

// NewReader returns a Reader of the log in r.
func NewReader(r io.Reader) *Reader {
	return &Reader{in: bufio.NewReaderSize(r, 256<<10), last: map[string]uint64{}}
}

// OnlyNet makes the reader leave out all counters of Sample.Net but these. They
// are most of a long log, and reading them takes most of the time.
func (r *Reader) OnlyNet(names ...string) {
	r.dec.wanted = make(map[string]bool, len(names))
	for _, n := range names {
		r.dec.wanted[n] = true
	}
}

// Next returns the next readable record. At the end, cut off or not, it
// returns io.EOF; any other error comes from the underlying reader.
func (r *Reader) Next() (Record, error) {
	for {
		line, whole, err := r.readLine(nil)
		r.line++
		if err != nil && !errors.Is(err, io.EOF) {
			return Record{}, fmt.Errorf("read run log line %d: %w", r.line, err)
		}
		ended := err != nil
		if ended && len(line) == 0 && whole {
			return Record{}, io.EOF
		}
		var rec Record
		if r.accept(&rec, r.dec.parse(line, whole, &rec), ended) {
			return rec, nil
		}
		if ended {
			return Record{}, io.EOF
		}
	}
}

// errKind says that the line is a record all the same, so that its number is
// no gap.
var errKind = errors.New("it has not exactly one part that this version knows")

// parse decodes a line; one that was too long is not whole.
func (d *decoder) parse(line []byte, whole bool, rec *Record) error {
	if !whole {
		return fmt.Errorf("longer than %d bytes", MaxLine)
	}
	if err := d.decode(line, rec); err != nil {
		return err
	}
	if rec.Kind() == "" {
		return errKind
	}
	return nil
}

// accept keeps account of a line that was parsed with that result, and says
// whether to use its record. A last line without its end is the mark of a log
// that was cut off, not of damage.
func (r *Reader) accept(rec *Record, err error, ended bool) bool {
	switch {
	case err == nil:
		return r.inOrder(rec)
	case errors.Is(err, errKind):
		r.inOrder(rec)
	}
	if ended {
		r.truncated = true
		return false
	}
	r.note(Problem{Line: r.line, Kind: Unreadable, Host: rec.Host, Count: 1, Text: fmt.Sprintf("line %d is not readable: %v", r.line, err)})
	return false
}

// inOrder checks the record's number, and says whether to use the record.
func (r *Reader) inOrder(rec *Record) bool {
	if rec.N == 0 {
		r.note(Problem{Line: r.line, Kind: Unnumbered, Host: rec.Host, Count: 1, Text: fmt.Sprintf("line %d: a record of %q has no number", r.line, rec.Host)})
		return true
	}
	last := r.last[rec.Host]
	switch {
	case rec.N <= last:
		r.note(Problem{Line: r.line, Kind: Repeat, Host: rec.Host, Count: 1, Text: fmt.Sprintf("line %d: record %d of %q came after record %d and was skipped", r.line, rec.N, rec.Host, last)})
		return false
	case rec.N > last+1:
		rec.afterGap = true
		r.note(Problem{Line: r.line, Kind: Gap, Host: rec.Host, Count: rec.N - last - 1, Text: fmt.Sprintf("line %d: records %d to %d of %q are missing", r.line, last+1, rec.N-1, rec.Host)})
	}
	r.last[rec.Host] = rec.N
	return true
}

func (r *Reader) note(p Problem) {
	r.count++
	if len(r.problems) < keptProblems {
		r.problems = append(r.problems, p)
	}
}

// readLine appends the next line without its end to text. whole is false where
// it was too long, and then nothing is appended. At the end of the input the
// error is io.EOF and the line may be a partial one.
func (r *Reader) readLine(text []byte) (line []byte, whole bool, err error) {
	from := len(text)
	whole = true
	text, r.partial = append(text, r.partial...), r.partial[:0]
	for {
		part, err := r.in.ReadSlice('\n')
		r.offset += int64(len(part))
		if whole && len(text)-from+len(part) > MaxLine {
			whole, text = false, text[:from]
		}
		if whole {
			text = append(text, part...)
		}
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case err != nil && r.growing && whole:
			r.partial = append(r.partial, text[from:]...)
			return text[:from], whole, err
		case err != nil:
			return text, whole, err
		}
		if whole {
			text = text[:len(text)-1]
		}
		return text, whole, nil
	}
}

// Offset is how many bytes of whole lines have been read. After Each or Follow
// has failed it can be some lines ahead of the records.
func (r *Reader) Offset() int64 { return r.offset - int64(len(r.partial)) }

// Truncated says, after the end, whether the last line was cut off.
func (r *Reader) Truncated() bool { return r.truncated }

// Problems returns what was wrong so far, at most the first 100.
func (r *Reader) Problems() []Problem { return r.problems }

// ProblemCount is how many problems there were, those beyond Problems included.
func (r *Reader) ProblemCount() uint64 { return r.count }

// Last is the highest record number read of a host, 0 for none.
func (r *Reader) Last(host string) uint64 { return r.last[host] }
