package conntrack

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tablefull/tablefull/report/runlog"
	"github.com/tablefull/tablefull/runner/env"
)

const (
	// maxRounds bounds how often the last difference to the headroom is
	// corrected while the table moves by itself.
	maxRounds = 20
	// renewEvery is the length of one slice of the renewal. Each entry is
	// renewed every renewShare of the timeout, so an agent may stall for two
	// thirds of it before ballast is lost.
	renewEvery = 250 * time.Millisecond
	renewShare = 1.0 / 3
	// removeTime is how long the removal may take after ctx is done.
	removeTime = 30 * time.Second
)

// ballast is the worker of a BallastJob.
type ballast struct {
	headroom uint64
	timeout  uint32 // s
	v6       bool
	epoch    int64
	orders   chan ballastOrder
}

type ballastOrder struct {
	headroom uint64
	done     chan error
}

var _ env.Updater = (*ballast)(nil)

// NewBallast returns the worker of j.Ballast. Before it is ready it inserts
// ASSURED, ESTABLISHED entries until exactly Headroom entries of this
// namespace's limit are free. Then it renews their timeouts, a slice every
// quarter of a second, so that each entry has at least two thirds of Timeout
// left; entries that have gone are put back as far as the limit allows. When
// ctx is done it deletes all of them and checks that none is left.
//
// Where the kernel refuses most of the entries because their hash chains would
// be too long (ENOSPC, from Linux 5.15 on), it gives up with an error: the table
// holds no more, however much of its limit is free.
//
// It never inserts an entry that would go beyond the limit: the kernel would
// evict others' entries for it.
//
// An Update with another Headroom inserts or deletes until that many are free.
//
// One namespace has at most one ballast job at a time: a new one deletes what
// it finds of an earlier one.
func NewBallast(j env.Job) (env.Worker, error) {
	job := j.Ballast
	if job == nil {
		return nil, fmt.Errorf("make ballast: job %q is not a ballast job", j.ID)
	}
	if !(job.Timeout >= 1 && job.Timeout <= math.MaxInt32) {
		return nil, fmt.Errorf("make ballast: timeout is %g s: it must be at least 1 s", job.Timeout)
	}
	return &ballast{headroom: job.Headroom, timeout: uint32(math.Ceil(job.Timeout)), v6: job.IPv6, epoch: j.Epoch, orders: make(chan ballastOrder)}, nil
}

// Update is part of env.Updater. It returns once the headroom is what it shall
// be.
func (b *ballast) Update(ctx context.Context, u env.Update) error {
	if u.Headroom == nil {
		return errors.New("update ballast: its headroom can be changed, nothing else")
	}
	o := ballastOrder{*u.Headroom, make(chan error, 1)}
	select {
	case b.orders <- o:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-o.done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Run implements env.Worker.
func (b *ballast) Run(ctx context.Context, ready func(), out env.Recorder) (err error) {
	f, err := b.newFilling()
	if err != nil {
		return err
	}
	defer f.close()
	defer func() {
		rctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), removeTime)
		defer cancel()
		err = errors.Join(err, b.remove(rctx, f, out))
	}()
	if err := b.set(ctx, f, out); err != nil {
		return err
	}
	ready()
	return b.keep(ctx, f, out)
}

// set fills the table and reports what was reached.
func (b *ballast) set(ctx context.Context, f *filling, out env.Recorder) error {
	began := monotonic()
	if err := flushBallast(ctx, f.client); err != nil {
		return fmt.Errorf("remove earlier ballast: %w", err)
	}
	return b.fill(ctx, f, b.headroom, "set", began, out)
}

