package runlog

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func all(t testing.TB, r *Reader) []Record {
	t.Helper()
	var out []Record
	for {
		rec, err := r.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		require.NoError(t, err)
		out = append(out, rec)
	}
}

// everyKind is one record of each kind, with its fields set.
func everyKind() []Record {
	slab := uint64(123)
	addr := netip.MustParseAddrPort("10.96.0.10:80")
	v6 := netip.MustParseAddrPort("[fd00::1]:80")
	tuple := Tuple{Proto: "tcp", Src: v6, Dst: addr}
	out := []Record{
		{Header: &Header{Format: Format, Scenario: "a \"b\"\n\u2028", Limit: math.MaxUint64, Timeouts: map[string]float64{"x": 1.5}, Traffic: []TrafficInfo{{Name: "t", ExpectsAnswer: true}}, Services: []ServiceInfo{{Name: "s", Addr: addr}}, Nodes: []string{"n"}, Thresholds: []string{"errors < 1%"}}},
		{Clock: &Clock{Of: "n", Offset: -1.25, Bound: 0.0001}},
		{Event: &Event{Kind: "phase", Name: "traffic", Fields: map[string]string{"k": "v"}}},
		{Bin: &Bin{Traffic: "t", Start: 0.1, Width: 0.1, Due: 3, Started: 2, Late: 1, NotStarted: map[NotStartedReason]uint64{NoPorts: 1}, Outcomes: map[Outcome]uint64{OK: 1, ConnectTimeout: 1}, LostPackets: 1}},
		{Latency: &Latency{Traffic: "t", Width: 1, FromDue: "x", Started: "y"}},
		{Failure: &Failure{Traffic: "t", Seq: 9, Due: 1, Start: 1.001, Outcome: Reset, Errno: "ECONNRESET", Phase: "response", Tuple: tuple}},
		{Held: &Held{Traffic: "t", Open: 5, Validated: 4, Lost: 1}},
		{Served: &Served{Service: "s", Backend: "p", Accepted: 1, Served: 1}},
		{Sample: &Sample{Took: 0.001, Conntrack: &Conntrack{Entries: 1, Limit: 2, Counters: map[string]uint64{"drop": 3}}, Net: map[string]uint64{"TcpExt.ListenDrops": 1}, CPU: &CPU{User: 1}, SlabBytes: &slab}},
		{Census: &Census{Entries: 2, Groups: []CensusGroup{{Proto: "tcp", State: "TIME_WAIT", Assured: true, Service: addr, Backend: v6, Count: 2}}, Sources: []TopSource{{Addr: addr.Addr(), Count: 2}}}},
		{Autopsy: &Autopsy{Traffic: "t", Seq: 9, Tuple: tuple, Found: true, ReplySrc: addr}},
		{Loss: &Loss{What: "samples", Count: 1, Why: "late"}},
		{Trailer: &Trailer{Outcome: "completed", Restored: true, Records: map[string]uint64{"h": 13}}},
	}
	for i := range out {
		out[i].N, out[i].Host, out[i].T = uint64(i+1), "h", float64(i)/3-1
	}
	return out
}

func TestRoundTrip(t *testing.T) {
	want := everyKind()
	kinds := map[string]bool{}
	var b bytes.Buffer
	w := NewWriter(&b)
	for _, r := range want {
		kinds[r.Kind()] = true
		require.NoError(t, w.Write(r))
	}
	require.NoError(t, w.Sync())
	assert.Len(t, kinds, 13, "one of each kind")
	assert.NotContains(t, kinds, "")
	for name, in := range map[string]io.Reader{"whole": bytes.NewReader(b.Bytes()), "byte by byte": iotest.OneByteReader(bytes.NewReader(b.Bytes()))} {
		r := NewReader(in)
		assert.Equal(t, want, all(t, r), name)
		assert.Empty(t, r.Problems())
		assert.False(t, r.Truncated())
		assert.Equal(t, uint64(13), r.Last("h"))
	}
}

func TestWriterRefusesWhatIsNoRecord(t *testing.T) {
	var b bytes.Buffer
	w := NewWriter(&b)
	assert.ErrorContains(t, w.Write(Record{N: 4, Host: "h"}), "not exactly one part")
	assert.ErrorContains(t, w.Write(Record{Held: &Held{}, Loss: &Loss{}}), "not exactly one part")
	assert.Error(t, w.Write(Record{T: math.NaN(), Held: &Held{}}))
	assert.ErrorContains(t, w.Write(Record{Event: &Event{Detail: strings.Repeat("x", MaxLine)}}), "bytes")
	require.NoError(t, w.Write(Record{N: 1, Host: "h", Held: &Held{}}), "a refused record does not end the log")
	require.NoError(t, w.Flush())
	assert.Len(t, all(t, NewReader(&b)), 1)
}

type fullDisk struct{ room int }

func (d *fullDisk) Write(p []byte) (int, error) {
	if len(p) > d.room {
		n := d.room
		d.room = 0
		return n, &os.PathError{Op: "write", Path: "run.jsonl", Err: syscall.ENOSPC}
	}
	d.room -= len(p)
	return len(p), nil
}

func TestFullDiskIsSticky(t *testing.T) {
	w := NewWriter(&fullDisk{room: 100})
	var err error
	for i := 0; err == nil && i < 10000; i++ {
		err = w.Write(Record{N: uint64(i + 1), Host: "h", Held: &Held{Traffic: "t"}})
	}
	require.ErrorIs(t, err, syscall.ENOSPC)
	assert.Equal(t, err, w.Write(Record{N: 1, Host: "h", Held: &Held{}}))
	assert.Equal(t, err, w.Flush())
	assert.Equal(t, err, w.Sync())
	assert.Equal(t, err, w.Err())
}

func TestSyncReachesTheFile(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "run.jsonl"))
	require.NoError(t, err)
	w := NewWriter(f)
	require.NoError(t, w.Write(Record{N: 1, Host: "h", Held: &Held{}}))
	require.NoError(t, w.Sync())
	b, err := os.ReadFile(f.Name())
	require.NoError(t, err)
	assert.Equal(t, 1, bytes.Count(b, []byte{'\n'}))
	require.NoError(t, f.Close())
	require.NoError(t, w.Write(Record{N: 2, Host: "h", Held: &Held{}}))
	assert.ErrorIs(t, w.Sync(), os.ErrClosed)
}

func TestWriterFlushesWhatIsOld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b bytes.Buffer
		w := NewWriter(&b)
		require.NoError(t, w.Write(Record{N: 1, Host: "h", Held: &Held{}}))
		assert.Zero(t, b.Len())
		time.Sleep(flushEvery)
		require.NoError(t, w.Write(Record{N: 2, Host: "h", Held: &Held{}}))
		assert.Equal(t, 2, bytes.Count(b.Bytes(), []byte{'\n'}))
	})
}

// A log that was cut at any byte is readable up to there, and nothing of it is
// taken for damage.
func TestCutAnywhere(t *testing.T) {
	var b bytes.Buffer
	w := NewWriter(&b)
	want := everyKind()
	for _, r := range want {
		require.NoError(t, w.Write(r))
	}
	require.NoError(t, w.Flush())
	whole := b.Bytes()
	for cut := range len(whole) {
		r := NewReader(bytes.NewReader(whole[:cut]))
		got := all(t, r)
		lines := bytes.Count(whole[:cut], []byte{'\n'})
		// The last line may be whole but for its end.
		require.Contains(t, []int{lines, lines + 1}, len(got), "cut at %d", cut)
		require.Equal(t, want[:len(got)], append([]Record{}, got...))
		require.Empty(t, r.Problems(), "cut at %d", cut)
		atEnd := cut == 0 || whole[cut-1] == '\n' || len(got) == lines+1
		require.Equal(t, !atEnd, r.Truncated(), "cut at %d", cut)
	}
}

