package agent

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/tablefull/tablefull/report/runlog"
)

func event(i int) runlog.Record {
	return runlog.Record{T: float64(i), Event: &runlog.Event{Kind: "test", Name: fmt.Sprint(i)}}
}

func openSpool(t testing.TB) *Spool {
	t.Helper()
	s, err := NewSpool(filepath.Join(t.TempDir(), "spool"), "h")
	require.NoError(t, err)
	t.Cleanup(func() {
		s.Close()
		assert.NoError(t, s.Remove())
	})
	return s
}

// spoolReader makes an io.Reader of a Reader.
type spoolReader struct{ r *Reader }

func (r spoolReader) Read(p []byte) (int, error) { return r.r.Read(context.Background(), p) }

// all reads every record from n on until the spool's end.
func all(t testing.TB, s *Spool, n uint64) []runlog.Record {
	t.Helper()
	r, err := s.From(n)
	require.NoError(t, err)
	var out []runlog.Record
	lines := bufio.NewScanner(spoolReader{r})
	for lines.Scan() {
		var rec runlog.Record
		require.NoError(t, json.Unmarshal(lines.Bytes(), &rec))
		out = append(out, rec)
	}
	require.NoError(t, lines.Err())
	return out
}

func TestSpoolReadsFromAnyNumber(t *testing.T) {
	s := openSpool(t)
	const total = 3*indexEvery + 7
	for i := range total {
		s.Append(event(i + 1))
	}
	s.Close()
	for _, from := range []uint64{0, 1, 2, indexEvery, indexEvery + 1, indexEvery + 2, 2 * indexEvery, 3*indexEvery + 1, total, total + 1} {
		recs := all(t, s, from)
		require.Len(t, recs, int(total-max(from, 1)+1), "from %d", from)
		for i, r := range recs {
			want := max(from, 1) + uint64(i)
			require.Equal(t, want, r.N)
			require.Equal(t, fmt.Sprint(want), r.Event.Name)
			require.Equal(t, "h", r.Host)
		}
	}
	_, err := s.From(total + 2)
	assert.ErrorContains(t, err, "the last one is 3079")
}

func TestSpoolFileHasTheRecords(t *testing.T) {
	path := filepath.Join(t.TempDir(), "spool")
	s, err := NewSpool(path, "h")
	require.NoError(t, err)
	for i := range 5000 {
		s.Append(event(i + 1))
	}
	want := all2bytes(t, s)
	s.Close()
	require.NoError(t, s.Remove())
	got, err := os.ReadFile(path) // less than a chunk
	require.NoError(t, err)
	require.True(t, bytes.HasPrefix(got, want))
	assert.Equal(t, 5000, bytes.Count(got, []byte("\n")))
	_, err = NewSpool(path, "h")
	assert.ErrorIs(t, err, os.ErrExist, "an old spool is not overwritten")
}

// all2bytes reads what there is at the moment, wherever it is.
func all2bytes(t *testing.T, s *Spool) []byte {
	t.Helper()
	r, err := s.From(1)
	require.NoError(t, err)
	buf := make([]byte, 100)
	n, err := r.Read(t.Context(), buf)
	require.NoError(t, err)
	return buf[:n]
}

// Every follower sees every record once and in order, while several goroutines
// append and the file is being written.
func TestSpoolFollowers(t *testing.T) {
	s := openSpool(t)
	const writers, each = 4, 3000
	var readers, appenders sync.WaitGroup
	for range 3 {
		readers.Go(func() {
			next := uint64(1)
			last := map[string]float64{}
			for _, r := range all(t, s, 1) {
				if !assert.Equal(t, next, r.N) {
					return
				}
				assert.Greater(t, r.T, last[r.Event.Name], "records of one goroutine stay in order")
				last[r.Event.Name] = r.T
				next++
			}
			assert.EqualValues(t, writers*each+1, next)
		})
	}
	for w := range writers {
		appenders.Go(func() {
			for i := range each {
				s.Append(runlog.Record{T: float64(i + 1), Event: &runlog.Event{Name: fmt.Sprint(w)}})
			}
		})
	}
	appenders.Wait()
	s.Close()
	readers.Wait()
}

