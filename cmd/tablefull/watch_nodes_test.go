package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tablefull/tablefull/report/runlog"
	"github.com/tablefull/tablefull/report/watch"
	"github.com/tablefull/tablefull/runner/env"
)

// farNode is a sampler that says how many entries there are, every second; from
// some time on it is silent, or gone.
type farNode struct {
	env.Host
	name          string
	entries       uint64
	silent, lives time.Duration // 0: never, for ever
	began         time.Time
	epoch         int64
}

const ahead = 1e12 // of its clock, ns

func (n *farNode) Name() string { return n.name }

func (n *farNode) Facts(context.Context) (env.Capabilities, error) {
	return env.Capabilities{Buckets: 7}, nil
}

func (n *farNode) Clock(context.Context) (int64, error) {
	return time.Since(n.began).Nanoseconds() + ahead, nil
}

func (n *farNode) Start(_ context.Context, j env.Job) error {
	n.epoch = j.Epoch
	return nil
}

func (n *farNode) Records(ctx context.Context, _ uint64, fn func(runlog.Record) error) error {
	for {
		now, _ := n.Clock(ctx)
		if n.silent == 0 || time.Since(n.began) < n.silent {
			r := runlog.Record{T: float64(now-n.epoch) / 1e9, Sample: &runlog.Sample{Conntrack: &runlog.Conntrack{Entries: n.entries, Limit: 1000}}}
			if err := fn(r); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Second):
		}
		if n.lives > 0 && time.Since(n.began) > n.lives {
			return errors.New(n.name + ": its pod has been deleted")
		}
	}
}

// watchFar watches nodes for 20 s and returns the last table of each.
func watchFar(t *testing.T, nodes ...*farNode) (last map[string]watch.Table, said string, err error) {
	t.Helper()
	last = map[string]watch.Table{}
	synctest.Test(t, func(t *testing.T) {
		var out, errOut bytes.Buffer
		var hosts []env.Host
		for _, n := range nodes {
			n.began = time.Now()
			hosts = append(hosts, n)
		}
		x := newNodesWatcher(watchFlags{json: true, interval: time.Second, length: 20 * time.Second}, Streams{Out: &out, Err: &errOut}, "there", hosts)
		err = x.run(t.Context())
		said = errOut.String()
		for line := range bytes.Lines(out.Bytes()) {
			var w watch.Table
			require.NoError(t, json.Unmarshal(line, &w))
			last[w.Node] = w
		}
	})
	return last, said, err
}

func TestWatchNodes(t *testing.T) {
	last, said, err := watchFar(t, &farNode{name: "a", entries: 10}, &farNode{name: "b", entries: 20})
	require.NoError(t, err)
	assert.Empty(t, said)
	for name, entries := range map[string]uint64{"a": 10, "b": 20} {
		assert.Equal(t, entries, last[name].Entries)
		assert.InDelta(t, 20, last[name].At, 1.5, "on the watch's own clock, not the node's")
		assert.Equal(t, watch.Steady, last[name].Full.When)
		assert.Equal(t, uint64(7), last[name].Buckets)
	}
}

// A node that is not seen is named; the others go on.
func TestWatchLosesANode(t *testing.T) {
	last, said, err := watchFar(t, &farNode{name: "a", silent: 5 * time.Second}, &farNode{name: "b", lives: 5 * time.Second}, &farNode{name: "c"})
	assert.ErrorContains(t, err, "not watched to the end: b: its pod has been deleted")
	assert.Equal(t, exitError, exitCode(err))
	assert.Contains(t, said, "nothing is heard of a at the moment")
	assert.Contains(t, said, "not watched any more: b: its pod has been deleted")
	assert.NotContains(t, said, "heard of b")
	assert.InDelta(t, 20, last["c"].At, 1.5)
	assert.Less(t, last["b"].At, 7.0)

	_, _, err = watchFar(t, &farNode{name: "a", lives: 5 * time.Second})
	assert.ErrorContains(t, err, "a: its pod has been deleted", "it does not wait where nobody is left")
}
