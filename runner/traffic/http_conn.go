//go:build linux

package traffic

import (
	"context"
	"errors"
	"io"
	"math"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tablefull/tablefull/report/runlog"
)

// httpAttempt is what is learned of one attempt on its way. net/http may still
// be dialing for it when it is over.
type httpAttempt struct {
	mu       sync.Mutex
	err      error // of RoundTrip, or of reading the body
	conn     *httpConn
	conns    int  // connections it was sent on
	reused   bool // the last of them had been used before
	written  bool // the request went out whole
	dialed   float64
	dialSrc  netip.AddrPort // what it was dialed from, once that is bound
	dialDst  netip.AddrPort
	dialErr  error
	raw      syscall.RawConn // the socket that is being connected
	syns     uint64
	deadline time.Time
	answered bool // it is over, and was OK
}

type httpAttemptKey struct{}

// RoundTrip implements http.RoundTripper.
func (r *httpRun) RoundTrip(req *http.Request) (*http.Response, error) {
	timeout := time.Duration(r.job.Traffic.Timeout)
	a := &httpAttempt{deadline: time.Now().Add(timeout), dialed: math.NaN()}
	if seq, err := strconv.ParseUint(req.Header.Get("X-Vegeta-Seq"), 10, 64); err == nil {
		r.mu.Lock()
		r.attempts[seq] = a
		r.mu.Unlock()
	}
	ctx, cancel := context.WithDeadline(context.WithValue(r.requests, httpAttemptKey{}, a), a.deadline)
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: a.gotConn, WroteRequest: a.wrote})
	resp, err := r.transport.RoundTrip(req.WithContext(ctx))
	if err != nil {
		cancel()
		a.setErr(err)
		return nil, err
	}
	resp.Body = &httpBody{ReadCloser: resp.Body, attempt: a, cancel: cancel}
	return resp, nil
}

func (a *httpAttempt) gotConn(i httptrace.GotConnInfo) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.conns++
	a.conn, _ = i.Conn.(*httpConn)
	a.reused = i.Reused
	a.written = false
}

func (a *httpAttempt) wrote(i httptrace.WroteRequestInfo) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.written = i.Err == nil
}

func (a *httpAttempt) setErr(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.err = err
}

// finish decides how the attempt ended; code is the answer's status.
func (a *httpAttempt) finish(code uint16, d *httpDialer) httpOutcome {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.err != nil && a.conn == nil {
		a.countSYNs()
	}
	o := httpOutcome{src: a.dialSrc, dst: a.dialDst, connected: math.NaN(), conns: a.conns, syns: a.syns}
	if a.conn != nil {
		o.src, o.dst = a.conn.src, a.conn.dst
		if !a.reused && a.conn.attempt == a {
			o.connected = a.dialed
		}
	}
	switch {
	case a.err != nil:
		err := a.err
		if a.conn == nil && a.dialErr != nil {
			err = a.dialErr // net/http may say that it gave up waiting; this is what it waited for
		} else if a.conn != nil && opaque(err) {
			if e := a.conn.failure(); e != nil {
				err = e
			}
		}
		o.classify(err, a.conn != nil)
		if o.phase == "response" && !a.written {
			o.phase = "request"
		}
	case code >= 400:
		o.outcome, o.errno, o.phase = runlog.BadResponse, "HTTP_"+strconv.Itoa(int(code)), "response"
	default:
		o.outcome = runlog.OK
		a.answered = true
		if a.dialErr != nil {
			d.hidden.Add(1)
		}
	}
	if o.outcome != runlog.ConnectTimeout {
		o.syns = 0 // something was heard
	}
	return o
}

// opaque tells of an error of net/http that it hides its cause: the
// connection knows that.
func opaque(err error) bool {
	var timeout interface{ Timeout() bool }
	return errnoName(err) == "" && !closedEarly(err) && !errors.Is(err, context.Canceled) && !(errors.As(err, &timeout) && timeout.Timeout())
}

func closedEarly(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}

// httpBody learns how reading an answer ends.
type httpBody struct {
	io.ReadCloser
	attempt *httpAttempt
	cancel  context.CancelFunc
}

func (b *httpBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && err != io.EOF {
		b.attempt.setErr(err)
	}
	return n, err
}

func (b *httpBody) Close() error {
	err := b.ReadCloser.Close()
	b.cancel()
	return err
}

// httpConn remembers the first error of a connection, because net/http does
// not pass on all of them.
type httpConn struct {
	net.Conn
	attempt  *httpAttempt // it was dialed for
	src, dst netip.AddrPort

	mu  sync.Mutex
	err error
}

func (c *httpConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.note(err)
	return n, err
}

func (c *httpConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.note(err)
	return n, err
}

