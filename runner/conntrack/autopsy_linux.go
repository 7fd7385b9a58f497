package conntrack

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	ctlib "github.com/ti-mo/conntrack"
	"golang.org/x/sys/unix"

	"github.com/tablefull/tablefull/report/runlog"
	"github.com/tablefull/tablefull/runner/env"
)

// autopsy is the worker of an AutopsyJob.
type autopsy struct {
	job   env.AutopsyJob
	proto uint8
	epoch int64
}

// NewAutopsy returns the worker of j.Autopsy: one look-up of the failure's
// tuple, as its client sees it, in this namespace's table (zone 0). It is
// ready at once and ends by itself.
func NewAutopsy(j env.Job) (env.Worker, error) {
	if j.Autopsy == nil {
		return nil, fmt.Errorf("make autopsy: job %q is not an autopsy job", j.ID)
	}
	a := &autopsy{job: *j.Autopsy, epoch: j.Epoch}
	t := a.job.Failure.Tuple
	switch t.Proto {
	case "tcp":
		a.proto = protoTCP
	case "udp":
		a.proto = protoUDP
	default:
		return nil, fmt.Errorf("make autopsy: protocol is %q, want tcp or udp", t.Proto)
	}
	if !t.Src.IsValid() || !t.Dst.IsValid() || t.Src.Addr().Unmap().Is4() != t.Dst.Addr().Unmap().Is4() {
		return nil, fmt.Errorf("make autopsy: %v to %v is not a connection", t.Src, t.Dst)
	}
	return a, nil
}

// Run implements env.Worker. A look-up that fails is an Autopsy with Error
// set, not an error.
func (a *autopsy) Run(ctx context.Context, ready func(), out env.Recorder) error {
	ready()
	f := a.job.Failure
	result := &runlog.Autopsy{Traffic: f.Traffic, Node: f.Node, Seq: f.Seq, Tuple: f.Tuple}
	flow, err := lookUp(ctx, a.proto, f.Tuple)
	at := seconds(monotonic() - a.epoch)
	result.Lag = at - a.job.Failed
	switch {
	case errors.Is(err, unix.ENOENT):
	case err != nil:
		result.Error = err.Error()
	default:
		result.Found = true
		if flow.ProtoInfo.TCP != nil {
			result.State = stateName(flow.ProtoInfo.TCP.State)
		}
		result.Assured = flow.Status.Assured()
		result.Replied = flow.Status.SeenReply()
		result.DNAT = flow.Status.DstNAT()
		result.ReplySrc = netip.AddrPortFrom(flow.TupleReply.IP.SourceAddress, flow.TupleReply.Proto.SourcePort)
		result.Timeout = float64(flow.Timeout)
	}
	out.Record(runlog.Record{T: at, Autopsy: result})
	return nil
}

// lookUp asks the kernel for the entry with this original tuple. The error
// wraps ENOENT where there is none. The kernel answers within the call that
// asks it, so there is nothing to interrupt once that has begun.
func lookUp(ctx context.Context, proto uint8, t runlog.Tuple) (ctlib.Flow, error) {
	if err := ctx.Err(); err != nil {
		return ctlib.Flow{}, fmt.Errorf("look up entry: %w", context.Cause(ctx))
	}
	conn, err := ctlib.Dial(nil)
	if err != nil {
		return ctlib.Flow{}, fmt.Errorf("open ctnetlink socket: %w", err)
	}
	defer func() { _ = conn.Close() }() // nothing is buffered in it
	var query ctlib.Flow
	query.TupleOrig.IP.SourceAddress = t.Src.Addr().Unmap()
	query.TupleOrig.IP.DestinationAddress = t.Dst.Addr().Unmap()
	query.TupleOrig.Proto = ctlib.ProtoTuple{Protocol: proto, SourcePort: t.Src.Port(), DestinationPort: t.Dst.Port()}
	flow, err := conn.Get(query)
	if err != nil {
		return ctlib.Flow{}, fmt.Errorf("look up entry: %w", err)
	}
	return flow, nil
}
