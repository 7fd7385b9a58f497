package conntrack

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	tc "github.com/ti-mo/conntrack"
	"golang.org/x/sys/unix"

	"github.com/tablefull/tablefull/report/runlog"
	"github.com/tablefull/tablefull/runner/env"
)

// flush is the worker of a FlushJob.
type flush struct{ proto uint8 }

// NewFlush returns the worker of j.Flush. Its event says how many entries it
// has deleted, or, where it deleted all but ballast in one go, by how many the
// table has shrunk.
func NewFlush(j env.Job) (env.Worker, error) {
	if j.Flush == nil {
		return nil, fmt.Errorf("make flush: job %q is none", j.ID)
	}
	switch j.Flush.Protocol {
	case "":
		return &flush{}, nil
	case "tcp":
		return &flush{unix.IPPROTO_TCP}, nil
	case "udp":
		return &flush{unix.IPPROTO_UDP}, nil
	}
	return nil, fmt.Errorf("make flush: protocol is %q, want tcp or udp", j.Flush.Protocol)
}

// Run implements env.Worker.
func (f *flush) Run(ctx context.Context, ready func(), out env.Recorder) error {
	c, err := tc.Dial(nil)
	if err != nil {
		return fmt.Errorf("open ctnetlink: %w", err)
	}
	defer c.Close()
	n, err := f.delete(ctx, c)
	if err != nil {
		return fmt.Errorf("flush table: %w", err)
	}
	out.Record(runlog.Record{Event: &runlog.Event{Kind: "flush", Name: "deleted", Fields: map[string]string{"entries": strconv.Itoa(n)}}})
	ready()
	return nil
}

// notBallast leaves out what has the bit of our mark.
func notBallast() tc.Filter { return tc.NewFilter().Mark(0).MarkMask(ballastBit) }

func (f *flush) delete(ctx context.Context, c *tc.Conn) (int, error) {
	if f.proto == 0 {
		return deleteAll(c)
	}
	// The kernels there are do not all delete by protocol: each entry by itself.
	flows, err := c.DumpFilter(notBallast(), nil)
	if err != nil {
		return 0, fmt.Errorf("list entries: %w", err)
	}
	n := 0
	for _, flow := range flows {
		if flow.TupleOrig.Proto.Protocol != f.proto || isBallast(flow.Mark) {
			continue
		}
		if ctx.Err() != nil {
			return n, ctx.Err()
		}
		switch err := c.Delete(flow); {
		case err == nil:
			n++
		case !errors.Is(err, unix.ENOENT): // gone by itself meanwhile
			return n, fmt.Errorf("delete entry: %w", err)
		}
	}
	return n, nil
}

func deleteAll(c *tc.Conn) (int, error) {
	count, err := openProc(sysctlDir + "nf_conntrack_count")
	if err != nil {
		return 0, fmt.Errorf("read table: %w", err)
	}
	defer count.close()
	before, err := count.number()
	if err != nil {
		return 0, fmt.Errorf("read table: %w", err)
	}
	if err := c.FlushFilter(notBallast()); err != nil {
		return 0, fmt.Errorf("delete entries: %w", err)
	}
	after, err := count.number()
	if err != nil {
		return 0, fmt.Errorf("read table: %w", err)
	}
	return int(before) - int(after), nil
}