func TestProblems(t *testing.T) {
	line := func(host string, n uint64) string {
		return fmt.Sprintf(`{"n":%d,"host":%q,"t":0,"held":{"traffic":"t","open":%d,"validated":0,"lost":0}}`, n, host, n)
	}
	for _, c := range []struct {
		name  string
		lines []string
		reads int
		want  []ProblemKind
	}{
		{"fine, interleaved", []string{line("a", 1), line("b", 1), line("a", 2)}, 3, nil},
		{"gap", []string{line("a", 1), line("a", 5)}, 2, []ProblemKind{Gap}},
		{"begins late", []string{line("a", 3)}, 1, []ProblemKind{Gap}},
		{"repeat", []string{line("a", 1), line("a", 2), line("a", 2), line("a", 3)}, 3, []ProblemKind{Repeat}},
		{"out of order", []string{line("a", 2), line("a", 1)}, 1, []ProblemKind{Gap, Repeat}},
		{"garbage", []string{line("a", 1), "garbage", line("a", 2)}, 2, []ProblemKind{Unreadable}},
		{"garbage instead of a record", []string{line("a", 1), "\x00\x00", line("a", 3)}, 2, []ProblemKind{Unreadable, Gap}},
		{"empty line", []string{line("a", 1), "", line("a", 2)}, 2, []ProblemKind{Unreadable}},
		{"unknown kind", []string{line("a", 1), `{"n":2,"host":"a","t":0,"novel":{}}`, line("a", 3)}, 2, []ProblemKind{Unreadable}},
		{"two kinds", []string{`{"n":1,"host":"a","t":0,"loss":{},"held":{}}`}, 0, []ProblemKind{Unreadable}},
		{"number out of range", []string{`{"n":1,"host":"a","t":1e999,"held":{}}`}, 0, []ProblemKind{Unreadable}},
		{"not numbered", []string{line("a", 0)}, 1, []ProblemKind{Unnumbered}},
		{"too long", []string{line("a", 1), strings.Repeat("x", MaxLine+1), line("a", 2)}, 2, []ProblemKind{Unreadable}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := NewReader(strings.NewReader(strings.Join(c.lines, "\n") + "\n"))
			assert.Len(t, all(t, r), c.reads)
			var kinds []ProblemKind
			for _, p := range r.Problems() {
				kinds = append(kinds, p.Kind)
				assert.NotEmpty(t, p.Text)
				assert.NotZero(t, p.Line)
				assert.NotZero(t, p.Count)
			}
			assert.Equal(t, c.want, kinds)
			assert.Equal(t, uint64(len(c.want)), r.ProblemCount())
			assert.False(t, r.Truncated())
		})
	}
}

func TestProblemsAreBounded(t *testing.T) {
	r := NewReader(strings.NewReader(strings.Repeat("x\n", 5000)))
	assert.Empty(t, all(t, r))
	assert.Len(t, r.Problems(), keptProblems)
	assert.Equal(t, uint64(5000), r.ProblemCount())
}

func TestReadErrorIsNotTheEnd(t *testing.T) {
	_, err := NewReader(iotest.ErrReader(syscall.EIO)).Next()
	assert.ErrorIs(t, err, syscall.EIO)
	assert.NotErrorIs(t, err, io.EOF)
}

func TestBinsAddUp(t *testing.T) {
	src := Bin{Traffic: "t", Start: 1, Width: 0.1, Due: 2, Started: 2, Late: 1, LostPackets: 3, Outcomes: map[Outcome]uint64{OK: 1}, NotStarted: map[NotStartedReason]uint64{Behind: 1}}
	var sum Bin
	sum.Add(src)
	sum.Add(src)
	sum.Add(Bin{Outcomes: map[Outcome]uint64{Reset: 4}})
	assert.Equal(t, Bin{Due: 4, Started: 4, Late: 2, LostPackets: 6, Outcomes: map[Outcome]uint64{OK: 2, Reset: 4}, NotStarted: map[NotStartedReason]uint64{Behind: 2}}, sum)
	assert.Equal(t, map[Outcome]uint64{OK: 1}, src.Outcomes, "the increment is as it was")
}

