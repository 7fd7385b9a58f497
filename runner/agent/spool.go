package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"sync"
	"time"

	"github.com/tablefull/tablefull/report/runlog"
)

const (
	indexEvery   = 1024                  // records between two entries of the offset index
	flushAfter   = 20 * time.Millisecond // longest time a record waits before it is written
	flushAtBytes = 64 << 10              // written at once from this size on
	maxUnwritten = 8 << 20               // bytes kept in memory while the disk refuses them
	retryWrite   = 250 * time.Millisecond
)

// A Spool is an append-only file of numbered records with followers, of which
// those that have been taken can be removed.
//
// A record is readable the moment Append returns: readers take what is not yet
// written from memory, so writing in batches costs them no latency. When
// writing fails (a full disk), records are kept in memory and writing is tried
// again; only beyond maxUnwritten are they dropped, and then a Loss record
// follows as soon as there is room. Dropped records have no number, so numbers
// stay without gaps.
type Spool struct {
	host  string
	file  spoolFile
	limit int

	mu      sync.Mutex
	next    uint64  // number of the next record
	first   uint64  // number of the first record that is kept
	end     int64   // offset of the next record: written + len(writing) + len(pending)
	index   []int64 // offset of record 1 + i*indexEvery
	written int64   // offset up to which file has the bytes
	writing []byte  // being written at offset written; not changed while it is
	pending []byte  // after writing
	spare   []byte  // the buffer that was written last, to be used again
	lost    runlog.Loss
	lostAt  float64       // run time of the last record dropped
	dropped uint64        // dropped in all
	failure error         // of the last write; nil once one worked
	closed  bool          // no record is taken any more
	grown   chan struct{} // closed at the next append or Close; nil while nobody waits

	kick chan struct{} // wakes the flusher
	full chan struct{} // tells the flusher not to wait
	quit chan struct{} // closed by Close
	done chan struct{} // the flusher has ended
}

// spoolFile is what a Spool needs of a file.
type spoolFile interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	// Discard frees what is before off, which is not read again.
	Discard(off int64) error
}

// NewSpool creates the file at path, which must not exist, and from some size
// on more beside it, for the records of host. Close it to end its flusher.
func NewSpool(path, host string) (*Spool, error) {
	f, err := newChunks(path, chunkBytes)
	if err != nil {
		return nil, fmt.Errorf("create spool: %w", err)
	}
	return newSpool(f, host, maxUnwritten), nil
}

func newSpool(f spoolFile, host string, limit int) *Spool {
	s := &Spool{
		host:  host,
		file:  f,
		limit: limit,
		next:  1,
		first: 1,
		kick:  make(chan struct{}, 1),
		full:  make(chan struct{}, 1),
		quit:  make(chan struct{}),
		done:  make(chan struct{}),
	}
	go s.flusher()
	return s
}

// Append numbers r, names its host, and adds it. It never waits for the disk.
func (s *Spool) Append(r runlog.Record) {
	body, err := encode(r, s.host)
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case err != nil:
		s.drop(r.T, err.Error())
	case s.closed:
		s.drop(r.T, "the agent had shut down")
	case len(s.writing)+len(s.pending)+len(body) > s.limit:
		why := "the spool is written too slowly"
		if s.failure != nil {
			why = s.failure.Error()
		}
		s.drop(r.T, why)
	default:
		s.noteLoss()
		s.add(body)
	}
}

// drop counts a record that is not kept. The caller holds mu.
func (s *Spool) drop(t float64, why string) {
	s.lost.What = "records"
	s.lost.Count++
	s.lost.Why = why
	s.lostAt = t
	s.dropped++
}

// noteLoss adds the Loss record that is due, if one is. The caller holds mu.
func (s *Spool) noteLoss() {
	if s.lost.Count == 0 {
		return
	}
	lost := s.lost
	body, err := encode(runlog.Record{T: s.lostAt, Loss: &lost}, s.host)
	if err != nil { // lostAt is not a number
		body, err = encode(runlog.Record{Loss: &lost}, s.host)
	}
	if err != nil {
		return
	}
	s.lost = runlog.Loss{}
	s.add(body)
}

