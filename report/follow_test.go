package report

import (
	"bytes"
	"context"
	"io"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// pieces is a log that is being written: each read of it ends where the next
// piece has not been written yet.
type pieces struct {
	log []byte
	to  int
	at  int
}

func (p *pieces) Read(b []byte) (int, error) {
	n := copy(b, p.log[p.at:p.to])
	p.at += n
	if n == 0 {
		return 0, io.EOF
	}
	return n, nil
}

// However far a log has been read, its findings are those of a log that ends
// there, and asking for them changes nothing.
func TestFindingsOfAGrowingLog(t *testing.T) {
	for name, s := range goldenRuns(t) {
		log := s.log()
		in := &pieces{log: log}
		a := NewAnalysis(in)
		var earlier []*Findings
		var texts []string
		for k := 1; k <= 10; k++ {
			in.to = bytes.LastIndexByte(log[:len(log)*k/10], '\n') + 1
			require.NoError(t, a.Read())
			want, err := Analyze(bytes.NewReader(log[:in.to]))
			require.NoError(t, err)
			got := a.Findings()
			require.Equal(t, want, got, "%s, %d tenths", name, k)
			require.Equal(t, got, a.Findings(), "asked twice")
			assert.Equal(t, int64(in.to), a.Offset())
			earlier, texts = append(earlier, got), append(texts, asJSON(t, got))
		}
		for i, f := range earlier {
			require.Equal(t, texts[i], asJSON(t, f), "earlier findings stay as they were")
		}
	}
}

func asJSON(t *testing.T, f *Findings) string {
	t.Helper()
	var b bytes.Buffer
	require.NoError(t, Render("json", f, &b))
	return b.String()
}

func TestFollowARun(t *testing.T) {
	s := goldenRuns(t)["hard"]
	log := s.log()
	in := &pieces{log: log, to: len(log) / 2}
	a := NewAnalysis(in)
	var verdicts []bool
	require.NoError(t, a.Follow(t.Context(), func() error {
		verdicts = append(verdicts, a.Findings().Incomplete)
		in.to = len(log)
		return nil
	}))
	assert.Equal(t, []bool{true, false}, verdicts)
	want, err := Analyze(bytes.NewReader(log))
	require.NoError(t, err)
	assert.Equal(t, want, a.Findings(), "the half line in the middle left no trace")

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	assert.ErrorIs(t, NewAnalysis(&pieces{}).Follow(ctx, func() error { return nil }), context.Canceled)
}
