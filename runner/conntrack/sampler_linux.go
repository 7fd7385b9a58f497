package conntrack

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tablefull/tablefull/report/runlog"
	"github.com/tablefull/tablefull/runner/env"
)

// slabEvery is how often the slab's size is read: the kernel walks the partial
// slabs of every cache of the machine for it, and the size changes slowly.
const slabEvery = time.Second

// sampler is the worker of a SampleJob.
type sampler struct {
	every time.Duration
	epoch int64
	now   func() int64 // monotonic, ns
	open  func() (source, error)
}

// A source is a set of counters that is read together.
type source interface {
	read(now int64) (runlog.Sample, error)
	close()
}

// NewSampler returns the worker of j.Sample. It reads once before it is ready,
// then whenever run time is a multiple of Every, and once at the end. A tick
// that was missed is a Loss record. A Sample's T is the middle of its reading.
//
// slab_bytes is read at most once a second, and only where /proc/slabinfo may
// be read; other samples leave it out.
func NewSampler(j env.Job) (env.Worker, error) {
	job := j.Sample
	if job == nil {
		return nil, fmt.Errorf("make sampler: job %q is not a sample job", j.ID)
	}
	every := time.Duration(job.Every * float64(time.Second))
	if every < time.Millisecond {
		return nil, fmt.Errorf("make sampler: every is %g s: it must be at least 0.001 s", job.Every)
	}
	return &sampler{
		every: every, epoch: j.Epoch, now: monotonic,
		open: func() (source, error) { return openCounters(*job) },
	}, nil
}

// Run implements env.Worker.
func (s *sampler) Run(ctx context.Context, ready func(), out env.Recorder) error {
	src, err := s.open()
	if err != nil {
		return err
	}
	defer src.close()
	if err := s.sample(src, out); err != nil {
		return err
	}
	ready()
	last := s.tick()
	timer := time.NewTimer(s.untilTick(last + 1))
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			if err := s.sample(src, out); err != nil {
				s.lose(out, 1, err.Error())
			}
			return nil
		case <-timer.C:
		}
		tick := s.tick()
		if tick > last+1 {
			s.lose(out, uint64(tick-last-1), "the sampler did not get to run in time")
		}
		if tick > last { // a timer may fire a little early
			last = tick
			if err := s.sample(src, out); err != nil {
				s.lose(out, 1, err.Error())
			}
		}
		timer.Reset(s.untilTick(last + 1))
	}
}

// tick is the number of the last multiple of every that has passed; negative
// during set-up.
func (s *sampler) tick() int64 {
	t, every := s.now()-s.epoch, int64(s.every)
	n := t / every
	if t%every < 0 {
		n--
	}
	return n
}

func (s *sampler) untilTick(n int64) time.Duration {
	return time.Duration(n*int64(s.every) - (s.now() - s.epoch))
}

func (s *sampler) sample(src source, out env.Recorder) error {
	begin := s.now()
	sample, err := src.read(begin)
	if err != nil {
		return fmt.Errorf("take sample: %w", err)
	}
	end := s.now()
	sample.Took = seconds(end - begin)
	out.Record(runlog.Record{T: seconds(begin + (end-begin)/2 - s.epoch), Sample: &sample})
	return nil
}

func (s *sampler) lose(out env.Recorder, n uint64, why string) {
	out.Record(runlog.Record{T: seconds(s.now() - s.epoch), Loss: &runlog.Loss{What: "samples", Count: n, Why: why}})
}

func seconds(ns int64) float64 { return float64(ns) / 1e9 }

// wholeEvery is how often all counters are in a sample. The others have those
// that changed, which are few of some 60: most of a long log would repeat the
// same numbers. After a sample that got lost readers know nothing for certain
// until the next whole one.
const wholeEvery = 10 * time.Second

// counters are the files a SampleJob reads. A nil file is not read.
type counters struct {
	table, limit, netstat, snmp, snmp6, stat, slabinfo *procFile
	own                                                bool

	stats     tableStats
	net       map[string]uint64 // of the last sample
	slabNext  int64             // monotonic ns
	wholeNext int64             // monotonic ns
}

