package conntrack

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"testing"
	"time"

	ctlib "github.com/ti-mo/conntrack"
	"golang.org/x/sys/unix"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tablefull/tablefull/runner/env"
	"github.com/tablefull/tablefull/runner/env/envtest"
)

// job is a worker that a test runs.
type job struct {
	*recorder
	stop func() error // ends the worker and returns its error
}

// start runs a worker and returns when it is ready. It fails the test where
// the worker ends before that.
func start(t testing.TB, w env.Worker, err error) job {
	t.Helper()
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	rec, ready, done := &recorder{}, make(chan struct{}), make(chan error, 1)
	go func() { done <- w.Run(ctx, func() { close(ready) }, rec) }()
	select {
	case <-ready:
	case err := <-done:
		cancel()
		require.NoError(t, err, "the worker ended before it was ready")
		t.Fatal("the worker ended before it was ready")
	}
	var stopped bool
	stop := func() error {
		if stopped {
			return nil
		}
		stopped = true
		cancel()
		return <-done
	}
	t.Cleanup(func() { _ = stop() })
	return job{rec, stop}
}

func newBallast(headroom uint64, timeout float64, v6 bool) (env.Worker, error) {
	return NewBallast(env.Job{ID: "ballast", Epoch: monotonic(), Ballast: &env.BallastJob{Headroom: headroom, Timeout: timeout, IPv6: v6}})
}

func facts(t testing.TB) Facts {
	t.Helper()
	f, err := ReadFacts()
	require.NoError(t, err)
	return f
}

// ours walks the table and returns how many entries are ballast and how many
// are not.
func ours(t testing.TB) (ballast, others uint64) {
	t.Helper()
	c, err := walk(t.Context(), newTally(0), 0, false)
	require.NoError(t, err)
	return c.Ballast, c.Entries - c.Ballast
}

// insertFlows puts entries number from up to to into the table that are not
// ballast.
func insertFlows(t testing.TB, from, to int, timeout uint32) {
	t.Helper()
	require.NoError(t, createFlows(ctlib.StatusConfirmed, from, to, timeout))
}

// insertAssured puts in entries that stay: the kernel's collector takes others
// out of every table that is over 95 % full, for a while after any table of the
// machine was full.
func insertAssured(t testing.TB, from, to int, timeout uint32) {
	t.Helper()
	require.NoError(t, createFlows(assured, from, to, timeout))
}

const assured = ctlib.StatusConfirmed | ctlib.StatusSeenReply | ctlib.StatusAssured

func createFlows(status ctlib.Status, from, to int, timeout uint32) error {
	conn, err := ctlib.Dial(nil)
	if err != nil {
		return err
	}
	for i := from; i < to && err == nil; i++ {
		err = conn.Create(ctlib.NewFlow(protoUDP, status, netip.AddrFrom4([4]byte{10, 9, byte(i >> 8), byte(i)}),
			netip.MustParseAddr("10.8.0.1"), 1000, 53, timeout, 0))
	}
	return errors.Join(err, conn.Close())
}

func TestBallastLeavesExactlyTheHeadroom(t *testing.T) {
	t.Parallel()
	if !envtest.Namespace(t) {
		return
	}
	for _, v6 := range []bool{false, true} {
		insertAssured(t, 0, 123, 600)
		w, err := newBallast(3000, 60, v6)
		b := start(t, w, err)
		f := facts(t)
		assert.Equal(t, uint64(3000), f.Limit-f.Entries)
		set := b.last("set")
		assert.Equal(t, "3000", set["headroom"])
		assert.Equal(t, number(f.Limit-3000-123), set["inserted"])
		ballast, others := ours(t)
		assert.Equal(t, f.Limit-3000-123, ballast)
		assert.Equal(t, uint64(123), others)

		require.NoError(t, b.stop())
		removed := b.last("removed")
		assert.Equal(t, set["inserted"], removed["ballast"])
		assert.Equal(t, number(f.Limit-3000), removed["entries_before"])
		assert.Equal(t, "123", removed["entries_after"])
		ballast, others = ours(t)
		assert.Zero(t, ballast)
		assert.Equal(t, uint64(123), others, "entries of others must survive")
		require.NoError(t, Flush(t.Context()))
		assert.Zero(t, facts(t).Entries)
	}
}

