//go:build linux

package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	tc "github.com/ti-mo/conntrack"
	"golang.org/x/sys/unix"

	"github.com/tablefull/tablefull/report/runlog"
	"github.com/tablefull/tablefull/runner/agent"
	"github.com/tablefull/tablefull/runner/env"
	"github.com/tablefull/tablefull/runner/proxy"
	"github.com/tablefull/tablefull/runner/server"
	"github.com/tablefull/tablefull/runner/sysctl"
	"github.com/tablefull/tablefull/runner/traffic"
)

// testWorker makes small workers out of ordinary jobs, so that the lab can be
// tested without the real ones. Their answers are Event records.
func testWorker(j env.Job) (env.Worker, error) {
	switch {
	case j.Proxy != nil:
		return proxy.New(j)
	case j.Serve != nil && j.Serve.Server.Behaviour == "gone":
		return server.New(j)
	case j.Serve != nil && j.Serve.Lifecycle.OnSIGTERM != "":
		return server.New(j) // a pod with a life has the real server
	case j.Serve != nil:
		return echoServer{*j.Serve}, nil
	case j.Load != nil && j.Load.Traffic.ShortLived != nil:
		return traffic.New(j)
	case j.Load != nil:
		return dialer{*j.Load}, nil
	case j.Census != nil:
		return tableLister{}, nil
	case j.Autopsy != nil:
		return marker{j.Autopsy.Failure.Traffic}, nil
	case j.Sample != nil:
		return counterReader{}, nil
	case j.Ballast != nil || j.Flush != nil || j.Sysctl != nil || j.Lock != nil:
		return agent.New(j)
	}
	return nil, errors.New("no such test job")
}

// echoServer answers every connection and every datagram with its name and
// who asked.
type echoServer struct{ job env.ServeJob }

func (s echoServer) Run(ctx context.Context, ready func(), _ env.Recorder) error {
	var lc net.ListenConfig
	if s.job.Protocol == "udp" {
		c, err := lc.ListenPacket(ctx, "udp", s.job.Addr.String())
		if err != nil {
			return err
		}
		stop := context.AfterFunc(ctx, func() { c.Close() })
		defer stop()
		ready()
		buf := make([]byte, 2048)
		for {
			_, from, err := c.ReadFrom(buf)
			if err != nil {
				return endOf(ctx, err)
			}
			_, _ = fmt.Fprintf(udpTo{c, from}, "%s %s\n", s.job.Backend, from)
		}
	}
	var listeners []net.Listener
	for i := range s.job.Ports {
		addr := netip.AddrPortFrom(s.job.Addr.Addr(), s.job.Addr.Port()+uint16(i))
		l, err := lc.Listen(ctx, "tcp", addr.String())
		if err != nil {
			return err
		}
		listeners = append(listeners, l)
	}
	stop := context.AfterFunc(ctx, func() {
		for _, l := range listeners {
			l.Close()
		}
	})
	defer stop()
	ready()
	var wg sync.WaitGroup
	for _, l := range listeners {
		wg.Go(func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				_, _ = fmt.Fprintf(c, "%s %s\n", s.job.Backend, c.RemoteAddr())
				c.Close()
			}
		})
	}
	wg.Wait()
	return nil
}

type udpTo struct {
	c  net.PacketConn
	to net.Addr
}

func (u udpTo) Write(b []byte) (int, error) { return u.c.WriteTo(b, u.to) }

func endOf(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// dialer makes SourceCount connections to Target, each from the next source
// address (or from any, where Sources is not set), and records what
// came back. Traffic.To names the protocol; with Seed pretend the source
// addresses need not be the host's.
const pretend = 1

type dialer struct{ job env.LoadJob }

func (d dialer) Run(ctx context.Context, ready func(), out env.Recorder) error {
	ready()
	src := d.job.Sources.Addr()
	for i := range d.job.SourceCount {
		nd := net.Dialer{Timeout: 700 * time.Millisecond, Control: wantErrors}
		if d.job.Seed == pretend {
			nd.Control = transparent
		}
		if d.job.Sources.IsValid() {
			src = src.Next()
			nd.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(src, 0))
			if d.job.Traffic.To == "udp" {
				nd.LocalAddr = net.UDPAddrFromAddrPort(netip.AddrPortFrom(src, 0))
			}
		}
		target := netip.AddrPortFrom(d.job.Target.Addr(), d.job.Target.Port()+uint16(i%max(d.job.Ports, 1)))
		answer, err := ask(ctx, nd, d.job.Traffic.To, target)
		e := &runlog.Event{Kind: "answer", Name: strings.TrimSpace(answer)}
		if err != nil {
			e.Kind, e.Detail = "error", err.Error()
			var errno unix.Errno
			if errors.As(err, &errno) {
				e.Name = unix.ErrnoName(errno)
			}
		}
		out.Record(runlog.Record{Event: e})
	}
	return nil
}

