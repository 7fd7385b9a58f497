package conntrack

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// client is a ctnetlink socket of the calling thread's network namespace. The
// netlink package opens it and waits on it; sending and receiving is done on
// its file descriptor, because Conn.Receive collects a whole dump before it
// returns, and Conn.SendMessages builds each message anew.
//
// A client is for one goroutine at a time.
type client struct {
	conn *netlink.Conn
	raw  syscall.RawConn
	seq  uint32
	in   []byte
}

// receiveSize holds the largest piece of a dump: the kernel caps it at 32 KiB.
// A larger buffer is no faster.
const receiveSize = 64 << 10

func dial() (*client, error) {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return nil, fmt.Errorf("open ctnetlink socket: %w", err)
	}
	c := &client{conn: conn, in: make([]byte, receiveSize)}
	// Errors need not repeat the message they are about: a batch's fit into
	// the socket's buffer then.
	if err := conn.SetOption(netlink.CapAcknowledge, true); err != nil {
		c.close()
		return nil, fmt.Errorf("set up ctnetlink socket: %w", err)
	}
	// Room for the errors of a whole batch: they are dropped where they do
	// not fit. Without privilege this gets twice net.core.rmem_max.
	if err := conn.SetReadBuffer(1 << 20); err != nil {
		c.close()
		return nil, fmt.Errorf("set up ctnetlink socket: %w", err)
	}
	if c.raw, err = conn.SyscallConn(); err != nil {
		c.close()
		return nil, fmt.Errorf("set up ctnetlink socket: %w", err)
	}
	return c, nil
}

func (c *client) close() { _ = c.conn.Close() } // nothing is buffered in it

// interruptible makes a wait on the socket end when ctx does. The returned
// function puts things back and must be called.
func (c *client) interruptible(ctx context.Context) (restore func()) {
	done := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(done)
		_ = c.conn.SetDeadline(time.Unix(1, 0))
	})
	return func() {
		if !stop() {
			<-done
		}
		_ = c.conn.SetDeadline(time.Time{})
	}
}

// send hands the kernel a batch of whole messages. The kernel has worked on
// all of them when it returns.
func (c *client) send(ctx context.Context, batch []byte) error {
	var serr error
	err := c.raw.Write(func(fd uintptr) bool {
		serr = unix.Sendto(int(fd), batch, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
		return !errors.Is(serr, unix.EAGAIN) && !errors.Is(serr, unix.EINTR)
	})
	return wrapSocket(ctx, "send to ctnetlink", err, serr)
}

// receive waits for messages from the kernel, at least one. They are valid
// until the next receive.
func (c *client) receive(ctx context.Context) ([]byte, error) {
	for {
		var n int
		var from unix.Sockaddr
		var rerr error
		err := c.raw.Read(func(fd uintptr) bool {
			for {
				// MSG_TRUNC: n is the true length, even beyond the buffer.
				n, from, rerr = unix.Recvfrom(int(fd), c.in, unix.MSG_TRUNC)
				if !errors.Is(rerr, unix.EINTR) {
					return !errors.Is(rerr, unix.EAGAIN)
				}
			}
		})
		if err := wrapSocket(ctx, "receive from ctnetlink", err, rerr); err != nil {
			return nil, err
		}
		if n > len(c.in) {
			return nil, fmt.Errorf("receive from ctnetlink: %d bytes, the buffer has %d", n, len(c.in))
		}
		if sa, ok := from.(*unix.SockaddrNetlink); ok && sa.Pid != 0 {
			continue // not from the kernel
		}
		return c.in[:n], nil
	}
}

func wrapSocket(ctx context.Context, what string, poll, call error) error {
	err := call
	if poll != nil {
		err = poll
		if errors.Is(poll, os.ErrDeadlineExceeded) && ctx.Err() != nil {
			err = context.Cause(ctx)
		}
	}
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}

// exchange sends a batch of messages numbered first, first+1, ... of which
// only the last, numbered last, asks for an acknowledgement, and calls failed
// for each message that the kernel refused. It returns when the last one has
// been answered.
func (c *client) exchange(ctx context.Context, batch []byte, last uint32, failed func(seq uint32, errno syscall.Errno)) error {
	defer c.interruptible(ctx)()
	if err := c.send(ctx, batch); err != nil {
		return err
	}
	for {
		in, err := c.receive(ctx)
		if err != nil {
			return err
		}
		for len(in) > 0 {
			var m message
			if m, in, err = nextMessage(in); err != nil {
				return err
			}
			if m.typ != nlmsgError {
				continue
			}
			errno, err := errorCode(m.body)
			if err != nil {
				return err
			}
			if errno != 0 {
				failed(m.seq, errno)
			}
			if m.seq == last {
				return nil
			}
		}
	}
}

// dump asks for the entries that pass a filter and calls fn with the body of
// each one's message while they stream in. fn must not keep the body. An error
// means that fn has not seen them all. After one, a client is of no use for
// another dump.
func (c *client) dump(ctx context.Context, only markFilter, fn func(body []byte) error) error {
	defer c.interruptible(ctx)()
	c.seq++
	seq := c.seq
	req := appendHeader(nil, ctGet, nlmRequest|nlmDump, seq, afUnspec)
	if only.mask != 0 {
		req = only.append(req)
	}
	if err := c.send(ctx, endMessage(req, 0)); err != nil {
		return err
	}
	for {
		in, err := c.receive(ctx)
		if err != nil {
			return err
		}
		done, err := dumpPart(in, seq, fn)
		if done || err != nil {
			return err
		}
	}
}

// markFilter makes the kernel work on entries with connmark & mask == mark
// only. The zero value lets all pass.
type markFilter struct{ mark, mask uint32 }

func (f markFilter) append(buf []byte) []byte {
	buf = appendAttr(buf, ctaMark, be32(f.mark)...)
	return appendAttr(buf, ctaMarkMask, be32(f.mask)...)
}

// command sends one message that has no answer but success or failure.
func (c *client) command(ctx context.Context, typ, flags uint16, family uint8, attrs func([]byte) []byte) error {
	c.seq++
	buf := appendHeader(nil, typ, nlmRequest|nlmAck|flags, c.seq, family)
	if attrs != nil {
		buf = attrs(buf)
	}
	var refused error
	err := c.exchange(ctx, endMessage(buf, 0), c.seq, func(seq uint32, errno syscall.Errno) {
		if seq == c.seq { // not the late answer to a message that was given up
			refused = errno
		}
	})
	if err != nil {
		return err
	}
	return refused
}

// Flush deletes every entry of this network namespace's table, ballast
// included: a running ballast job puts its own back within a third of its
// Timeout. It needs CAP_NET_ADMIN.
func Flush(ctx context.Context) error {
	c, err := dial()
	if err != nil {
		return err
	}
	defer c.close()
	if err := c.command(ctx, ctDelete, 0, afUnspec, nil); err != nil {
		return fmt.Errorf("flush table: %w", err)
	}
	return nil
}
