package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/transport/spdy"
	"k8s.io/streaming/pkg/httpstream"
)

// forwarder opens connections to one port of a pod through the API server, as
// kubectl port-forward does, but without a listener on this machine. All of
// them are streams of one connection to the API server, which is made anew
// when it has broken.
type forwarder struct {
	dialer httpstream.Dialer
	port   int

	mu   sync.Mutex
	conn httpstream.Connection // nil while there is none
	next int                   // number of a request on conn
}

func newForwarder(config *rest.Config, client kubernetes.Interface, namespace, pod string, port int) (*forwarder, error) {
	url := client.CoreV1().RESTClient().Post().Resource("pods").Namespace(namespace).Name(pod).SubResource("portforward").URL()
	transport, upgrader, err := spdy.RoundTripperFor(config)
	if err != nil {
		return nil, fmt.Errorf("prepare port-forward: %w", err)
	}
	overSPDY := spdy.NewDialerForStreaming(upgrader, &http.Client{Transport: transport}, http.MethodPost, url)
	overWebSocket, err := portforward.NewSPDYOverWebsocketDialerForStreaming(url, config)
	if err != nil {
		return nil, fmt.Errorf("prepare port-forward: %w", err)
	}
	// As kubectl decides it: API servers before 1.30 know no web sockets here.
	dialer := portforward.NewFallbackDialerForStreaming(overWebSocket, overSPDY, func(err error) bool {
		return httpstream.IsUpgradeFailure(err) || httpstream.IsHTTPSProxyError(err)
	})
	return &forwarder{dialer: dialer, port: port}, nil
}

// Dial opens a connection. Making one to the API server cannot be interrupted:
// it goes on in the background where ctx ends before.
func (f *forwarder) Dial(ctx context.Context) (net.Conn, error) {
	type result struct {
		conn net.Conn
		err  error
	}
	done := make(chan result, 1)
	go func() {
		conn, err := f.open()
		done <- result{conn, err}
	}()
	select {
	case r := <-done:
		return r.conn, r.err
	case <-ctx.Done():
		go func() {
			if r := <-done; r.conn != nil {
				_ = r.conn.Close()
			}
		}()
		return nil, context.Cause(ctx)
	}
}

const (
	// streamWithin is how long a new stream may take until the other side has
	// taken it. Most take milliseconds.
	streamWithin = 10 * time.Second
	// openTries is how often a stream is asked for, each time on a connection of its
	// own: until it is there nothing has been sent, so nothing can be done twice.
	openTries = 3
)

func (f *forwarder) open() (net.Conn, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for try := 1; ; try++ {
		conn, err := f.openOnce()
		if conn != nil || try == openTries || !errors.Is(err, errNoStream) {
			return conn, err
		}
	}
}

// openOnce returns an errNoStream where there is a connection to the API server, and
// no stream of it.
func (f *forwarder) openOnce() (net.Conn, error) {
	if f.conn != nil {
		select {
		case <-f.conn.CloseChan():
			f.conn = nil
		default:
		}
	}
	if f.conn == nil {
		conn, protocol, err := f.dialer.Dial(portforward.PortForwardProtocolV1Name)
		if err != nil {
			return nil, fmt.Errorf("port-forward: %w", err)
		}
		if protocol != portforward.PortForwardProtocolV1Name {
			return nil, errors.Join(fmt.Errorf("port-forward: the API server speaks %q", protocol), conn.Close())
		}
		f.conn = conn
	}
	f.next++
	s, err := openStreams(f.conn, f.port, f.next)
	if err != nil {
		// Whatever it is, the next one begins anew.
		err = errors.Join(fmt.Errorf("port-forward: %w: %w", errNoStream, err), f.conn.Close())
		f.conn = nil
		return nil, err
	}
	return s, nil
}

// Close ends all connections.
func (f *forwarder) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.conn == nil {
		return nil
	}
	err := f.conn.Close()
	f.conn = nil
	return err
}

// openStreams opens the two streams that are one forwarded connection: one for
// data, and one for what the kubelet has to say about it.
func openStreams(conn httpstream.Connection, port, id int) (*stream, error) {
	h := http.Header{}
	h.Set(corev1.StreamType, corev1.StreamTypeError)
	h.Set(corev1.PortHeader, strconv.Itoa(port))
	h.Set(corev1.PortForwardRequestIDHeader, strconv.Itoa(id))
	failure, err := createStream(conn, h)
	if err != nil {
		return nil, err
	}
	_ = failure.Close() // for writing: nothing is sent on it
	h.Set(corev1.StreamType, corev1.StreamTypeData)
	data, err := createStream(conn, h)
	if err != nil {
		conn.RemoveStreams(failure)
		return nil, err
	}
	s := &stream{Stream: data, conn: conn, failure: failure, said: make(chan struct{})}
	go func() {
		defer close(s.said)
		text, err := io.ReadAll(failure)
		switch {
		case len(text) > 0:
			s.err = fmt.Errorf("port-forward: %s", text)
		case err != nil:
			s.err = fmt.Errorf("port-forward: %w", err)
		}
		if s.err != nil {
			_ = data.Reset() // nobody else would end reading
			// The kubelet ends all of a connection where one port could not be
			// reached, a moment later: the next stream had better not be on it.
			_ = conn.Close()
		}
	}()
	return s, nil
}

var (
	errNoStream        = errors.New("open stream")
	errConnectionEnded = errors.New("the connection to the API server ended")
	errUnanswered      = fmt.Errorf("nobody has taken it within %s", streamWithin)
)

// createStream opens a stream. The library waits half a minute for an answer, also
// where the connection has ended meanwhile; nobody here does, and what still waits
// then ends by itself.
func createStream(conn httpstream.Connection, h http.Header) (httpstream.Stream, error) {
	type result struct {
		stream httpstream.Stream
		err    error
	}
	done := make(chan result, 1)
	h = h.Clone()
	go func() {
		s, err := conn.CreateStream(h)
		done <- result{s, err}
	}()
	select {
	case r := <-done:
		return r.stream, r.err
	case <-conn.CloseChan():
		return nil, errConnectionEnded
	case <-time.After(streamWithin):
		return nil, errUnanswered
	}
}

// A stream is one forwarded connection.
type stream struct {
	httpstream.Stream
	conn    httpstream.Connection
	failure httpstream.Stream
	said    chan struct{} // closed once failure has ended
	err     error         // what it said; valid after said
	once    sync.Once
}

var _ net.Conn = (*stream)(nil)

// Read is part of net.Conn. A failure that the kubelet told is its error.
func (s *stream) Read(b []byte) (int, error) {
	n, err := s.Stream.Read(b)
	if err != nil {
		select {
		case <-s.said:
			if s.err != nil {
				err = s.err
			}
		default:
		}
	}
	return n, err
}

// Close is part of net.Conn.
func (s *stream) Close() error {
	s.once.Do(func() {
		_ = s.Reset() // the other side ends, too
		_ = s.failure.Reset()
		s.conn.RemoveStreams(s.Stream, s.failure)
	})
	return nil
}

// What follows is for net.Conn. The deadlines are those of an HTTP client that
// sets none.

func (*stream) LocalAddr() net.Addr              { return addr("tablefull") }
func (*stream) RemoteAddr() net.Addr             { return addr("pod") }
func (*stream) SetDeadline(time.Time) error      { return nil }
func (*stream) SetReadDeadline(time.Time) error  { return nil }
func (*stream) SetWriteDeadline(time.Time) error { return nil }

type addr string

func (addr) Network() string  { return "port-forward" }
func (a addr) String() string { return string(a) }