// fill makes headroom entries free and reports what was reached.
func (b *ballast) fill(ctx context.Context, f *filling, headroom uint64, name string, began int64, out env.Recorder) error {
	entries, limit, err := f.table()
	if err != nil {
		return err
	}
	if limit == 0 {
		return errors.New("fill table: nf_conntrack_max is 0, so the table has no limit to come close to: set one")
	}
	used := entries - min(entries, uint64(len(f.live))) // by others
	if free := limit - min(used, limit); free < headroom {
		return fmt.Errorf("fill table: a headroom of %d is asked for, but only %d of %d entries are free, for %d are in use already:"+
			" wait until they expire, flush the table, or ask for a headroom of at most %d", headroom, free, limit, used, free)
	}
	before := len(f.live)
	if err := f.settle(ctx, headroom); err != nil {
		return fmt.Errorf("fill table: %w", err)
	}
	if entries, limit, err = f.table(); err != nil {
		return err
	}
	fields := map[string]string{
		"headroom": strconv.FormatInt(int64(limit)-int64(entries), 10),
		"wanted":   number(headroom),
		"inserted": number(uint64(max(0, len(f.live)-before))),
		"entries":  number(entries),
		"limit":    number(limit),
		"took_s":   strconv.FormatFloat(seconds(monotonic()-began), 'f', 3, 64),
	}
	detail := "the table has been filled"
	if n := before - len(f.live); n > 0 {
		fields["deleted"] = strconv.Itoa(n)
		detail = "room has been made in the table"
	}
	b.event(out, name, detail, fields)
	return nil
}

// keep renews until ctx is done.
func (b *ballast) keep(ctx context.Context, f *filling, out env.Recorder) error {
	cycle := float64(b.timeout) * renewShare
	tick := time.NewTicker(min(renewEvery, time.Duration(cycle/4*float64(time.Second))))
	defer tick.Stop()
	began, done := monotonic(), 0
	missing, inserted := 0, 0 // in this cycle
	defer func() { b.restored(out, missing, inserted) }()
	for {
		select {
		case <-ctx.Done():
			return nil
		case o := <-b.orders:
			err := b.fill(ctx, f, o.headroom, "changed", monotonic(), out)
			o.done <- err
			// What was deleted were the newest ones: those that are left keep
			// their place in the cycle.
			done = min(done, len(f.live))
			continue
		case <-tick.C:
		}
		elapsed := seconds(monotonic() - began)
		due := max(done, dueForRenewal(len(f.live), elapsed, cycle))
		gone, err := f.renew(ctx, done, due)
		if err == nil {
			missing += len(gone)
			var back int
			back, err = f.reinsert(ctx, gone)
			inserted += back
		}
		if err != nil && ctx.Err() == nil {
			return fmt.Errorf("renew ballast: %w", err)
		}
		done = due
		if elapsed >= cycle {
			b.restored(out, missing, inserted)
			began, done, missing, inserted = monotonic(), 0, 0, 0
		}
	}
}

// restored reports entries that had gone and were put back as far as the limit
// allowed: until then the headroom was not what it should be.
func (b *ballast) restored(out env.Recorder, missing, inserted int) {
	if missing == 0 {
		return
	}
	b.event(out, "restored", "ballast was missing: deleted by somebody, or expired because the agent did not get to run", map[string]string{
		"missing": strconv.Itoa(missing), "inserted": strconv.Itoa(inserted),
	})
}

// remove deletes all ballast and checks that.
func (b *ballast) remove(ctx context.Context, f *filling, out env.Recorder) error {
	began := monotonic()
	before, _, err := f.table()
	if err == nil {
		err = flushBallast(ctx, f.remover)
	}
	if err != nil {
		return fmt.Errorf("remove ballast: %w (what is left expires within %d s)", err, b.timeout)
	}
	took := seconds(monotonic() - began)
	after, _, err := f.table()
	if err != nil {
		return err
	}
	b.event(out, "removed", "ballast has been deleted, none is left", map[string]string{
		"ballast":        strconv.Itoa(len(f.live)),
		"entries_before": number(before),
		"entries_after":  number(after),
		"took_s":         strconv.FormatFloat(took, 'f', 3, 64),
	})
	return nil
}

func (b *ballast) event(out env.Recorder, name, detail string, fields map[string]string) {
	out.Record(runlog.Record{
		T:     seconds(monotonic() - b.epoch),
		Event: &runlog.Event{Kind: "ballast", Name: name, Detail: detail, Fields: fields},
	})
}

func number(n uint64) string { return strconv.FormatUint(n, 10) }

// filling is the ballast in a table. All of it is used by one goroutine.
type filling struct {
	client *client
	// remover is a socket that is not used before the end: one on which a
	// walk was interrupted is of no use, and there may be no file descriptor
	// left to open one.
	remover      *client
	count, limit *procFile

	create, renewal, deletion *template

	live    []uint32 // numbers of the entries that should be there
	next    uint32   // the first number that was never used
	tooLong int      // of the last insert: refused because of their hash chains
	batch   []byte
}