func TestBallastIsAssuredAndEstablished(t *testing.T) {
	if !envtest.Namespace(t) {
		return
	}
	limit := facts(t).Limit
	w, err := newBallast(limit-10, 60, false)
	b := start(t, w, err)
	conn, err := ctlib.Dial(nil)
	require.NoError(t, err)
	defer func() { require.NoError(t, conn.Close()) }()
	flows, err := conn.Dump(nil)
	require.NoError(t, err)
	require.Len(t, flows, 10)
	within := netip.MustParsePrefix("100.64.0.0/10")
	for _, f := range flows {
		assert.True(t, f.Status.Assured() && f.Status.SeenReply() && f.Status.Confirmed(), "status %v", f.Status)
		require.NotNil(t, f.ProtoInfo.TCP)
		assert.EqualValues(t, tcpStateEstablished, f.ProtoInfo.TCP.State)
		assert.True(t, isBallast(f.Mark), "mark %#x", f.Mark)
		assert.True(t, within.Contains(f.TupleOrig.IP.SourceAddress) && within.Contains(f.TupleOrig.IP.DestinationAddress), "%v", f.TupleOrig)
		assert.Equal(t, f.TupleOrig.IP.SourceAddress, f.TupleReply.IP.DestinationAddress)
		assert.Equal(t, f.TupleOrig.Proto.SourcePort, f.TupleReply.Proto.DestinationPort)
	}
	require.NoError(t, b.stop())
}

func TestBallastRefusesAHeadroomThatIsNotThere(t *testing.T) {
	if !envtest.Namespace(t) {
		return
	}
	insertAssured(t, 0, 5, 600)
	limit := facts(t).Limit
	w, err := newBallast(limit-4, 60, false)
	require.NoError(t, err)
	err = w.Run(t.Context(), func() { t.Error("ready without the headroom") }, &recorder{})
	require.ErrorContains(t, err, fmt.Sprintf("at most %d", limit-5))
	_, others := ours(t)
	assert.Equal(t, uint64(5), others)
}

// A full table is the hardest case: nothing may be evicted to make room, and
// deleting must still work.
func TestBallastFillsATableToTheBrim(t *testing.T) {
	t.Parallel()
	if !envtest.Namespace(t) {
		return
	}
	const assuredOnes, temptation = 50, 50
	insertAssured(t, 0, assuredOnes, 600)
	insertFlows(t, assuredOnes, assuredOnes+temptation, 600) // UNREPLIED: early_drop would take them
	w, err := newBallast(0, 60, false)
	b := start(t, w, err)
	f := facts(t)
	_, others := ours(t)
	stats := readStats(t)
	assert.Zero(t, stats["early_drop"], "nothing had to go for it")
	assert.Zero(t, stats["drop"])
	// What the kernel's collector takes, because another table of the machine
	// was full lately, is counted nowhere. It takes none that are ASSURED.
	assert.GreaterOrEqual(t, others, uint64(assuredOnes))
	taken := assuredOnes + temptation - others
	assert.LessOrEqual(t, f.Limit-f.Entries, taken, "but for what was taken, the table is full")
	require.NoError(t, b.stop())
	assert.GreaterOrEqual(t, facts(t).Entries, uint64(assuredOnes))
	assert.LessOrEqual(t, facts(t).Entries, others)
}

func readStats(t testing.TB) map[string]uint64 {
	t.Helper()
	text, err := os.ReadFile("/proc/net/stat/nf_conntrack")
	require.NoError(t, err)
	var s tableStats
	_, err = s.update(text)
	require.NoError(t, err)
	return s.counters(true)
}

// Renewal must keep ballast alive beyond its timeout without changing the
// number of entries, not even for a moment.
func TestBallastIsRenewed(t *testing.T) {
	t.Parallel()
	if !envtest.Namespace(t) {
		return
	}
	const n = 20000
	limit := facts(t).Limit
	w, err := newBallast(limit-n, 3, false)
	b := start(t, w, err)
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		require.Equal(t, uint64(n), facts(t).Entries)
	}
	ballast, _ := ours(t)
	assert.Equal(t, uint64(n), ballast)
	assert.Nil(t, b.last("restored"), "nothing was missing")
	assert.EqualValues(t, n, readStats(t)["insert"], "nothing was inserted twice")
	require.NoError(t, b.stop())
}