// What has been taken is removed, and the rest is as before.
func TestSpoolTrims(t *testing.T) {
	dir := t.TempDir()
	f, err := newChunks(filepath.Join(dir, "spool"), 20_000)
	require.NoError(t, err)
	s := newSpool(f, "h", maxUnwritten)
	files := func() int {
		entries, err := os.ReadDir(dir)
		require.NoError(t, err)
		return len(entries)
	}
	const total = 10*indexEvery + 5
	reader, err := s.From(1)
	require.NoError(t, err)
	for i := range total {
		s.Append(event(i + 1))
	}
	require.Eventually(t, func() bool { return s.readableFromDisk() }, 5*time.Second, time.Millisecond)
	before := files()
	require.Greater(t, before, 20)
	require.ErrorContains(t, s.Trim(total+1), "the last one is")
	require.NoError(t, s.Trim(indexEvery-1))
	assert.Equal(t, before, files(), "they cannot be told apart that finely")
	require.NoError(t, s.Trim(5*indexEvery+3))
	assert.Less(t, files(), before/2+2)
	require.NoError(t, s.Trim(100), "twice is harmless")
	_, err = s.From(5 * indexEvery)
	assert.ErrorContains(t, err, "have been taken and removed")
	_, err = reader.Read(t.Context(), make([]byte, 10))
	assert.ErrorIs(t, err, errTrimmed)
	require.NoError(t, s.Trim(total))
	s.Append(event(total + 1))
	s.Close()
	recs := all(t, s, 10*indexEvery+1)
	require.Len(t, recs, 6)
	assert.EqualValues(t, 10*indexEvery+1, recs[0].N)
	assert.Equal(t, fmt.Sprint(total+1), recs[5].Event.Name)
	assert.LessOrEqual(t, files(), 2)
	require.NoError(t, s.Remove())
}

// readableFromDisk says whether everything has been written.
func (s *Spool) readableFromDisk() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.written == s.end
}

func TestSpoolRecordIsReadableAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSpool(&memFile{}, "h", maxUnwritten)
		r, err := s.From(1)
		require.NoError(t, err)
		start := time.Now()
		go func() {
			time.Sleep(time.Second)
			s.Append(event(1))
		}()
		buf := make([]byte, 1000)
		n, err := r.Read(t.Context(), buf)
		require.NoError(t, err)
		assert.Contains(t, string(buf[:n]), `"n":1`)
		assert.Equal(t, time.Second, time.Since(start), "a follower does not wait for the file")
		assert.Zero(t, s.State().Failure)
		s.Close()
	})
}

func TestSpoolWritesWithin20ms(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &memFile{}
		s := newSpool(f, "h", maxUnwritten)
		s.Append(event(1))
		time.Sleep(flushAfter - time.Millisecond)
		synctest.Wait()
		assert.Zero(t, f.len())
		time.Sleep(2 * time.Millisecond)
		synctest.Wait()
		assert.NotZero(t, f.len())
		s.Close()
	})
}

func TestSpoolReadEndsWithContext(t *testing.T) {
	s := openSpool(t)
	r, err := s.From(1)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = r.Read(ctx, make([]byte, 10))
	assert.ErrorIs(t, err, context.Canceled)
}

// A disk that is full for a while: what fits into memory is kept, the rest is
// counted in a Loss record, numbers have no gap, and the file is whole in the end.
func TestSpoolFullDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &memFile{limit: 300}
		s := newSpool(f, "h", 2000)
		for i := range 100 {
			s.Append(event(i + 1))
			time.Sleep(time.Millisecond)
		}
		synctest.Wait()
		st := s.State()
		assert.Contains(t, st.Failure, "no space left on device")
		assert.Positive(t, st.Dropped)
		kept := st.Records

		f.setLimit(1 << 20)
		time.Sleep(2 * retryWrite)
		for i := range 10 {
			s.Append(event(1000 + i))
		}
		time.Sleep(2 * flushAfter)
		assert.Empty(t, s.State().Failure)
		s.Close()

		recs := all(t, s, 1)
		require.Len(t, recs, int(kept)+1+10)
		for i, r := range recs {
			require.EqualValues(t, i+1, r.N)
		}
		loss := recs[kept].Loss
		require.NotNil(t, loss)
		assert.Equal(t, runlog.Loss{What: "records", Count: 100 - kept, Why: "write spool: no space left on device"}, *loss)
		assert.EqualValues(t, 100, recs[kept].T, "the loss has the time of the last record lost")
		assert.Equal(t, int(kept)+11, bytes.Count(f.b, []byte("\n")))
	})
}

