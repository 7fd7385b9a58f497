package runlog

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func heldRecord(n int) Record {
	return Record{N: uint64(n), Host: "h", T: float64(n), Held: &Held{Traffic: "t", Open: uint64(n)}}
}

// segmented writes a log of that many records in segments of about 50.
func segmented(t testing.TB, records int) string {
	t.Helper()
	dir := t.TempDir()
	f, err := Create(dir, 4000)
	require.NoError(t, err)
	w := NewWriter(f)
	for n := range records {
		require.NoError(t, w.Write(heldRecord(n+1)))
		if n%10 == 0 {
			require.NoError(t, w.Flush())
		}
	}
	require.NoError(t, w.Sync())
	require.NoError(t, f.Close())
	return dir
}

func names(t testing.TB, dir string) (out []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

func numbersIn(t testing.TB, dir string) (ns []int, r *Reader) {
	t.Helper()
	f, err := OpenDir(dir)
	require.NoError(t, err)
	defer f.Close()
	r = NewReader(f)
	require.NoError(t, r.Each(func(rec *Record) { ns = append(ns, int(rec.N)) }))
	return ns, r
}

func upTo(n int) (out []int) {
	for i := range n {
		out = append(out, i+1)
	}
	return out
}

func TestSegments(t *testing.T) {
	defer goleak.VerifyNone(t)
	dir := segmented(t, 400)
	have := names(t, dir)
	require.Greater(t, len(have), 4)
	assert.Equal(t, []string{"run-000001.jsonl.zst", "run-000002.jsonl.zst"}, have[:2])
	assert.Equal(t, "run.jsonl", have[len(have)-1])
	got, r := numbersIn(t, dir)
	assert.Equal(t, upTo(400), got)
	assert.Empty(t, r.Problems())
	assert.False(t, r.Truncated())
	s, err := StatDir(dir)
	require.NoError(t, err)
	assert.Equal(t, r.Offset(), s.Size, "what compressed segments hold is known without reading them")
	assert.Equal(t, len(have)-1, s.Segments)
	assert.Equal(t, FileName, s.LastName)
	_, err = Create(dir, 1)
	assert.ErrorIs(t, err, fs.ErrExist)

	empty := t.TempDir()
	_, err = OpenDir(empty)
	assert.ErrorIs(t, err, fs.ErrNotExist)
	_, err = StatDir(empty)
	assert.ErrorIs(t, err, fs.ErrNotExist)
}

// Whatever moment the process is killed at, what was written is there once.
func TestSegmentsAfterAKill(t *testing.T) {
	dir := segmented(t, 400)
	text := func() []byte {
		f := &Files{fsys: os.DirFS(dir), dir: "."}
		require.NoError(t, f.openSegment(2, true))
		defer f.Close()
		var b bytes.Buffer
		_, err := b.ReadFrom(f.unpack)
		require.NoError(t, err)
		return b.Bytes()
	}
	put := func(name string, b []byte) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), b, 0o600))
	}
	whole := func(why string) {
		got, r := numbersIn(t, dir)
		assert.Equal(t, upTo(400), got, why)
		assert.Empty(t, r.Problems(), why)
	}
	second := text()
	put("run-000002.jsonl", second)
	put(".run-123.zst", []byte("half"))
	whole("compressed, and the plain one not yet removed")
	require.NoError(t, os.Remove(filepath.Join(dir, "run-000002.jsonl.zst")))
	whole("not compressed yet")
	have := names(t, dir)
	last := have[len(have)-2]
	tail, err := os.ReadFile(filepath.Join(dir, FileName))
	require.NoError(t, err)
	put(FileName, nil)
	got, r := numbersIn(t, dir)
	assert.Equal(t, upTo(len(got)), got, "begun anew, and nothing written yet")
	assert.Empty(t, r.Problems())
	require.NoError(t, os.Remove(filepath.Join(dir, FileName)))
	again, _ := numbersIn(t, dir)
	assert.Equal(t, got, again, "not begun anew")
	s, err := StatDir(dir)
	require.NoError(t, err)
	assert.Equal(t, last, s.LastName)
	put(FileName, tail)
	whole("as it was")
}

// What is missing or damaged is a gap, not an end, and never passed over.
func TestDamagedSegments(t *testing.T) {
	dir := segmented(t, 400)
	name := filepath.Join(dir, "run-000002.jsonl.zst")
	packed, err := os.ReadFile(name)
	require.NoError(t, err)
	middle := bytes.Clone(packed)
	middle[len(middle)/2] ^= 0xff
	for what, b := range map[string][]byte{"flipped": middle, "cut": packed[:len(packed)/2], "nonsense": []byte("nonsense"), "empty": {}, "missing": nil} {
		require.NoError(t, os.WriteFile(name, b, 0o600))
		if b == nil {
			require.NoError(t, os.Remove(name))
		}
		got, r := numbersIn(t, dir)
		assert.Equal(t, 400, got[len(got)-1], what)
		assert.True(t, slices.IsSorted(got), what)
		assert.Less(t, len(got), 400, what)
		assert.Contains(t, func() (kinds []ProblemKind) {
			for _, p := range r.Problems() {
				kinds = append(kinds, p.Kind)
			}
			return kinds
		}(), Gap, what)
	}
}

// A log is followed into the next segments while they are begun and compressed.
func TestFollowSegments(t *testing.T) {
	defer goleak.VerifyNone(t)
	dir := t.TempDir()
	f, err := Create(dir, 2000)
	require.NoError(t, err)
	w := NewWriter(f)
	require.NoError(t, w.Write(heldRecord(1)))
	require.NoError(t, w.Flush())
	in, err := OpenDir(dir)
	require.NoError(t, err)
	defer in.Close()
	var got []int
	r := NewReader(in)
	done := make(chan error)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	go func() {
		done <- r.Follow(ctx, func(rec *Record) { got = append(got, int(rec.N)) }, func() error { return nil })
	}()
	const records = 3000
	for n := 2; n < records; n++ {
		require.NoError(t, w.Write(heldRecord(n)))
		if n%7 == 0 {
			require.NoError(t, w.Flush())
		}
		if n%20 == 0 {
			time.Sleep(time.Millisecond) // so that it is read meanwhile
		}
	}
	require.NoError(t, w.Write(Record{N: records, Host: "h", Trailer: &Trailer{}}))
	require.NoError(t, w.Flush())
	require.NoError(t, <-done)
	assert.Equal(t, upTo(records), got)
	assert.Empty(t, r.Problems())
	require.NoError(t, f.Close())
	assert.Greater(t, len(names(t, dir)), 50)
	again, _ := numbersIn(t, dir)
	assert.Equal(t, got, again)
}

func TestFullDiskWhileCompressing(t *testing.T) {
	dir := segmented(t, 10)
	f := &File{dir: dir, closing: make(chan struct{})}
	assert.Error(t, f.pack(filepath.Join(dir, "nothing"), filepath.Join(dir, "x")))
	assert.Error(t, f.pack(filepath.Join(dir, FileName), filepath.Join(dir, "no", "such")))
	assert.Equal(t, []string{FileName}, names(t, dir), "no half file stays")
	bad := errors.New("full")
	assert.ErrorIs(t, f.compress(failing{bad}, bytes.NewReader(make([]byte, 1<<20)), 1<<20), bad)
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }
