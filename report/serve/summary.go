package serve

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"time"

	"github.com/tablefull/tablefull/report"
	"github.com/tablefull/tablefull/report/runlog"
)

const (
	// maxSummary is how large a summary.json may be to be read.
	maxSummary = 64 << 20
	// headBytes and tailBytes are how much of a log's ends is looked at. A
	// trailer is much shorter.
	headBytes, tailBytes = 1 << 20, 256 << 10
)

// A head is what the first records of a log say.
type head struct {
	Scenario, Started string
	Every             time.Duration // between samples
}

// A Summary is what the list says of a run that has been read.
type Summary struct {
	Verdict    report.Verdict `json:"verdict"`
	Reproduced *bool          `json:"reproduced"`
	Headline   string         `json:"headline"`
	Incomplete bool           `json:"incomplete"`
	Knee       report.Knee    `json:"knee"`
	Failed     uint64         `json:"-"`
	Due        uint64         `json:"-"`
	Measured   bool           `json:"-"` // whether the kernel's drops were counted on some node
	Scenario   string         `json:"scenario"`
}

// Badge is the verdict as it stands above the run's report.
func (s *Summary) Badge() string {
	f := report.Findings{Verdict: s.Verdict, Reproduced: s.Reproduced}
	return f.Badge()
}

func summaryOf(f *report.Findings) *Summary {
	s := &Summary{Verdict: f.Verdict, Reproduced: f.Reproduced, Headline: f.Headline, Incomplete: f.Incomplete, Knee: f.Knee, Scenario: f.Scenario}
	for _, t := range f.Traffic {
		s.Failed += t.Failed
		s.Due += t.Due
	}
	for _, n := range f.Nodes {
		_, counted := n.Counters["drop"]
		s.Measured = s.Measured || counted
	}
	return s
}

// storedSummary is the run's summary.json where it is not older than its log,
// else nil: then the log has to be read.
func storedSummary(root *os.Root, dir string, log time.Time) *Summary {
	name := path.Join(dir, "summary.json")
	info, err := root.Stat(name)
	if err != nil || !info.Mode().IsRegular() || info.Size() > maxSummary || info.ModTime().Before(log) {
		return nil
	}
	b, err := root.ReadFile(name)
	if err != nil {
		return nil
	}
	var s struct {
		Summary
		Format  int
		Traffic []struct{ Failed, Due uint64 }
		Nodes   []struct{ Counters map[string]uint64 }
	}
	if json.Unmarshal(b, &s) != nil || s.Format != report.FormatVersion {
		return nil
	}
	for _, t := range s.Traffic {
		s.Failed += t.Failed
		s.Due += t.Due
	}
	for _, n := range s.Nodes {
		_, counted := n.Counters["drop"]
		s.Measured = s.Measured || counted
	}
	return &s.Summary
}

// ends reads the first records of a log and its last one, and says whether
// that is the run's end.
func ends(fsys fs.FS, dir string, log runlog.Stat) (h head, ended bool, err error) {
	in, err := runlog.Open(fsys, dir)
	if err != nil {
		return h, false, err //nolint:wrapcheck // it says what and where
	}
	defer in.Close()
	r := runlog.NewReader(io.LimitReader(in, headBytes))
	for range 10 {
		rec, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return h, false, fmt.Errorf("read the head of a run log: %w", err)
		}
		if x := rec.Header; x != nil {
			h = head{x.Scenario, x.Started, time.Duration(min(max(x.SampleEvery, 0), 3600) * float64(time.Second))}
			break
		}
	}
	last, err := fsys.Open(log.LastName)
	if err != nil {
		return h, false, fmt.Errorf("read the end of a run log: %w", err)
	}
	defer last.Close()
	at, ok := last.(io.ReaderAt)
	if !ok {
		return h, false, fmt.Errorf("read the end of a run log: %s cannot be read from its end", log.LastName)
	}
	from := max(0, log.Last.Size()-tailBytes)
	tail := make([]byte, log.Last.Size()-from)
	n, err := at.ReadAt(tail, from)
	if err != nil && !errors.Is(err, io.EOF) {
		return h, false, fmt.Errorf("read the end of a run log: %w", err)
	}
	return h, isTrailer(tail[:n]), nil
}

// isTrailer says whether the last line of a text is whole and the end of a run.
func isTrailer(tail []byte) bool {
	line, whole := bytes.CutSuffix(tail, []byte("\n"))
	if !whole {
		return false
	}
	line = line[bytes.LastIndexByte(line, '\n')+1:]
	rec, err := runlog.NewReader(strings.NewReader(string(line) + "\n")).Next()
	return err == nil && rec.Trailer != nil
}