func TestHistogramsMerge(t *testing.T) {
	encode := func(highest int64, values ...int64) string {
		h := hdrhistogram.New(1, highest, 3)
		for _, v := range values {
			require.NoError(t, h.RecordValue(v))
		}
		s, err := EncodeHistogram(h)
		require.NoError(t, err)
		return s
	}
	var sum *hdrhistogram.Histogram
	var err error
	for _, s := range []string{encode(1000, 10, 20), encode(60_000_000, 1_000_000), encode(1000, 30)} {
		sum, err = MergeHistogram(sum, s)
		require.NoError(t, err)
	}
	assert.Equal(t, int64(4), sum.TotalCount())
	assert.Equal(t, int64(10), sum.Min())
	assert.InDelta(t, 1_000_000, float64(sum.Max()), 1000)

	same, err := MergeHistogram(sum, "nonsense")
	require.Error(t, err)
	assert.Same(t, sum, same)
	assert.Equal(t, int64(4), sum.TotalCount())

	huge := hdrhistogram.New(1, 1000, 3)
	require.NoError(t, huge.RecordValues(5, math.MaxInt64-1))
	text, err := EncodeHistogram(huge)
	require.NoError(t, err)
	_, err = MergeHistogram(sum, text)
	assert.ErrorContains(t, err, "overflow")
}

// FuzzReader: whatever it is given, it ends, it reports what it skips, and
// what it read comes back the same when written and read again.
func FuzzReader(f *testing.F) {
	var b bytes.Buffer
	w := NewWriter(&b)
	for _, r := range everyKind() {
		require.NoError(f, w.Write(r))
	}
	require.NoError(f, w.Flush())
	f.Add(b.Bytes())
	f.Add(b.Bytes()[:b.Len()/2])
	f.Add([]byte("\n\n{}\nnull\n{\"n\":1}"))
	f.Add([]byte(`{"n":18446744073709551615,"host":"a","held":{}}` + "\n" + `{"n":18446744073709551615,"host":"a","held":{}}`))
	f.Fuzz(func(t *testing.T, log []byte) {
		r := NewReader(bytes.NewReader(log))
		got := all(t, r)
		lines := bytes.Count(log, []byte{'\n'})
		if len(log) > 0 && log[len(log)-1] != '\n' {
			lines++
		}
		missed := r.ProblemCount()
		if r.Truncated() {
			missed++
		}
		require.LessOrEqual(t, len(got), lines)
		require.GreaterOrEqual(t, uint64(len(got))+missed, uint64(lines), "no line is lost in silence")
		var again bytes.Buffer
		w := NewWriter(&again)
		for _, rec := range got {
			require.NoError(t, w.Write(rec))
		}
		require.NoError(t, w.Flush())
		back := all(t, NewReader(&again))
		require.Len(t, back, len(got))
		for i := range got {
			x, err := json.Marshal(got[i])
			require.NoError(t, err)
			y, err := json.Marshal(back[i])
			require.NoError(t, err)
			require.Equal(t, string(x), string(y))
		}
	})
}

func BenchmarkReader(b *testing.B) {
	var log bytes.Buffer
	w := NewWriter(&log)
	for i := range 1000 {
		for _, r := range everyKind()[3:4] {
			r.N = uint64(i + 1)
			require.NoError(b, w.Write(r))
		}
	}
	require.NoError(b, w.Flush())
	b.SetBytes(int64(log.Len()))
	for b.Loop() {
		all(b, NewReader(bytes.NewReader(log.Bytes())))
	}
}
