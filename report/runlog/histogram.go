package runlog

import (
	"bytes"
	"compress/zlib"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"sync"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// DecodeHistogram decodes what Latency carries. The memory it takes grows with
// the number of different values, whatever s says about their range.
func DecodeHistogram(s string) (*hdrhistogram.PackedHistogram, error) {
	if h := inflate(s); h != nil {
		return h, nil
	}
	h, err := hdrhistogram.DecodePacked([]byte(s))
	if err != nil {
		return nil, fmt.Errorf("decode histogram: %w", err)
	}
	return h, nil
}

// The format, HdrHistogram's V2: 4 bytes of this cookie and 4 of a length
// before a zlib stream, and in that 40 bytes of header before the counts.
const (
	compressedCookie = 0x1c849314
	plainCookie      = 0x1c849313
	histogramHeader  = 40
	// maxPayload is far above what the histograms of a real run need.
	maxPayload = 64 << 10
)

// An inflater is what decoding a histogram needs, to be used again: that makes
// it three times as fast as the library, whose most time goes into a new zlib
// reader's 40 KB for each.
type inflater struct {
	raw, plain []byte
	in         bytes.Reader
	z          io.ReadCloser
}

var inflaters = sync.Pool{New: func() any { return &inflater{plain: make([]byte, histogramHeader+maxPayload+1)} }}

// inflate decodes a histogram as Writer's are, and nil where anything about it
// is unusual: the library decides about those.
func inflate(s string) *hdrhistogram.PackedHistogram {
	f := inflaters.Get().(*inflater)
	defer inflaters.Put(f)
	raw, err := base64.StdEncoding.AppendDecode(f.raw[:0], []byte(s))
	f.raw = raw
	if err != nil || len(raw) < 8 || binary.BigEndian.Uint32(raw) != compressedCookie || uint64(binary.BigEndian.Uint32(raw[4:])) != uint64(len(raw)-8) {
		return nil
	}
	f.in.Reset(raw[8:])
	if f.z == nil {
		f.z, err = zlib.NewReader(&f.in)
	} else {
		err = f.z.(zlib.Resetter).Reset(&f.in, nil)
	}
	if err != nil {
		return nil
	}
	n, err := io.ReadFull(f.z, f.plain)
	if !errors.Is(err, io.ErrUnexpectedEOF) { // a shorter text is what is usual, whose checksum was right
		return nil
	}
	return unpack(f.plain[:n])
}

// unpack reads the header and the counts.
func unpack(b []byte) *hdrhistogram.PackedHistogram {
	if len(b) < histogramHeader || binary.BigEndian.Uint32(b) != plainCookie || uint64(binary.BigEndian.Uint32(b[4:])) != uint64(len(b)-histogramHeader) {
		return nil
	}
	digits := binary.BigEndian.Uint32(b[12:])
	low, high := binary.BigEndian.Uint64(b[16:]), binary.BigEndian.Uint64(b[24:])
	if low != 1 || high < 2 || high > 1<<40 || digits < 1 || digits > 3 || binary.BigEndian.Uint64(b[32:]) != 0x3ff0000000000000 {
		return nil
	}
	h := hdrhistogram.NewPacked(1, int64(high), int(digits))
	// As the library lays counts out: each power of two has half as many as
	// it takes to tell values apart by that many digits.
	subBuckets := uint64(1) << bits.Len64(2*[]uint64{10, 100, 1000}[digits-1]-1)
	half, at, last := subBuckets/2, uint64(0), int64(0)
	for b = b[histogramHeader:]; len(b) > 0; {
		v, n := varint(b)
		if n == 0 || at > 41*half { // a value above 1<<40, which shifting must not lose
			return nil
		}
		b, last = b[n:], v
		if v < 0 {
			at += uint64(-v) // so many zeros
			continue
		}
		value := at
		if at >= subBuckets {
			value = (at%half + half) << (at/half - 1)
		}
		if value > high || v > 1<<40 || h.RecordValues(int64(value), v) != nil {
			return nil
		}
		at++
	}
	if last <= 0 { // zeros at the end, which nobody writes, may go too far
		return nil
	}
	return h
}

// varint reads a zigzag LEB128 number of at most 8 bytes; n is 0 where there
// is none.
func varint(b []byte) (v int64, n int) {
	u, n := binary.Uvarint(b[:min(len(b), 8)])
	if n <= 0 {
		return 0, 0
	}
	return int64(u>>1) ^ -int64(u&1), n
}