func openCounters(job env.SampleJob) (_ *counters, err error) {
	c := &counters{own: job.Own}
	defer func() {
		if err != nil {
			c.close()
		}
	}()
	type file struct {
		to       **procFile
		path     string
		use      bool
		optional bool
	}
	for _, f := range []file{
		{to: &c.table, path: "/proc/net/stat/nf_conntrack", use: job.Conntrack},
		{to: &c.limit, path: sysctlDir + "nf_conntrack_max", use: job.Conntrack},
		{to: &c.netstat, path: "/proc/net/netstat", use: true},
		{to: &c.snmp, path: "/proc/net/snmp", use: true},
		{to: &c.snmp6, path: "/proc/net/snmp6", use: true, optional: true}, // absent without IPv6
		{to: &c.stat, path: "/proc/stat", use: job.Machine},
		{to: &c.slabinfo, path: "/proc/slabinfo", use: job.Machine, optional: true}, // root only
	} {
		if !f.use {
			continue
		}
		p, err := openProc(f.path)
		switch {
		case err == nil:
			*f.to = p
		case f.optional && (errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission)):
		default:
			return nil, fmt.Errorf("read counters: %w", err)
		}
	}
	return c, nil
}

func (c *counters) close() {
	for _, p := range []*procFile{c.table, c.limit, c.netstat, c.snmp, c.snmp6, c.stat, c.slabinfo} {
		p.close()
	}
}

// read takes one sample at monotonic time now. The table comes first: it is
// what moves fastest.
func (c *counters) read(now int64) (s runlog.Sample, err error) {
	whole, next := now >= c.wholeNext, c.wholeNext
	if whole {
		next = now + int64(wholeEvery)
	}
	c.wholeNext = 0 // what a reading that fails has seen is in no sample: the next one is whole
	if s.Conntrack, err = c.readTable(whole); err != nil {
		return s, err
	}
	if s.Net, err = c.readNet(whole); err != nil {
		return s, err
	}
	if s.CPU, err = c.readCPU(); err != nil {
		return s, err
	}
	if c.slabinfo != nil && now >= c.slabNext {
		c.slabNext = now + int64(slabEvery)
		if s.SlabBytes, err = c.readSlab(); err != nil {
			return s, err
		}
	}
	c.wholeNext = next
	return s, nil
}

func (c *counters) readTable(whole bool) (*runlog.Conntrack, error) {
	if c.table == nil {
		return nil, nil
	}
	text, err := c.table.read()
	if err != nil {
		return nil, err
	}
	entries, err := c.stats.update(text)
	if err != nil {
		return nil, err
	}
	limit, err := c.limit.number()
	if err != nil {
		return nil, err
	}
	return &runlog.Conntrack{Entries: entries, Limit: limit, Counters: c.stats.counters(whole)}, nil
}

func (c *counters) readNet(whole bool) (map[string]uint64, error) {
	m := make(map[string]uint64, 48)
	for _, p := range []*procFile{c.netstat, c.snmp} {
		text, err := p.read()
		if err != nil {
			return nil, err
		}
		if err := parseNet(text, m); err != nil {
			return nil, err
		}
	}
	if c.snmp6 != nil {
		text, err := c.snmp6.read()
		if err != nil {
			return nil, err
		}
		if err := parseNet6(text, m); err != nil {
			return nil, err
		}
	}
	was := c.net
	c.net = m
	if whole {
		return m, nil
	}
	changed := map[string]uint64{}
	for name, v := range m {
		if before, seen := was[name]; !seen || before != v {
			changed[name] = v
		}
	}
	return changed, nil
}

func (c *counters) readCPU() (*runlog.CPU, error) {
	if c.stat == nil && !c.own {
		return nil, nil
	}
	self, err := cpuTime(unix.RUSAGE_SELF)
	if err != nil {
		return nil, err
	}
	if c.stat == nil {
		return &runlog.CPU{Self: self}, nil
	}
	text, err := c.stat.read()
	if err != nil {
		return nil, err
	}
	m, err := parseStat(text)
	if err != nil {
		return nil, err
	}
	return &runlog.CPU{User: m.user, System: m.system, SoftIRQ: m.softirq, Idle: m.idle, Steal: m.steal, Self: self}, nil
}

func (c *counters) readSlab() (*uint64, error) {
	text, err := c.slabinfo.read()
	if err != nil {
		return nil, err
	}
	s, ok, err := parseSlab(text, uint64(unix.Getpagesize()))
	if err != nil || !ok {
		return nil, err
	}
	return &s.bytes, nil
}

// cpuTime is the CPU time in s, user and system, of this process
// (RUSAGE_SELF) or of the calling thread (RUSAGE_THREAD).
func cpuTime(who int) (float64, error) {
	var u unix.Rusage
	if err := unix.Getrusage(who, &u); err != nil {
		return 0, fmt.Errorf("read own CPU time: %w", err)
	}
	return seconds(u.Utime.Nano() + u.Stime.Nano()), nil
}
