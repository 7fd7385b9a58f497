package runlog

import (
	"bytes"
	"compress/zlib"
	"encoding/base64"
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// histogramText packs a histogram's header and counts as Latency carries them.
func histogramText(plain []byte) string {
	var z bytes.Buffer
	w := zlib.NewWriter(&z)
	_, _ = w.Write(plain)
	_ = w.Close()
	head := binary.BigEndian.AppendUint32(nil, compressedCookie)
	head = binary.BigEndian.AppendUint32(head, uint32(z.Len()))
	return base64.StdEncoding.EncodeToString(append(head, z.Bytes()...))
}

func histogramPlain(t testing.TB, text string) []byte {
	t.Helper()
	raw, err := base64.StdEncoding.DecodeString(text)
	require.NoError(t, err)
	z, err := zlib.NewReader(bytes.NewReader(raw[8:]))
	require.NoError(t, err)
	var b bytes.Buffer
	_, err = b.ReadFrom(z)
	require.NoError(t, err)
	return b.Bytes()
}

func sameHistogram(t *testing.T, text string) {
	t.Helper()
	got := inflate(text)
	if got == nil {
		return // the library decides
	}
	want, err := hdrhistogram.DecodePacked([]byte(text))
	require.NoError(t, err, "the library takes what we take")
	require.Equal(t, want.TotalCount(), got.TotalCount())
	require.Equal(t, want.HighestTrackableValue(), got.HighestTrackableValue())
	x, err := want.Encode()
	require.NoError(t, err)
	y, err := got.Encode()
	require.NoError(t, err)
	require.Equal(t, string(x), string(y))
}

// Histograms of a run are decoded by ourselves, to what the library would say.
func TestInflateIsTheLibrary(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for digits := 1; digits <= 3; digits++ {
		for _, highest := range []int64{2, 1000, 60_000_000, 1 << 40} {
			for range 50 {
				h := hdrhistogram.New(1, highest, digits)
				for range r.IntN(300) + 1 {
					require.NoError(t, h.RecordValues(r.Int64N(r.Int64N(highest)+1), r.Int64N(1<<r.IntN(30))+1))
				}
				text, err := EncodeHistogram(h)
				require.NoError(t, err)
				require.NotNil(t, inflate(text))
				sameHistogram(t, text)
				require.NotNil(t, inflate(text), "the inflater can be used again")
			}
		}
	}
	for _, text := range []string{"", "x", "AAAA", histogramText(nil), histogramText(make([]byte, 40))} {
		assert.Nil(t, inflate(text))
		_, err := DecodeHistogram(text)
		assert.Error(t, err)
	}
	empty, err := EncodeHistogram(hdrhistogram.New(1, 1000, 2))
	require.NoError(t, err)
	h, err := DecodeHistogram(empty)
	require.NoError(t, err)
	assert.Zero(t, h.TotalCount())
}

func FuzzInflate(f *testing.F) {
	h := hdrhistogram.New(1, 60_000_000, 2)
	for i := range int64(200) {
		require.NoError(f, h.RecordValues(i*i*37%400_000, i+1))
	}
	text, err := EncodeHistogram(h)
	require.NoError(f, err)
	plain := histogramPlain(f, text)
	f.Add(plain)
	f.Add(plain[:60])
	f.Add(append(bytes.Clone(plain[:40]), 1, 1, 1))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) >= histogramHeader { // else hardly any input gets past this
			binary.BigEndian.PutUint32(b[4:], uint32(len(b)-histogramHeader))
		}
		sameHistogram(t, histogramText(b))
	})
}

func BenchmarkDecodeHistogram(b *testing.B) {
	h := hdrhistogram.New(1, 60_000_000, 2)
	for i := range 200 {
		require.NoError(b, h.RecordValue(int64(150+(i*i*37)%400+i/190*5000)))
	}
	text, err := EncodeHistogram(h)
	require.NoError(b, err)
	b.Run("ours", func(b *testing.B) {
		for b.Loop() {
			_, _ = DecodeHistogram(text)
		}
	})
	b.Run("library", func(b *testing.B) {
		for b.Loop() {
			_, _ = hdrhistogram.DecodePacked([]byte(text))
		}
	})
}