// add appends an encoded record. The caller holds mu.
func (s *Spool) add(body []byte) {
	if (s.next-1)%indexEvery == 0 {
		s.index = append(s.index, s.end)
	}
	before := len(s.pending)
	s.pending = append(s.pending, `{"n":`...)
	s.pending = strconv.AppendUint(s.pending, s.next, 10)
	s.pending = append(s.pending, body...)
	s.pending = append(s.pending, '\n')
	s.end += int64(len(s.pending) - before)
	s.next++
	s.wake()
	signal(s.kick)
	if len(s.pending) >= flushAtBytes {
		signal(s.full)
	}
}

// encode returns r as JSON less its beginning `{"n":0`, so that the costly part
// is done before the number is known and outside the lock.
func encode(r runlog.Record, host string) ([]byte, error) {
	r.N, r.Host = 0, host
	b, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("encode record: %w", err)
	}
	rest, ok := bytes.CutPrefix(b, []byte(`{"n":0`))
	if !ok {
		return nil, errors.New("encode record: its number does not come first")
	}
	return rest, nil
}

// wake ends the waiting of every follower. The caller holds mu.
func (s *Spool) wake() {
	if s.grown != nil {
		close(s.grown)
		s.grown = nil
	}
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// flusher writes what is pending, batched by flushAfter, until Close.
func (s *Spool) flusher() {
	defer close(s.done)
	for {
		select {
		case <-s.kick:
		case <-s.quit:
			s.flush()
			return
		}
		s.pause(flushAfter, s.full)
		for !s.flush() && s.pause(retryWrite, nil) {
		}
	}
}

// pause waits for d, or less where cut has something, and reports whether the
// spool is still open.
func (s *Spool) pause(d time.Duration, cut <-chan struct{}) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-cut:
	case <-s.quit:
		return false
	}
	return true
}

// flush writes all there is and reports whether that worked. Only the flusher
// calls it. The bytes have a fixed place in the file, so writing again after a
// failure, even after half a write, is harmless.
func (s *Spool) flush() bool {
	for {
		s.mu.Lock()
		if len(s.writing) == 0 {
			s.writing, s.pending = s.pending, s.spare[:0]
			s.spare = nil
		}
		chunk, at := s.writing, s.written
		s.mu.Unlock()
		if len(chunk) == 0 {
			return true
		}
		_, err := s.file.WriteAt(chunk, at)

		s.mu.Lock()
		s.failure = nil
		if err != nil {
			s.failure = fmt.Errorf("write spool: %w", err)
			s.mu.Unlock()
			return false
		}
		s.written += int64(len(chunk))
		s.writing, s.spare = nil, chunk
		s.mu.Unlock()
	}
}

// Close ends the spool: what it has is complete. Readers may go on reading;
// Remove frees the file.
func (s *Spool) Close() {
	s.mu.Lock()
	if !s.closed {
		s.noteLoss()
		s.closed = true
		s.wake()
		close(s.quit)
	}
	s.mu.Unlock()
	<-s.done
}

// Remove closes the file; reading fails after that. The spool must be closed.
func (s *Spool) Remove() error {
	return s.file.Close()
}

// SpoolState is how a spool fares.
type SpoolState struct {
	Records uint64 // appended
	Dropped uint64 // records that could not be kept
	Failure string // of the last write; empty where it worked
}

// State returns how the spool fares.
func (s *Spool) State() SpoolState {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := SpoolState{Records: s.next - 1, Dropped: s.dropped}
	if s.failure != nil {
		st.Failure = s.failure.Error()
	}
	return st
}