func TestBallastThatWasDeletedComesBack(t *testing.T) {
	t.Parallel()
	if !envtest.Namespace(t) {
		return
	}
	const n = 20000
	limit := facts(t).Limit
	w, err := newBallast(limit-n, 3, false)
	b := start(t, w, err)
	require.NoError(t, Flush(t.Context()))
	require.Eventually(t, func() bool { return facts(t).Entries == n }, 20*time.Second, 20*time.Millisecond)
	require.NoError(t, b.stop())
	restored := 0
	for _, r := range b.Records() {
		if r.Event.Name == "restored" {
			assert.Equal(t, r.Event.Fields["missing"], r.Event.Fields["inserted"])
			k, err := strconv.Atoi(r.Event.Fields["inserted"])
			require.NoError(t, err)
			restored += k
		}
	}
	assert.Equal(t, n, restored)
	assert.Zero(t, facts(t).Entries)
}

func TestBallastReplacesWhatADeadRunLeft(t *testing.T) {
	if !envtest.Namespace(t) {
		return
	}
	f, err := (&ballast{timeout: 600}).newFilling()
	require.NoError(t, err)
	defer f.close()
	require.NoError(t, f.insert(t.Context(), 200))
	limit := facts(t).Limit
	w, err := newBallast(limit-100, 60, false)
	b := start(t, w, err)
	assert.Equal(t, uint64(100), facts(t).Entries)
	require.NoError(t, b.stop())
	assert.Zero(t, facts(t).Entries)
}

// TestFillingFollowsATableThatMoves has others insert and delete meanwhile.
func TestFillingFollowsATableThatMoves(t *testing.T) {
	if !envtest.Namespace(t) {
		return
	}
	f, err := (&ballast{timeout: 600}).newFilling()
	require.NoError(t, err)
	defer f.close()
	limit := facts(t).Limit
	for _, flows := range []int{0, 300, 700} {
		require.NoError(t, Flush(t.Context()))
		insertAssured(t, 0, flows, 600)
		// The filling believes in entries that have gone; the count is what counts.
		require.NoError(t, f.settle(t.Context(), limit-1000))
		assert.Equal(t, uint64(1000), facts(t).Entries)
	}
	insertAssured(t, 700, 900, 600)
	require.NoError(t, f.settle(t.Context(), limit-1000))
	assert.Equal(t, uint64(1000), facts(t).Entries)
	insertAssured(t, 900, 903, 600)
	require.NoError(t, f.settle(t.Context(), limit-1000))
	assert.Equal(t, uint64(1000), facts(t).Entries, "three too many are three too many")
	require.NoError(t, FlushBallast(t.Context()))
	assert.Equal(t, uint64(903), facts(t).Entries)
}

// A socket on which a walk was interrupted is of no use any more; removal must
// not depend on it.
func TestBallastIsRemovedAfterAnInterruptedWalk(t *testing.T) {
	if !envtest.Namespace(t) {
		return
	}
	b := &ballast{timeout: 600}
	f, err := b.newFilling()
	require.NoError(t, err)
	defer f.close()
	for range 20 {
		require.NoError(t, f.insert(t.Context(), batchSize))
	}
	ctx, cancel := context.WithCancel(t.Context())
	err = f.client.dump(ctx, onlyBallast, func([]byte) error { cancel(); return nil })
	require.ErrorIs(t, err, context.Canceled)
	_, err = countBallast(t.Context(), f.client)
	require.Error(t, err, "or this test tests nothing")
	rec := &recorder{}
	require.NoError(t, b.remove(t.Context(), f, rec))
	assert.Equal(t, "0", rec.last("removed")["entries_after"])
}

// While others use the table, ballast comes as near as it can, and never goes
// beyond the limit: the kernel would evict for it.
func TestBallastAmongTraffic(t *testing.T) {
	t.Parallel()
	if !envtest.Namespace(t) {
		return
	}
	const headroom, flows = 3000, 2000
	w, err := newBallast(headroom, 60, false)
	done := make(chan error, 1)
	go func() { done <- createFlows(assured, 0, flows, 600) }()
	b := start(t, w, err)
	set := b.last("set")
	achieved, err := strconv.Atoi(set["headroom"])
	require.NoError(t, err)
	assert.InDelta(t, headroom, achieved, 256)
	require.NoError(t, <-done)
	f := facts(t)
	assert.Less(t, f.Entries, f.Limit)
	assert.GreaterOrEqual(t, f.Limit-f.Entries, uint64(headroom-flows-256))
	stats := readStats(t)
	assert.Zero(t, stats["early_drop"])
	assert.Zero(t, stats["drop"])
	require.NoError(t, b.stop())
	assert.Equal(t, uint64(flows), facts(t).Entries)
}

