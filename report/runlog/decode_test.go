package runlog

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"
)

// A line with one wrong byte is refused exactly where encoding/json refuses
// it, and else read as it reads it: damage must not go unseen for speed.
func TestDecodeIsEncodingJSON(t *testing.T) {
	log := bytes.TrimSpace(lines(t, everyKind()))
	for line := range bytes.SplitSeq(log, []byte("\n")) {
		for i := range line {
			for _, wrong := range []byte{'x', '"', '{', '}', '[', ',', ':', '0', '-', '.', 'e', '\\', ' ', 0, 0xff} {
				damaged := bytes.Clone(line)
				damaged[i] = wrong
				var want, got Record
				wantErr, err := json.Unmarshal(damaged, &want), new(decoder).decode(damaged, &got)
				require.Equal(t, wantErr == nil, err == nil, "%s: %v, %v", damaged, wantErr, err)
				if err == nil {
					require.Equal(t, want, got, "%s", damaged)
				}
			}
		}
	}
}