func (c *httpConn) note(err error) {
	if err == nil || errors.Is(err, net.ErrClosed) { // net/http's own doing
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		c.err = err
	}
}

func (c *httpConn) failure() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// httpDialer connects from the job's source addresses in turn, from a port
// that the kernel chooses for the destination (IP_BIND_ADDRESS_NO_PORT), with
// TCP keep-alive off, since its probes would keep conntrack entries alive.
type httpDialer struct {
	tuples tcpTuples
	now    func() float64
	next   atomic.Uint64
	hidden atomic.Uint64 // connections that failed, whose attempt was answered over another

	ctx    context.Context // ends with the dialer: net/http dials on after its request is over
	cancel context.CancelFunc
	mu     sync.Mutex
	closed bool
	wg     sync.WaitGroup
}

func newHTTPDialer(h *HTTP, now func() float64) *httpDialer {
	d := &httpDialer{tuples: h.tuples, now: now}
	d.ctx, d.cancel = context.WithCancel(context.Background())
	return d
}

// close ends what is still being dialed and waits for it.
func (d *httpDialer) close() {
	d.mu.Lock()
	d.closed = true
	d.mu.Unlock()
	d.cancel()
	d.wg.Wait()
}

// enter counts a dial in, unless the dialer is closed.
func (d *httpDialer) enter() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.closed {
		d.wg.Add(1)
	}
	return !d.closed
}

// dial is an http.Transport's DialContext.
func (d *httpDialer) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	a, _ := ctx.Value(httpAttemptKey{}).(*httpAttempt)
	if a == nil || !d.enter() {
		return nil, net.ErrClosed
	}
	defer d.wg.Done()
	src, dst := d.tuples.at(d.next.Add(1) - 1)
	a.mu.Lock()
	a.dialDst, a.syns = dst, 1
	a.mu.Unlock()
	dial, cancel := context.WithCancel(d.ctx)
	defer cancel()
	// Before the socket is closed it is asked how many SYNs it has sent: by
	// this timer, or by finish if that comes first.
	expired := false // under a.mu
	timer := time.AfterFunc(time.Until(a.deadline), func() {
		a.mu.Lock()
		expired = true
		a.countSYNs()
		a.mu.Unlock()
		cancel()
	})
	defer timer.Stop()
	nd := net.Dialer{KeepAlive: -1, Control: func(_, _ string, c syscall.RawConn) error {
		a.mu.Lock()
		a.raw = c
		a.mu.Unlock()
		return setHTTPOptions(c, src)
	}}
	if !src.Addr().IsUnspecified() {
		nd.LocalAddr = net.TCPAddrFromAddrPort(src)
	}
	c, err := nd.DialContext(dial, "tcp", dst.String())
	a.mu.Lock()
	defer a.mu.Unlock()
	a.raw = nil
	if err != nil {
		if expired && errors.Is(err, context.Canceled) {
			err = os.ErrDeadlineExceeded
		}
		a.dialErr = err
		if a.dialSrc = src; a.answered {
			d.hidden.Add(1)
		}
		return nil, err
	}
	a.dialed = d.now()
	if raw, rerr := c.(syscall.Conn).SyscallConn(); rerr == nil && dst.Addr().Is6() {
		_ = raw.Control(func(fd uintptr) { _ = hearICMP6(int(fd), false) }) // as it was: cannot fail
	}
	conn := &httpConn{Conn: c, attempt: a, dst: dst}
	if l, ok := c.LocalAddr().(*net.TCPAddr); ok {
		conn.src = netip.AddrPortFrom(l.AddrPort().Addr().Unmap(), l.AddrPort().Port())
	}
	a.dialSrc = conn.src
	return conn, nil
}

// countSYNs asks the connecting socket, if there is one, how many SYNs it has
// sent. The caller holds a.mu.
func (a *httpAttempt) countSYNs() {
	if a.raw == nil {
		return
	}
	_ = a.raw.Control(func(fd uintptr) { // fails where the socket is closed by now: it has been counted
		if info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
			a.syns = 1 + uint64(info.Total_retrans)
		}
	})
}

// setHTTPOptions prepares a socket that will be bound to src's address.
func setHTTPOptions(c syscall.RawConn, src netip.AddrPort) error {
	var serr error
	set := func(fd uintptr, level, name int) {
		if serr == nil {
			serr = unix.SetsockoptInt(int(fd), level, name, 1)
		}
	}
	err := c.Control(func(fd uintptr) {
		set(fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT)
		set(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR)
		if src.Addr().Is4() {
			set(fd, unix.IPPROTO_IP, unix.IP_FREEBIND)
		} else {
			set(fd, unix.IPPROTO_IPV6, unix.IPV6_FREEBIND)
			if serr == nil {
				serr = hearICMP6(int(fd), true)
			}
		}
	})
	return errors.Join(err, serr)
}