// Ballast that has gone comes back only as far as there is room now.
func TestReinsertingStopsAtTheLimit(t *testing.T) {
	t.Parallel()
	if !envtest.Namespace(t) {
		return
	}
	f, err := (&ballast{timeout: 600}).newFilling()
	require.NoError(t, err)
	defer f.close()
	for len(f.live) < 1024 {
		require.NoError(t, f.insert(t.Context(), batchSize))
	}
	require.NoError(t, Flush(t.Context()))
	// Others take nearly all of the table; the numbers must not be the same.
	others, err := (&ballast{timeout: 600}).newFilling()
	require.NoError(t, err)
	defer others.close()
	others.create, others.next = createTemplate(false, 600, 0), 1<<20
	// Not ASSURED: the kernel would evict these to make room.
	others.create.msg = bytes.Replace(others.create.msg, be32(statusConfirmed|statusAssured|statusSeenReply), be32(statusConfirmed), 1)
	require.NoError(t, others.settle(t.Context(), 300))
	gone, err := f.renew(t.Context(), 0, len(f.live))
	require.NoError(t, err)
	assert.Equal(t, f.live, gone)
	back, err := f.reinsert(t.Context(), gone)
	require.NoError(t, err)
	assert.Equal(t, 300, back)
	assert.Equal(t, facts(t).Limit, facts(t).Entries)
	stats := readStats(t)
	assert.Zero(t, stats["early_drop"])
	assert.Zero(t, stats["drop"])
	gone, err = f.renew(t.Context(), 0, len(f.live))
	require.NoError(t, err)
	assert.Len(t, gone, 724)
}

// Stopped in the middle of filling, it removes what it had inserted.
func TestBallastStoppedHalfWay(t *testing.T) {
	if !envtest.Namespace(t) {
		return
	}
	for _, after := range []uint64{0, 1, 20000} {
		w, err := newBallast(0, 60, false)
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		rec := &recorder{}
		go func() { done <- w.Run(ctx, func() { t.Error("ready") }, rec) }()
		require.Eventually(t, func() bool { return facts(t).Entries >= after }, 20*time.Second, time.Millisecond)
		cancel()
		require.ErrorIs(t, <-done, context.Canceled)
		assert.Zero(t, facts(t).Entries)
		assert.NotNil(t, rec.last("removed"))
	}
}

// A worker cannot be made, or run, without what it needs.
func TestNewBallastRefuses(t *testing.T) {
	_, err := NewBallast(env.Job{ID: "x"})
	assert.Error(t, err)
	for _, s := range []float64{0, -1, 0.5, math.NaN(), math.Inf(1)} {
		_, err := newBallast(1, s, false)
		assert.Error(t, err, "timeout %g", s)
	}
	w, err := newBallast(1, 60, false)
	require.NoError(t, err)
	withoutPrivilege(func() { err = w.Run(t.Context(), func() { t.Error("ready") }, &recorder{}) })
	require.ErrorIs(t, err, unix.EPERM)
}

const deadMan = "TABLEFULL_TEST_DEAD_MAN"

// If the process dies, its ballast must go away by itself.
func TestBallastOfADeadProcessExpires(t *testing.T) {
	t.Parallel()
	if os.Getenv(deadMan) != "" {
		holdBallast(t)
		return
	}
	if !envtest.Namespace(t) {
		return
	}
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), deadMan+"=1")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	var set map[string]string
	require.NoError(t, json.Unmarshal([]byte(line), &set))
	n, err := strconv.ParseUint(set["inserted"], 10, 64)
	require.NoError(t, err)
	ballast, _ := ours(t)
	require.Equal(t, n, ballast)
	require.NoError(t, cmd.Process.Kill())
	require.Error(t, cmd.Wait())
	require.Eventually(t, func() bool { ballast, _ := ours(t); return ballast == 0 }, 20*time.Second, 50*time.Millisecond)
	// A walk reaps expired entries, a few of each bucket at a time.
	require.Eventually(t, func() bool { _, _ = ours(t); return facts(t).Entries == 0 }, 20*time.Second, 50*time.Millisecond)
}

// holdBallast is the process that dies.
func holdBallast(t *testing.T) {
	w, err := newBallast(facts(t).Limit-5000, 2, false)
	b := start(t, w, err)
	line, err := json.Marshal(b.last("set"))
	require.NoError(t, err)
	fmt.Printf("%s\n", line)
	<-t.Context().Done() // until it is killed
}