func (b *ballast) newFilling() (_ *filling, err error) {
	f := &filling{
		create:   createTemplate(b.v6, b.timeout, ballastMark),
		renewal:  renewTemplate(b.v6, b.timeout),
		deletion: deleteTemplate(b.v6),
	}
	defer func() {
		if err != nil {
			f.close()
		}
	}()
	if f.count, err = openProc(sysctlDir + "nf_conntrack_count"); err != nil {
		return nil, fmt.Errorf("read table: %w", err)
	}
	if f.limit, err = openProc(sysctlDir + "nf_conntrack_max"); err != nil {
		return nil, fmt.Errorf("read table: %w", err)
	}
	if f.remover, err = dial(); err != nil {
		return nil, err
	}
	f.client, err = dial()
	return f, err
}

func (f *filling) close() {
	f.count.close()
	f.limit.close()
	for _, c := range []*client{f.client, f.remover} {
		if c != nil {
			c.close()
		}
	}
}

func (f *filling) table() (entries, limit uint64, err error) {
	if entries, err = f.count.number(); err != nil {
		return 0, 0, fmt.Errorf("read table: %w", err)
	}
	if limit, err = f.limit.number(); err != nil {
		return 0, 0, fmt.Errorf("read table: %w", err)
	}
	return entries, limit, nil
}

// settle inserts and deletes ballast until exactly headroom entries are free,
// or as near to that as it gets while others use the table too. The count is
// read again before each batch: then a table that others fill meanwhile is
// overshot by less than what they add in the millisecond a batch takes.
func (f *filling) settle(ctx context.Context, headroom uint64) error {
	tried, long := 0, 0 // entries, and of those, refused because of their hash chains
	for round := 0; round < maxRounds; {
		entries, limit, err := f.table()
		if err != nil {
			return err
		}
		missing := int64(limit) - int64(headroom) - int64(entries)
		before := len(f.live)
		switch {
		case missing > 0:
			err = f.insert(ctx, int(min(missing, batchSize)))
			if tried, long = tried+int(min(missing, batchSize)), long+f.tooLong; tried < batchSize {
				break // too few to tell
			}
			if err == nil && 2*long > tried {
				err = fmt.Errorf("the kernel refused %d of the last %d entries, after %d, because their hash chains would be too long: it has too few buckets for more;"+
					" set more (nf_conntrack_buckets; in a private kernel conntrack.buckets), or ask for a headroom of at least %d", long, tried, len(f.live), int64(limit)-int64(entries))
			}
			tried, long = 0, 0
		case missing < 0 && len(f.live) > 0:
			err = f.trim(ctx, int(min(-missing, int64(len(f.live)))))
		default:
			return nil
		}
		if err != nil {
			return err
		}
		// What is bounded is corrections at the end and attempts in vain.
		if missing <= batchSize || len(f.live) == before {
			round++
		}
	}
	return nil
}

// insert adds one batch of n new entries. Fewer are added where others fill
// the table meanwhile, or where the kernel refuses one of that number.
func (f *filling) insert(ctx context.Context, n int) error {
	f.tooLong = 0
	numbers := make([]uint32, n)
	for i := range numbers {
		numbers[i] = f.next
		f.next++
	}
	var fatal error
	refused := make(map[uint32]bool)
	err := f.send(ctx, f.create, numbers, func(number uint32, errno syscall.Errno) {
		refused[number] = true
		if errno == unix.ENOSPC {
			f.tooLong++
		}
		if !mayRefuse(errno) {
			fatal = fmt.Errorf("insert entry: %w", errno)
		}
	})
	// Where the answer is not known, the entry may be there.
	for _, number := range numbers {
		if !refused[number] {
			f.live = append(f.live, number)
		}
	}
	return errors.Join(err, fatal)
}

// mayRefuse says whether errno is a reason to go on without this entry: the
// table is full (others were faster), there is such an entry, or its hash
// chain is too long.
func mayRefuse(errno syscall.Errno) bool {
	return errno == unix.ENOMEM || errno == unix.EEXIST || errno == unix.ENOSPC
}

