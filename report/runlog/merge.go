package runlog

import (
	"errors"
	"fmt"
	"math"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Add adds the counts of an increment for the same traffic and the same
// stretch of time. It never changes src, and copies its maps.
func (b *Bin) Add(src Bin) {
	b.Due += src.Due
	b.Started += src.Started
	b.Late += src.Late
	b.LostPackets += src.LostPackets
	if len(src.NotStarted) > 0 && b.NotStarted == nil {
		b.NotStarted = make(map[NotStartedReason]uint64, len(src.NotStarted))
	}
	for k, v := range src.NotStarted {
		b.NotStarted[k] += v
	}
	if len(src.Outcomes) > 0 && b.Outcomes == nil {
		b.Outcomes = make(map[Outcome]uint64, len(src.Outcomes))
	}
	for k, v := range src.Outcomes {
		b.Outcomes[k] += v
	}
}

// EncodeHistogram is the form in which Latency carries a histogram: V2
// compressed, base64.
func EncodeHistogram(h *hdrhistogram.Histogram) (string, error) {
	b, err := h.Encode(hdrhistogram.V2CompressedEncodingCookieBase)
	if err != nil {
		return "", fmt.Errorf("encode histogram: %w", err)
	}
	return string(b), nil
}

// MergeHistogram adds an encoded increment to dst and returns the sum. A nil
// dst, as well as one whose range is too narrow for the increment, is replaced
// by a wider one. It fails, and leaves dst as it was, where s is not a
// histogram or the counts would overflow.
func MergeHistogram(dst *hdrhistogram.Histogram, s string) (*hdrhistogram.Histogram, error) {
	src, err := DecodeHistogram(s)
	if err != nil {
		return dst, err
	}
	return AddHistogram(dst, src)
}

// AddHistogram is MergeHistogram of an increment that has been decoded, which
// it leaves as it is.
func AddHistogram(dst *hdrhistogram.Histogram, src *hdrhistogram.PackedHistogram) (*hdrhistogram.Histogram, error) {
	if dst != nil && src.TotalCount() > math.MaxInt64-dst.TotalCount() {
		return dst, errors.New("merge histograms: the counts overflow")
	}
	if dst == nil || src.HighestTrackableValue() > dst.HighestTrackableValue() {
		wider := hdrhistogram.New(src.LowestTrackableValue(), src.HighestTrackableValue(), int(src.SignificantFigures()))
		if dst != nil {
			if dropped := wider.Merge(dst); dropped > 0 {
				return dst, fmt.Errorf("merge histograms: %d values are out of range", dropped)
			}
		}
		dst = wider
	}
	if dropped := src.MergeInto(dst); dropped > 0 {
		return dst, fmt.Errorf("merge histograms: %d values are out of range", dropped)
	}
	return dst, nil
}

// Histograms decodes what it carries: started is nil where that is missing.
// It can be called again at no cost. It fails where one is no histogram.
func (l *Latency) Histograms() (due, started *hdrhistogram.PackedHistogram, err error) {
	if l.due == nil && l.err == nil {
		if l.due, l.err = DecodeHistogram(l.FromDue); l.err == nil && l.Started != "" {
			l.started, l.err = DecodeHistogram(l.Started)
		}
	}
	return l.due, l.started, l.err
}
