package cluster

import (
	"io"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/streaming/pkg/httpstream"
)

// fakeAPI takes connections, of which the first ones take no streams.
type fakeAPI struct {
	deaf  int
	conns []*fakeConn
}

func (a *fakeAPI) Dial(...string) (httpstream.Connection, string, error) {
	c := &fakeConn{deaf: len(a.conns) < a.deaf, closed: make(chan bool)}
	a.conns = append(a.conns, c)
	return c, portforward.PortForwardProtocolV1Name, nil
}

type fakeConn struct {
	deaf   bool
	closed chan bool
	once   sync.Once
}

func (c *fakeConn) CreateStream(h http.Header) (httpstream.Stream, error) {
	if c.deaf {
		<-c.closed
		return nil, io.EOF
	}
	return &fakeStream{headers: h, closed: c.closed}, nil
}
func (c *fakeConn) Close() error                       { c.once.Do(func() { close(c.closed) }); return nil }
func (c *fakeConn) CloseChan() <-chan bool             { return c.closed }
func (c *fakeConn) SetIdleTimeout(time.Duration)       {}
func (c *fakeConn) RemoveStreams(...httpstream.Stream) {}

type fakeStream struct {
	headers http.Header
	closed  chan bool
}

func (s *fakeStream) Read([]byte) (int, error)    { <-s.closed; return 0, io.EOF }
func (s *fakeStream) Write(b []byte) (int, error) { return len(b), nil }
func (s *fakeStream) Close() error                { return nil }
func (s *fakeStream) Reset() error                { return nil }
func (s *fakeStream) Headers() http.Header        { return s.headers }
func (s *fakeStream) Identifier() uint32          { return 0 }

// A stream that nobody takes is asked for on another connection, some times.
func TestForwardAsksAgain(t *testing.T) {
	for deaf, good := range map[int]bool{0: true, 1: true, 2: true, 3: false} {
		synctest.Test(t, func(t *testing.T) {
			api, began := &fakeAPI{deaf: deaf}, time.Now()
			f := &forwarder{dialer: api, port: 1}
			conn, err := f.Dial(t.Context())
			assert.Equal(t, time.Duration(deaf)*streamWithin, time.Since(began))
			if good {
				require.NoError(t, err)
				require.NotNil(t, conn)
				assert.Len(t, api.conns, deaf+1)
			} else {
				require.ErrorIs(t, err, errUnanswered)
				require.ErrorContains(t, err, "port-forward: open stream: nobody has taken it within 10s")
				assert.Nil(t, conn)
			}
			require.NoError(t, f.Close())
			for i, c := range api.conns {
				select {
				case <-c.closed:
				default:
					assert.Fail(t, "left open", "connection %d", i)
				}
			}
		})
	}
}