// A disk that stays full: readers still get what is in memory, and the loss.
func TestSpoolDiskStaysFull(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_RDWR, 0)
	if err != nil {
		t.Fatal("no /dev/full here")
	}
	s := newSpool(wholeFile{full}, "h", 1000)
	for i := range 100 {
		s.Append(event(i + 1))
	}
	s.Close()
	recs := all(t, s, 1)
	kept := len(recs) - 1
	require.NotNil(t, recs[kept].Loss)
	assert.EqualValues(t, 100-kept, recs[kept].Loss.Count)
	assert.Contains(t, s.State().Failure, unix.ENOSPC.Error())
	require.NoError(t, s.Remove())
}

func TestSpoolCountsWhatCannotBeEncoded(t *testing.T) {
	s := openSpool(t)
	s.Append(runlog.Record{T: math.NaN(), Event: &runlog.Event{}})
	s.Append(event(2))
	s.Close()
	s.Append(event(3))
	recs := all(t, s, 1)
	require.Len(t, recs, 2)
	require.NotNil(t, recs[0].Loss)
	assert.EqualValues(t, 1, recs[0].Loss.Count)
	assert.Contains(t, recs[0].Loss.Why, "NaN")
	assert.Equal(t, "2", recs[1].Event.Name)
	assert.EqualValues(t, 2, s.State().Dropped)
}

// memFile is a file in memory that may be full.
type memFile struct {
	mu    sync.Mutex
	b     []byte
	limit int // 0 is none
}

func (f *memFile) setLimit(n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.limit = n
}

func (f *memFile) len() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.b)
}

func (f *memFile) WriteAt(p []byte, off int64) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if int(off) > len(f.b) {
		return 0, errors.New("hole")
	}
	n := len(p)
	if f.limit > 0 {
		n = max(0, min(n, f.limit-int(off)))
	}
	f.b = append(f.b[:off], p[:n]...)
	if n < len(p) {
		return n, unix.ENOSPC
	}
	return n, nil
}

func (f *memFile) ReadAt(p []byte, off int64) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := copy(p, f.b[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (*memFile) Close() error { return nil }

func (*memFile) Discard(int64) error { return nil }

// wholeFile is a file that cannot be trimmed.
type wholeFile struct{ *os.File }

func (wholeFile) Discard(int64) error { return nil }

// Whatever is appended, a reader gets valid JSON lines with numbers 1, 2, 3...
func FuzzSpoolLines(f *testing.F) {
	f.Add("kind", "na\nme", uint64(7))
	f.Fuzz(func(t *testing.T, kind, name string, seed uint64) {
		rng := rand.New(rand.NewPCG(seed, 1))
		s := newSpool(&memFile{}, name, 1<<20)
		n := rng.IntN(20)
		for range n {
			s.Append(runlog.Record{T: rng.NormFloat64(), Event: &runlog.Event{Kind: kind, Name: name}})
		}
		s.Close()
		require.Len(t, all(t, s, 1), n)
	})
}

func BenchmarkSpoolAppend(b *testing.B) {
	s := openSpool(b)
	r := runlog.Record{T: 1, Failure: &runlog.Failure{Traffic: "web", Seq: 1, Due: 1.25, Start: 1.2503, Outcome: runlog.ConnectTimeout, Phase: "connect", Packets: 1}}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			s.Append(r)
		}
	})
}