// Trim removes the records up to number through, which have been taken, but
// for the last few thousand: those before it cannot be asked for again.
func (s *Spool) Trim(through uint64) error {
	s.mu.Lock()
	if through >= s.next {
		defer s.mu.Unlock()
		return fmt.Errorf("trim spool: record %d was taken, but the last one is %d", through, s.next-1)
	}
	slot := through / indexEvery
	if slot >= uint64(len(s.index)) {
		slot = uint64(len(s.index)) - 1 // that record is not there yet
	}
	first := slot*indexEvery + 1
	if first <= s.first || s.index[slot] > s.written {
		s.mu.Unlock()
		return nil
	}
	s.first = first
	off := s.index[slot]
	s.mu.Unlock()
	if err := s.file.Discard(off); err != nil {
		return fmt.Errorf("trim spool: %w", err)
	}
	return nil
}

// A Reader reads a spool's lines from some record on. It is for one goroutine.
type Reader struct {
	s   *Spool
	off int64
}

// From returns a reader whose first record is number n, which may be the next
// one to be appended. 0 is taken as 1.
func (s *Spool) From(n uint64) (*Reader, error) {
	n = max(n, 1)
	s.mu.Lock()
	next, first := s.next, s.first
	end := s.end
	var off int64
	if slot := (n - 1) / indexEvery; slot < uint64(len(s.index)) {
		off = s.index[slot]
	}
	s.mu.Unlock()
	switch {
	case n > next:
		return nil, fmt.Errorf("record %d was asked for, but the last one is %d", n, next-1)
	case n < first:
		return nil, fmt.Errorf("record %d was asked for, but those before %d have been taken and removed", n, first)
	case n == next:
		return &Reader{s: s, off: end}, nil
	}
	r := &Reader{s: s, off: off}
	return r, r.skip((n - 1) % indexEvery)
}

// skip moves past k lines, all of which exist.
func (r *Reader) skip(k uint64) error {
	buf := make([]byte, 64<<10)
	for k > 0 {
		n, err := r.s.readAt(buf, r.off)
		if err != nil {
			return fmt.Errorf("read spool: %w", err)
		}
		at := 0
		for k > 0 {
			i := bytes.IndexByte(buf[at:n], '\n')
			if i < 0 {
				at = n
				break
			}
			at += i + 1
			k--
		}
		r.off += int64(at)
	}
	return nil
}

// Read fills p with what follows, waiting until there is something. It returns
// io.EOF once the spool is closed and everything was read. The bytes need not
// end with a whole line.
func (r *Reader) Read(ctx context.Context, p []byte) (int, error) {
	for {
		grown, closed := r.s.waitFrom(r.off)
		if grown == nil {
			n, err := r.s.readAt(p, r.off)
			if err != nil {
				return 0, fmt.Errorf("read spool: %w", err)
			}
			r.off += int64(n)
			return n, nil
		}
		if closed {
			return 0, io.EOF
		}
		select {
		case <-grown:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}

// waitFrom returns nil where there are bytes from off on, and otherwise a
// channel that is closed when that may have changed.
func (s *Spool) waitFrom(off int64) (grown <-chan struct{}, closed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if off < s.end {
		return nil, false
	}
	if s.grown == nil {
		s.grown = make(chan struct{})
	}
	return s.grown, s.closed
}

// readAt reads from the file or, past what is written, from memory. There is
// at least one byte at off.
func (s *Spool) readAt(p []byte, off int64) (int, error) {
	s.mu.Lock()
	written := s.written
	if off >= written {
		defer s.mu.Unlock()
		off -= written
		if off < int64(len(s.writing)) {
			return copy(p, s.writing[off:]), nil
		}
		return copy(p, s.pending[off-int64(len(s.writing)):]), nil
	}
	s.mu.Unlock()
	p = p[:min(int64(len(p)), written-off)]
	n, err := s.file.ReadAt(p, off)
	if n == len(p) {
		err = nil
	}
	return n, err
}
