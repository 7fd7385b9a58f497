package conntrack

import (
	"context"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tablefull/tablefull/report/runlog"
	"github.com/tablefull/tablefull/runner/env"
	"github.com/tablefull/tablefull/runner/env/envtest"
)

type kept struct{ events []*runlog.Event }

func (k *kept) Record(r runlog.Record) { k.events = append(k.events, r.Event) }

// Entries that are waited for: for so long at least, until none is left, and
// not for ever.
func TestAge(t *testing.T) {
	for name, c := range map[string]struct {
		job          env.AgeJob
		left         func(s float64) uint64
		waited, rest string
	}{
		"nothing to wait for": {env.AgeJob{}, func(float64) uint64 { return 0 }, "0", "0"},
		"leave": {env.AgeJob{After: 1, Within: 60}, func(s float64) uint64 {
			if s < 12.1 {
				return 2300
			}
			return 0
		}, "13", "0"},
		"stay": {env.AgeJob{After: 5, Within: 60}, func(float64) uint64 { return 3 }, "60", "3"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, err := NewAge(env.Job{ID: "age/a", Age: &c.job})
				require.NoError(t, err)
				began := time.Now()
				w.(*age).left = func(context.Context) (uint64, error) { return c.left(time.Since(began).Seconds()), nil }
				var out kept
				require.NoError(t, w.Run(t.Context(), func() {}, &out))
				require.Len(t, out.events, 1)
				assert.Equal(t, c.waited, out.events[0].Fields["waited_s"])
				assert.Equal(t, c.rest, out.events[0].Fields["left"])
			})
		})
	}
	_, err := NewAge(env.Job{ID: "age/a", Age: &env.AgeJob{After: 3, Within: 2}})
	require.Error(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	w, err := NewAge(env.Job{ID: "age/a", Age: &env.AgeJob{After: 3, Within: 5}})
	require.NoError(t, err)
	require.ErrorIs(t, w.Run(ctx, func() {}, &kept{}), context.Canceled)
}

// Entries are told by whom they are to: the service, or the pod it led to.
func TestAgeSeesItsEntries(t *testing.T) {
	if !envtest.Namespace(t) {
		return
	}
	vip, backend := service(t)
	_ = connect(t, vip)
	_ = connect(t, vip)
	_ = connect(t, backend)
	for to, want := range map[netip.AddrPort]uint64{vip: 2, backend: 3, netip.MustParseAddrPort("10.96.7.1:8080"): 0} {
		a := &age{job: env.AgeJob{To: []netip.AddrPort{to}}}
		n, err := a.list(t.Context())
		require.NoError(t, err)
		assert.Equal(t, want, n, to)
	}
}
