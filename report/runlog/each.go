package runlog

import (
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"
)

const (
	// batchBytes is about how much of a log is decoded at once.
	batchBytes = 256 << 10
	// maxDecoders bounds how many batches are decoded at the same time: what
	// follows is done in order by one, who cannot keep up with more.
	maxDecoders = 4
)

// A batch is some successive lines of a log and what they say.
type batch struct {
	text    []byte
	lines   []span
	records []Record
	errs    []error
	ended   bool  // the last line has no end
	err     error // of the reader, after the lines
	done    chan struct{}
}

// span is where a line is in the text; a line that was too long is not whole.
type span struct {
	from, to int
	whole    bool
}

// Each calls fn with each record in order, as Next would return them, and
// returns nil at the end of the log. It decodes on several processors, and
// reads ahead of fn by a few hundred KB; all that it started has ended when it
// returns. The record is fn's to keep.
func (r *Reader) Each(fn func(*Record)) error {
	n := min(runtime.GOMAXPROCS(0), maxDecoders)
	work, ordered := make(chan *batch, n), make(chan *batch, 2*n)
	var all sync.WaitGroup
	defer func() {
		for range ordered { // only where fn panics is there anything left
		}
		all.Wait()
	}()
	all.Go(func() {
		defer close(ordered)
		defer close(work)
		for {
			b := r.nextBatch()
			last := b.err != nil // once it is sent, it can be somebody else's
			ordered <- b
			work <- b
			if last {
				return
			}
		}
	})
	for range n {
		all.Go(func() {
			d := decoder{wanted: r.dec.wanted}
			for b := range work {
				b.decode(&d)
			}
		})
	}
	var err error
	for b := range ordered {
		<-b.done
		for i := range b.lines {
			last := i == len(b.lines)-1
			r.line++
			if r.accept(&b.records[i], b.errs[i], last && b.ended) {
				fn(&b.records[i])
			}
		}
		if err = b.err; err != nil && !errors.Is(err, io.EOF) {
			err = fmt.Errorf("read run log line %d: %w", r.line+1, err)
		}
		spare.Put(b)
	}
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

var spare = sync.Pool{New: func() any { return &batch{} }}

// nextBatch reads lines, at least one where there is any.
func (r *Reader) nextBatch() *batch {
	b := spare.Get().(*batch)
	*b = batch{text: b.text[:0], lines: b.lines[:0], errs: b.errs[:0], done: make(chan struct{})}
	for len(b.text) < batchBytes {
		from := len(b.text)
		text, whole, err := r.readLine(b.text)
		b.text = text
		if err != nil && !errors.Is(err, io.EOF) {
			b.err = err // what was read of its line is not to be had
			return b
		}
		if err == nil || len(b.text) > from || !whole {
			b.lines = append(b.lines, span{from, len(b.text), whole})
			b.ended = err != nil
		}
		if err != nil {
			b.err = err
			return b
		}
	}
	return b
}

func (b *batch) decode(d *decoder) {
	defer close(b.done)
	b.records = make([]Record, len(b.lines))
	for i, l := range b.lines {
		b.errs = append(b.errs, d.parse(b.text[l.from:l.to], l.whole, &b.records[i]))
		if x := b.records[i].Latency; x != nil {
			_, _, _ = x.Histograms() // fn asks again
		}
	}
}
