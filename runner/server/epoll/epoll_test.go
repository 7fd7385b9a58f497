//go:build linux

package epoll

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newPoller(t *testing.T, fallback bool) *Poller {
	t.Helper()
	p, err := New(4)
	require.NoError(t, err)
	p.noPwait2 = fallback
	t.Cleanup(func() { require.NoError(t, p.Close()) })
	return p
}

// Both ways to wait behave alike.
func TestWait(t *testing.T) {
	for name, fallback := range map[string]bool{"epoll_pwait2": false, "epoll_wait": true} {
		t.Run(name, func(t *testing.T) {
			p := newPoller(t, fallback)
			pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
			require.NoError(t, err)
			require.NoError(t, p.Add(pair[0], 7, In))

			began := time.Now()
			events, err := p.Wait(3 * time.Millisecond)
			require.NoError(t, err)
			assert.Empty(t, events)
			assert.GreaterOrEqual(t, time.Since(began), 3*time.Millisecond)

			_, err = unix.Write(pair[1], []byte("x"))
			require.NoError(t, err)
			events, err = p.Wait(-1)
			require.NoError(t, err)
			assert.Equal(t, []Event{{FD: pair[0], Gen: 7, Events: unix.EPOLLIN}}, events)
			events, err = p.Wait(0)
			require.NoError(t, err)
			assert.Empty(t, events, "edge-triggered: told once")

			require.NoError(t, unix.Close(pair[1]))
			events, err = p.Wait(-1)
			require.NoError(t, err)
			require.Len(t, events, 1)
			assert.NotZero(t, events[0].Events&Gone)
			require.NoError(t, unix.Close(pair[0]))
			assert.Error(t, p.Add(pair[0], 1, In), "closed")
		})
	}
}

func TestWake(t *testing.T) {
	p := newPoller(t, false)
	p.Wake() // before: the next Wait returns
	events, err := p.Wait(-1)
	require.NoError(t, err)
	assert.Empty(t, events)

	ctx, cancel := context.WithCancel(t.Context())
	release := p.WakeOn(ctx)
	go cancel()
	events, err = p.Wait(-1)
	require.NoError(t, err)
	assert.Empty(t, events)
	release()

	release = p.WakeOn(t.Context())
	release() // without ever having woken
}