// wantErrors has ICMPv6 errors reported even if they arrive while connect is
// still at work, which in a lab they do: node and client share a CPU. For IPv4
// the kernel does so unasked.
func wantErrors(network, _ string, c syscall.RawConn) error {
	if !strings.HasSuffix(network, "6") {
		return nil
	}
	var err error
	cerr := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_IPV6, unix.IPV6_RECVERR, 1) })
	return errors.Join(cerr, err)
}

// transparent lets a socket have any source address.
func transparent(network, _ string, c syscall.RawConn) error {
	var err error
	cerr := c.Control(func(fd uintptr) {
		if strings.HasSuffix(network, "6") {
			err = unix.SetsockoptInt(int(fd), unix.SOL_IPV6, unix.IPV6_TRANSPARENT, 1)
			return
		}
		err = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_TRANSPARENT, 1)
	})
	return errors.Join(cerr, err)
}

func ask(ctx context.Context, nd net.Dialer, network string, target netip.AddrPort) (string, error) {
	transport, question := network, ""
	switch network {
	case "udp":
		question = "?"
	case "health": // HTTP, whose answer is recorded as it comes
		transport, question = "tcp", "GET / HTTP/1.0\r\n\r\n"
	}
	c, err := nd.DialContext(ctx, transport, target.String())
	if err != nil {
		return "", err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(time.Second)); err != nil {
		return "", err
	}
	if _, err := io.WriteString(c, question); err != nil {
		return "", err
	}
	if network == "udp" {
		buf := make([]byte, 2048)
		n, err := c.Read(buf)
		return string(buf[:n]), err
	}
	b, err := io.ReadAll(c)
	return string(b), err
}

// tableLister records each entry of this host's table.
type tableLister struct{}

func (tableLister) Run(_ context.Context, ready func(), out env.Recorder) error {
	ready()
	c, err := tc.Dial(nil)
	if err != nil {
		return err
	}
	defer c.Close()
	flows, err := c.Dump(nil)
	if err != nil {
		return err
	}
	for _, f := range flows {
		out.Record(runlog.Record{Event: &runlog.Event{Kind: "entry", Fields: map[string]string{
			"src":       f.TupleOrig.IP.SourceAddress.String(),
			"dst":       f.TupleOrig.IP.DestinationAddress.String(),
			"dport":     strconv.Itoa(int(f.TupleOrig.Proto.DestinationPort)),
			"reply_src": f.TupleReply.IP.SourceAddress.String(),
			"reply_dst": f.TupleReply.IP.DestinationAddress.String(),
			"state":     tcpState(f),
		}}})
	}
	return nil
}

func tcpState(f tc.Flow) string {
	if f.ProtoInfo.TCP == nil {
		return ""
	}
	return strconv.Itoa(int(f.ProtoInfo.TCP.State))
}

// marker records one event, to tell where a job's records end.
type marker struct{ name string }

func (m marker) Run(_ context.Context, ready func(), out env.Recorder) error {
	out.Record(runlog.Record{Event: &runlog.Event{Kind: "marker", Name: m.name}})
	ready()
	return nil
}

// counterReader records this host's settings and counters.
type counterReader struct{}

func (counterReader) Run(_ context.Context, ready func(), out env.Recorder) error {
	ready()
	fields := map[string]string{}
	for _, name := range []string{
		"net/ipv4/ip_forward", "net/ipv4/tcp_tw_reuse", "net/ipv4/tcp_syncookies", "net/core/somaxconn", "net/ipv4/ip_local_port_range",
		"net/netfilter/nf_conntrack_tcp_timeout_time_wait",
	} {
		v, err := sysctl.Read(name)
		if err == nil {
			fields[name] = v
		}
	}
	var files unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &files); err != nil {
		return err
	}
	fields["files"] = fmt.Sprint(files.Cur == files.Max)
	out.Record(runlog.Record{Event: &runlog.Event{Kind: "settings", Fields: fields}})
	return nil
}
