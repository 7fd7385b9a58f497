package serve

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/tablefull/tablefull/report"
)

// What an experiment leaves beside its runs' directories.
const (
	experimentFile = "experiment.json"
	comparisonFile = "comparison.json"
	comparisonPage = "comparison.html"
	// maxPage is how large a page may be to be sent on.
	maxPage = 64 << 20
)

// pagePolicy is for a page that is sent on as it lies in the folder: whoever wrote
// it, it may draw itself, and read nothing of the other pages here.
const pagePolicy = "sandbox allow-scripts; default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"

// A Comparison is the runs of a scenario with arms, or of a gate, beside each other:
// one line of the list.
type Comparison struct {
	Dir      string // below the folder, with slashes
	Scenario string
	Started  string // of its first run, RFC 3339; empty where unknown
	Arms     int
	Verdict  report.Verdict // empty where it was not compared, or not yet
	Headline string
	Made     int // runs, of as many as were planned
	Planned  int
	Page     bool   // there is one to open
	Problem  string // why it cannot be read; empty where it can

	stamp string // of the files that it was read from
}

// lookComparison reads what there is of a comparison in dir. Files that have not
// changed since are not read again.
func (l *library) lookComparison(dir string) *Comparison {
	stamp, any := "", false
	for _, name := range []string{experimentFile, comparisonFile, comparisonPage} {
		info, err := l.root.Stat(path.Join(dir, name))
		if err != nil || !info.Mode().IsRegular() {
			continue
		}
		any = any || name != comparisonPage
		stamp += fmt.Sprintln(name, info.Size(), info.ModTime().UnixNano())
	}
	if !any {
		return nil
	}
	if old := l.compared[dir]; old != nil && old.stamp == stamp {
		return old
	}
	c := &Comparison{Dir: dir, stamp: stamp, Page: strings.Contains(stamp, comparisonPage)}
	if err := l.readComparison(c); err != nil {
		c.Problem = err.Error()
	}
	return c
}

// readComparison fills in what its two files say.
func (l *library) readComparison(c *Comparison) error {
	var e report.Experiment
	if found, err := l.readJSON(path.Join(c.Dir, experimentFile), &e); err != nil {
		return err
	} else if found {
		c.Scenario, c.Arms, c.Planned = e.Scenario, len(e.Arms), len(e.Order)
		for _, r := range e.Runs {
			if r.Discarded == "" {
				c.Made++
			}
		}
	}
	var v report.Comparison
	found, err := l.readJSON(path.Join(c.Dir, comparisonFile), &v)
	if err != nil || !found {
		return err
	}
	if v.Format != report.ComparisonVersion {
		return fmt.Errorf("%s has format %d, and %d is known here", comparisonFile, v.Format, report.ComparisonVersion)
	}
	c.Scenario, c.Arms, c.Verdict, c.Headline = cmp.Or(v.Scenario, c.Scenario), len(v.Arms), v.Verdict, v.Headline
	for _, a := range v.Arms {
		for _, r := range a.Runs {
			if r.Started != "" && (c.Started == "" || earlier(r.Started, c.Started)) {
				c.Started = r.Started
			}
		}
	}
	return nil
}

// readJSON reads a file of the folder; found is false where there is none.
func (l *library) readJSON(name string, into any) (found bool, err error) {
	info, err := l.root.Stat(name)
	if err != nil || !info.Mode().IsRegular() {
		return false, nil
	}
	if info.Size() > maxSummary {
		return false, fmt.Errorf("read %s: it is larger than %d MiB", path.Base(name), maxSummary>>20)
	}
	b, err := l.root.ReadFile(name)
	if err != nil {
		return false, fmt.Errorf("read comparison: %w", err)
	}
	if err := json.Unmarshal(b, into); err != nil {
		return false, fmt.Errorf("read %s: %w", path.Base(name), err)
	}
	return true, nil
}

// comparisons returns those of the folder, newest first.
func (l *library) comparisons() []Comparison {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rescan()
	var out []Comparison
	for _, c := range l.compared {
		out = append(out, *c)
	}
	slices.SortFunc(out, func(a, b Comparison) int { return cmp.Or(b.when().Compare(a.when()), cmp.Compare(a.Dir, b.Dir)) })
	return out
}

func (c Comparison) when() time.Time {
	t, _ := time.Parse(time.RFC3339Nano, c.Started)
	return t
}

// comparison sends on the page of a comparison as it was made.
func (s *Server) comparison(w http.ResponseWriter, r *http.Request) {
	dir := r.URL.Query().Get("dir")
	known := slices.ContainsFunc(s.lib.comparisons(), func(c Comparison) bool { return c.Dir == dir && c.Page })
	if !known {
		http.Error(w, fmt.Sprintf("%q is no comparison of this folder", dir), http.StatusNotFound)
		return
	}
	b, err := readPage(s.lib.root, path.Join(dir, comparisonPage))
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Security-Policy", pagePolicy)
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	back := []byte("<body>\n<p><a href=\"/\">All runs</a></p>")
	_, _ = w.Write(bytes.Replace(b, []byte("<body>"), back, 1)) // a reader that has gone
}

func readPage(root *os.Root, name string) ([]byte, error) {
	info, err := root.Stat(name)
	if err == nil && (!info.Mode().IsRegular() || info.Size() > maxPage) {
		err = fmt.Errorf("%s is no file of at most %d MiB", path.Base(name), maxPage>>20)
	}
	if err != nil {
		return nil, fmt.Errorf("read page: %w", err)
	}
	b, err := root.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("read page: %w", err)
	}
	return b, nil
}
