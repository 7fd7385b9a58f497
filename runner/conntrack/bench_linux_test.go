package conntrack

import (
	"bytes"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	ctlib "github.com/ti-mo/conntrack"

	"github.com/tablefull/tablefull/runner/env"
)

// benchEntries is the size of the table the benchmarks work on.
const benchEntries = 250_000

// fill inserts entries with a mark; mark 0 is not ballast.
func fill(tb testing.TB, n int, mark uint32) {
	tb.Helper()
	f, err := (&ballast{timeout: 600}).newFilling()
	require.NoError(tb, err)
	defer f.close()
	f.create = createTemplate(false, 600, mark)
	for len(f.live) < n {
		require.NoError(tb, f.insert(tb.Context(), min(batchSize, n-len(f.live))))
	}
}

// BenchmarkBallast compares filling, renewing and emptying a table with
// ti-mo/conntrack's Create, in the same run: from a goroutine as it comes, and
// from one locked to its thread, as programs do that change the network
// namespace of a thread, where each answer costs a thread switch.
func BenchmarkBallast(b *testing.B) {
	var insert, renew, remove, create, locked time.Duration
	const created = 10_000
	for b.Loop() {
		require.NoError(b, Flush(b.Context()))
		f, err := (&ballast{timeout: 600}).newFilling()
		require.NoError(b, err)
		insert += timed(func() { require.NoError(b, f.settle(b.Context(), facts(b).Limit-benchEntries)) })
		require.EqualValues(b, benchEntries, facts(b).Entries)
		renew += timed(func() {
			gone, err := f.renew(b.Context(), 0, len(f.live))
			require.NoError(b, err)
			require.Empty(b, gone)
		})
		remove += timed(func() {
			require.NoError(b, FlushBallast(b.Context()))
		})
		f.close()
		create += timed(func() { insertFlows(b, 0, created, 600) })
		locked += timedLocked(func() { insertFlows(b, created, 2*created, 600) })
	}
	rate := func(n int, d time.Duration) float64 { return float64(n) * float64(b.N) / d.Seconds() }
	b.ReportMetric(rate(benchEntries, insert), "inserted/s")
	b.ReportMetric(rate(benchEntries, renew), "renewed/s")
	b.ReportMetric(rate(benchEntries, remove), "removed/s")
	b.ReportMetric(rate(benchEntries, insert)/rate(created, create), "x-Create")
	b.ReportMetric(rate(benchEntries, insert)/rate(created, locked), "x-Create-locked")
}

// BenchmarkCensus compares a walk with ti-mo/conntrack's Dump (locked as in
// BenchmarkBallast, and not), and with conntrack -L where that is installed, in
// the same run. peak-MiB is how much the resident set grew for the walk.
func BenchmarkCensus(b *testing.B) {
	for _, kind := range []struct {
		name string
		mark uint32
	}{{"traffic", 0}, {"ballast", ballastMark}} {
		b.Run(kind.name, func(b *testing.B) {
			require.NoError(b, Flush(b.Context()))
			fill(b, benchEntries, kind.mark)
			benchCensus(b)
		})
	}
	require.NoError(b, Flush(b.Context()))
}

func benchCensus(b *testing.B) {
	tool, err := exec.LookPath("conntrack")
	if err != nil {
		b.Log("conntrack(8) is not installed: not compared with it")
	}
	var census, part, dump, locked, list time.Duration
	var cpu float64
	var peak uint64
	for b.Loop() {
		debug.FreeOSMemory()
		idle := resident(b, "VmRSS:")
		require.NoError(b, os.WriteFile("/proc/self/clear_refs", []byte("5"), 0)) // resets VmHWM
		census += timed(func() {
			c, err := walk(b.Context(), newTally(16), 16, false)
			require.NoError(b, err)
			require.EqualValues(b, benchEntries, c.Entries)
			cpu += c.CPU
		})
		peak = max(peak, resident(b, "VmHWM:")-idle)
		part += timed(func() {
			_, err := walk(b.Context(), newTally(16), 16, true)
			require.NoError(b, err)
		})
		dump += timed(func() { dumpAll(b) })
		locked += timedLocked(func() { dumpAll(b) })
		if tool != "" {
			list += timed(func() {
				cmd := exec.CommandContext(b.Context(), tool, "-L") // writes to /dev/null
				require.NoError(b, cmd.Run())
			})
		}
	}
	n := float64(b.N)
	b.ReportMetric(benchEntries*n/census.Seconds(), "entries/s")
	b.ReportMetric(cpu/n/benchEntries*1e9, "cpu-ns/entry")
	b.ReportMetric(float64(peak)/(1<<20), "peak-MiB")
	b.ReportMetric(part.Seconds()/n*1e3, "without-ballast-ms")
	b.ReportMetric(dump.Seconds()/census.Seconds(), "x-Dump")
	b.ReportMetric(locked.Seconds()/census.Seconds(), "x-Dump-locked")
	if tool != "" {
		b.ReportMetric(list.Seconds()/census.Seconds(), "x-conntrack-L")
	}
}

func dumpAll(b *testing.B) {
	conn, err := ctlib.Dial(nil)
	require.NoError(b, err)
	flows, err := conn.Dump(nil)
	require.NoError(b, err)
	require.Len(b, flows, benchEntries)
	require.NoError(b, conn.Close())
}

func timedLocked(f func()) time.Duration {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	return timed(f)
}

func timed(f func()) time.Duration {
	began := time.Now()
	f()
	return time.Since(began)
}

// resident reads a size in bytes from /proc/self/status.
func resident(b *testing.B, name string) uint64 {
	b.Helper()
	text, err := os.ReadFile("/proc/self/status")
	require.NoError(b, err)
	for line := range bytes.Lines(text) {
		if f := bytes.Fields(line); len(f) == 3 && string(f[0]) == name {
			n, err := strconv.ParseUint(string(f[1]), 10, 64)
			require.NoError(b, err)
			return n << 10
		}
	}
	b.Fatalf("no %s", name)
	return 0
}

// BenchmarkSample is one reading of everything.
func BenchmarkSample(b *testing.B) {
	c, err := openCounters(env.SampleJob{Conntrack: true, Machine: true})
	require.NoError(b, err)
	defer c.close()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.read(monotonic()); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkAutopsy is one look-up, with the socket opened for it.
func BenchmarkAutopsy(b *testing.B) {
	insertFlows(b, 0, 1, 600)
	job := env.AutopsyJob{}
	job.Failure.Tuple.Proto = "udp"
	job.Failure.Tuple.Src, job.Failure.Tuple.Dst = netip.MustParseAddrPort("10.9.0.0:1000"), netip.MustParseAddrPort("10.8.0.1:53")
	for b.Loop() {
		w, err := NewAutopsy(env.Job{Autopsy: &job})
		require.NoError(b, err)
		rec := &recorder{}
		require.NoError(b, w.Run(b.Context(), func() {}, rec))
		require.True(b, rec.records[0].Autopsy.Found)
	}
	require.NoError(b, Flush(b.Context()))
}

func BenchmarkParseAndTally(b *testing.B) {
	var e entry
	t := newTally(16)
	b.ReportAllocs()
	for b.Loop() {
		if !e.parse(dumpedEntry) {
			b.Fatal("malformed")
		}
		t.add(&e)
	}
}
