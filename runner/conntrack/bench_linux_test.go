package conntrack

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"slices"
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

// benchRounds is how often the benchmarks that compare do everything. They
// report medians: of what was measured, and of the ratios within each round.
const benchRounds = 5

// BenchmarkBallast compares filling, renewing and emptying a table with
// ti-mo/conntrack's Create, in the same run: from a goroutine as it comes, and
// from one locked to its thread, as programs do that change the network
// namespace of a thread, where each answer costs a thread switch.
func BenchmarkBallast(b *testing.B) {
	const created = 10_000
	var insert, renew, remove, plain, locked []float64
	for range b.N * benchRounds {
		require.NoError(b, Flush(b.Context()))
		f, err := (&ballast{timeout: 600}).newFilling()
		require.NoError(b, err)
		insert = append(insert, rate(benchEntries, timed(func() {
			require.NoError(b, f.settle(b.Context(), facts(b).Limit-benchEntries))
		})))
		require.EqualValues(b, benchEntries, facts(b).Entries)
		renew = append(renew, rate(benchEntries, timed(func() {
			gone, err := f.renew(b.Context(), 0, len(f.live))
			require.NoError(b, err)
			require.Empty(b, gone)
		})))
		remove = append(remove, rate(benchEntries, timed(func() {
			require.NoError(b, FlushBallast(b.Context()))
		})))
		f.close()
		plain = append(plain, rate(created, timed(func() { insertFlows(b, 0, created, 600) })))
		locked = append(locked, rate(created, timedLocked(func() { insertFlows(b, created, 2*created, 600) })))
		i := len(insert) - 1
		b.Logf("entries/s: inserted %.0f, renewed %.0f, removed %.0f; Create %.0f, on a locked thread %.0f", insert[i], renew[i], remove[i], plain[i], locked[i])
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(median(insert), "inserted/s")
	b.ReportMetric(median(renew), "renewed/s")
	b.ReportMetric(median(remove), "removed/s")
	b.ReportMetric(median(ratios(insert, plain)), "x-Create")
	b.ReportMetric(median(ratios(insert, locked)), "x-Create-locked")
}

// BenchmarkCensus compares a walk with ti-mo/conntrack's Dump (locked as in
// BenchmarkBallast, and not), and with conntrack -L where that is installed, in
// the same run. peak-MiB is the most that the resident set grew for a walk.
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
	var census, part, dump, locked, list, cpu []float64
	var peak uint64
	for range b.N * benchRounds {
		debug.FreeOSMemory()
		idle := resident(b, "VmRSS:")
		require.NoError(b, os.WriteFile("/proc/self/clear_refs", []byte("5"), 0)) // resets VmHWM
		census = append(census, rate(benchEntries, timed(func() {
			c, err := walk(b.Context(), newTally(16), 16, false)
			require.NoError(b, err)
			require.EqualValues(b, benchEntries, c.Entries)
			cpu = append(cpu, c.CPU/benchEntries*1e9)
		})))
		peak = max(peak, resident(b, "VmHWM:")-idle)
		part = append(part, timed(func() {
			_, err := walk(b.Context(), newTally(16), 16, true)
			require.NoError(b, err)
		}).Seconds()*1e3)
		dump = append(dump, rate(benchEntries, timed(func() { dumpAll(b) })))
		locked = append(locked, rate(benchEntries, timedLocked(func() { dumpAll(b) })))
		line := ""
		if tool != "" {
			list = append(list, rate(benchEntries, timed(func() {
				cmd := exec.CommandContext(b.Context(), tool, "-L") // writes to /dev/null
				require.NoError(b, cmd.Run())
			})))
			line = fmt.Sprintf(", conntrack -L %.0f", list[len(list)-1])
		}
		i := len(census) - 1
		b.Logf("entries/s: census %.0f, Dump %.0f, on a locked thread %.0f%s", census[i], dump[i], locked[i], line)
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(median(census), "entries/s")
	b.ReportMetric(median(cpu), "cpu-ns/entry")
	b.ReportMetric(float64(peak)/(1<<20), "peak-MiB")
	b.ReportMetric(median(part), "without-ballast-ms")
	b.ReportMetric(median(ratios(census, dump)), "x-Dump")
	b.ReportMetric(median(ratios(census, locked)), "x-Dump-locked")
	if tool != "" {
		b.ReportMetric(median(ratios(census, list)), "x-conntrack-L")
	}
}

func rate(n int, d time.Duration) float64 { return float64(n) / d.Seconds() }

// median returns the middle of v, or the mean of the two middle ones.
func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}

// ratios divides round by round: what was near in time is compared.
func ratios(ours, peers []float64) (r []float64) {
	for i := range ours {
		r = append(r, ours[i]/peers[i])
	}
	return r
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
		require.True(b, rec.Records()[0].Autopsy.Found)
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