// trim deletes the n newest entries.
func (f *filling) trim(ctx context.Context, n int) error {
	keep := len(f.live) - n
	var fatal error
	err := f.each(ctx, f.deletion, f.live[keep:], func(_ uint32, errno syscall.Errno) {
		if errno != unix.ENOENT {
			fatal = fmt.Errorf("delete entry: %w", errno)
		}
	})
	if err = errors.Join(err, fatal); err != nil {
		return err
	}
	f.live = f.live[:keep]
	return nil
}

// renew gives entries live[from:to] their full timeout again and returns the
// numbers of those that have gone.
func (f *filling) renew(ctx context.Context, from, to int) (gone []uint32, err error) {
	var fatal error
	err = f.each(ctx, f.renewal, f.live[from:to], func(number uint32, errno syscall.Errno) {
		if errno == unix.ENOENT {
			gone = append(gone, number)
		} else {
			fatal = fmt.Errorf("renew entry: %w", errno)
		}
	})
	return gone, errors.Join(err, fatal)
}

// reinsert puts entries back, no more than there is room for, and returns how
// many. The rest is tried again in the next cycle.
func (f *filling) reinsert(ctx context.Context, numbers []uint32) (back int, err error) {
	for len(numbers) > 0 {
		entries, limit, err := f.table()
		if err != nil {
			return back, err
		}
		k := min(len(numbers), batchSize, int(limit-min(entries, limit)))
		if k == 0 {
			return back, nil
		}
		var fatal error
		refused := 0
		err = f.send(ctx, f.create, numbers[:k], func(_ uint32, errno syscall.Errno) {
			refused++
			if !mayRefuse(errno) {
				fatal = fmt.Errorf("insert entry: %w", errno)
			}
		})
		back += k - refused
		if err = errors.Join(err, fatal); err != nil {
			return back, err
		}
		numbers = numbers[k:]
	}
	return back, nil
}

// each sends one message per number, in batches.
func (f *filling) each(ctx context.Context, t *template, numbers []uint32, failed func(uint32, syscall.Errno)) error {
	for len(numbers) > 0 {
		k := min(len(numbers), batchSize)
		if err := f.send(ctx, t, numbers[:k], failed); err != nil {
			return err
		}
		numbers = numbers[k:]
	}
	return nil
}

// send sends one batch. Only the last message asks for an answer; the others
// answer where they fail.
func (f *filling) send(ctx context.Context, t *template, numbers []uint32, failed func(uint32, syscall.Errno)) error {
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	f.batch = f.batch[:0]
	first := f.client.seq + 1
	for i, n := range numbers {
		f.client.seq++
		f.batch = t.append(f.batch, n, f.client.seq, i == len(numbers)-1)
	}
	return f.client.exchange(ctx, f.batch, f.client.seq, func(seq uint32, errno syscall.Errno) {
		if i := seq - first; int(i) < len(numbers) {
			failed(numbers[i], errno)
		}
	})
}

// FlushBallast deletes all ballast of this network namespace, whoever put it
// there, and checks that none is left. It needs CAP_NET_ADMIN, and works in a
// full table too.
func FlushBallast(ctx context.Context) error {
	c, err := dial()
	if err != nil {
		return err
	}
	defer c.close()
	return flushBallast(ctx, c)
}

var onlyBallast = markFilter{mark: ballastMark &^ bulkBit, mask: ^uint32(bulkBit)}

func flushBallast(ctx context.Context, c *client) error {
	if err := c.command(ctx, ctDelete, 0, afUnspec, onlyBallast.append); err != nil {
		return fmt.Errorf("delete entries by mark: %w", err)
	}
	left, err := countBallast(ctx, c)
	if err == nil && left > 0 {
		err = fmt.Errorf("delete entries by mark: %d are left", left)
	}
	return err
}

// countBallast walks the table for entries that carry our mark.
func countBallast(ctx context.Context, c *client) (n uint64, err error) {
	var e entry
	err = c.dump(ctx, onlyBallast, func(body []byte) error {
		if !e.parse(body) {
			return errMalformed
		}
		if isBallast(e.mark) { // a kernel that knows no filter sends all
			n++
		}
		return nil
	})
	return n, err
}
