package serve

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"html/template"
	"net/http"
	"net/url"
	"path"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/tablefull/tablefull/report"
)

var pageFuncs = template.FuncMap{
	"run":        func(dir string) string { return link("/run", "dir", dir) },
	"comparison": func(dir string) string { return link("/comparison", "dir", dir) },
	// breakable lets a path be broken between its folders first.
	"breakable": func(dir string) template.HTML {
		return template.HTML(strings.ReplaceAll(template.HTMLEscapeString(dir), "/", "/<wbr>")) //nolint:gosec // escaped
	},
	// when is like the report's, to the second: runs follow each other quickly.
	"when": func(s string) string {
		t, err := time.Parse(time.RFC3339Nano, s)
		if err != nil {
			return s
		}
		return t.UTC().Format("2006-01-02 15:04:05")
	},
	"n": func(v uint64) string {
		s := strconv.FormatUint(v, 10)
		for i := len(s) - 3; i > 0; i -= 3 {
			s = s[:i] + "," + s[i:]
		}
		return s
	},
	"prose": report.Prose,
}

type listView struct {
	Dir      string
	Runs     []Run
	Compared []Comparison
	More     int // runs are not listed beyond this many; 0 for none
	Problem  string
	Quiet    int // s
	Reading  bool
}

func (s *Server) listView() listView {
	runs, more, problem := s.lib.list()
	v := listView{Dir: s.dir, Runs: runs, Compared: s.lib.comparisons(), Problem: problem, Quiet: int(quietFor.Seconds())}
	if more {
		v.More = maxRuns
	}
	return v
}

func (s *Server) list(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Security-Policy", listPolicy)
	s.page(w, http.StatusOK, "list", s.listView())
}

// page writes one of our own pages whole, or says that it cannot.
func (s *Server) page(w http.ResponseWriter, status int, name string, data any) {
	var b bytes.Buffer
	if err := s.pages.ExecuteTemplate(&b, name, data); err != nil {
		http.Error(w, "render page: "+err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_, _ = b.WriteTo(w) // a reader that has gone
}

// listEvents says when the list has changed.
func (s *Server) listEvents(w http.ResponseWriter, r *http.Request) {
	s.stream(w, r, func() (news, bool) {
		var b bytes.Buffer
		err := s.pages.ExecuteTemplate(&b, "runs", s.listView())
		sum := sha256.Sum256(b.Bytes())
		return listNews{hex.EncodeToString(sum[:8])}, err != nil
	})
}

// listNews names one content of the list.
type listNews struct {
	List string `json:"list"`
}

func (n listNews) key() string { return n.List }

// script is what makes a report's page live, and leads from it to the list.
func (s *Server) script(dir string, m message) (string, error) {
	b, err := json.Marshal(struct {
		Dir string  `json:"dir"`
		Now message `json:"now"`
	}{dir, m})
	if err != nil {
		return "", fmt.Errorf("encode script: %w", err)
	}
	// Marshal has escaped <, > and &, so nothing in it can end the element.
	return strings.Replace(s.live, "/*RUN*/ null", string(b), 1), nil
}

// noRun answers where there is no such run.
func noRun(w http.ResponseWriter, dir string) {
	http.Error(w, fmt.Sprintf("%q is no run of this folder", dir), http.StatusNotFound)
}

// message is what a page is told about its run.
type message struct {
	State   State   `json:"state"`
	Page    string  `json:"page"`    // which rendering there is; empty before the first
	Started string  `json:"started"` // RFC 3339; empty where unknown
	Quiet   float64 `json:"quiet"`   // s since the log has grown, whole ones
	RunTime float64 `json:"runTime"` // s of run time that the page shows
	Planned float64 `json:"planned"` // s of traffic
	Problem string  `json:"problem"` // why the log is not read on; empty where it is
	LimitS  float64 `json:"limit"`   // s after which a log that stands still is of a dead run
}

// key is part of news. How long a log has stood still is news only as long as
// something follows from it.
func (m message) key() string {
	if m.State != Running {
		m.Quiet = 0
	}
	return fmt.Sprint(m)
}

// look is what is known of a run at this moment.
func (s *Server) look(run Run, v view) message {
	m := message{State: v.state(run), Started: run.Started, Quiet: float64(int(run.Quiet)), LimitS: quietFor.Seconds()}
	if m.State == Finished {
		m.Quiet = 0
	}
	if v.final != nil {
		m.Page = fmt.Sprintf("%d %s", v.version, m.State)
		m.RunTime, m.Planned = runTime(v.final), v.final.Environment.DurationS
	}
	if v.err != nil {
		m.Problem = v.err.Error()
	}
	return m
}

// runTime is the last moment that the findings know of, in s.
func runTime(f *report.Findings) (last float64) {
	for _, n := range f.Timeline.Nodes {
		if len(n.T) > 0 {
			last = max(last, n.T[len(n.T)-1])
		}
	}
	if l := f.Timeline.Load; len(l.T) > 0 {
		last = max(last, l.T[len(l.T)-1])
	}
	return last
}

// run is the report of a run, live where it is going on.
func (s *Server) run(w http.ResponseWriter, r *http.Request) {
	run, f, v, ok := s.open(w, r, 1500*time.Millisecond)
	switch {
	case !ok:
		return
	case f != nil && v.final == nil && v.err == nil:
		w.Header().Set("Content-Security-Policy", listPolicy)
		w.Header().Set("Refresh", "1")
		s.page(w, http.StatusOK, "reading", map[string]any{"Dir": run.Dir, "Percent": int(f.progress() * 100)})
		return
	case v.final == nil:
		http.Error(w, v.err.Error(), http.StatusInternalServerError)
		return
	}
	m := s.look(run, v)
	script, err := s.script(run.Dir, m)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	began := time.Now()
	var b bytes.Buffer
	if err := (report.Page{Script: script, Connect: "'self'"}).Render(v.of(m.State), &b); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	f.drew(time.Since(began))
	w.Header().Set("Content-Security-Policy", reportPolicy)
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("X-Tablefull-Page", m.Page)
	_, _ = b.WriteTo(w) // a reader that has gone
}

// open finds the run that a request is about and waits for its findings, at
// most for a while; 0 for as long as the request lasts. Where there is no such
// run it answers, and ok is false.
func (s *Server) open(w http.ResponseWriter, r *http.Request, wait time.Duration) (run Run, f *follower, v view, ok bool) {
	dir := r.URL.Query().Get("dir")
	return s.openRun(w, r, dir, wait)
}

func (s *Server) openRun(w http.ResponseWriter, r *http.Request, dir string, wait time.Duration) (run Run, f *follower, v view, ok bool) {
	run, ok = s.lib.find(dir)
	if !ok {
		noRun(w, dir)
		return run, nil, v, false
	}
	f, err := s.follow.get(dir)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return run, nil, v, false
	}
	v, _ = f.now(r.Context(), wait)
	return run, f, v, true
}

func (f *follower) drew(took time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.drawn = took
}

// runEvents says how a run goes on, until it has ended.
func (s *Server) runEvents(w http.ResponseWriter, r *http.Request) {
	dir := r.URL.Query().Get("dir")
	if _, ok := s.lib.find(dir); !ok {
		noRun(w, dir)
		return
	}
	s.stream(w, r, func() (news, bool) {
		run, ok := s.lib.find(dir)
		if !ok {
			return message{State: "gone"}, true
		}
		f, err := s.follow.get(dir)
		if err != nil {
			return message{State: run.State, Problem: err.Error()}, true
		}
		v := f.watch()
		m := s.look(run, v)
		return m, m.State == Finished && m.Page != "" || v.err != nil
	})
}

// types are what the formats are, for browsers.
var types = map[string]string{
	"text": "text/plain; charset=utf-8", "markdown": "text/plain; charset=utf-8", "json": "application/json", "csv": "text/csv; charset=utf-8",
	"junit": "application/xml", "gobench": "text/plain; charset=utf-8", "openmetrics": "text/plain; charset=utf-8",
	"svg": "image/svg+xml", "png": "image/png", "html": "text/html; charset=utf-8",
}

var extensions = map[string]string{"text": "txt", "markdown": "md", "junit": "xml", "gobench": "bench.txt", "openmetrics": "prom"}

// file is one rendering of a run: what tablefull report prints at this moment.
func (s *Server) file(w http.ResponseWriter, r *http.Request) {
	format := r.URL.Query().Get("format")
	kind, known := types[format]
	if !known {
		http.Error(w, fmt.Sprintf("format %q: there is csv, gobench, html, json, junit, markdown, openmetrics, png, svg and text", format), http.StatusBadRequest)
		return
	}
	run, _, v, ok := s.open(w, r, 0)
	if !ok {
		return
	}
	if v.final == nil {
		http.Error(w, "the log could not be read: "+errText(v.err), http.StatusInternalServerError)
		return
	}
	var b bytes.Buffer
	if err := report.Render(format, v.final, &b); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	how := "inline"
	if format == "html" { // it is to be kept; the page here is the live one
		how = "attachment"
	}
	w.Header().Set("Content-Type", kind)
	w.Header().Set("Content-Disposition", fmt.Sprintf("%s; filename=%q", how, fileName(run, v.final, format)))
	_, _ = b.WriteTo(w) // a reader that has gone
}

func errText(err error) string {
	if err == nil {
		return "it took too long"
	}
	return err.Error()
}

var odd = regexp.MustCompile(`[^A-Za-z0-9._-]+`)

func fileName(run Run, f *report.Findings, format string) string {
	name := path.Base(run.Dir)
	if name == "." {
		name = cmp.Or(f.Scenario, "run")
	}
	return strings.Trim(odd.ReplaceAllString(name, "-"), "-.") + "." + cmp.Or(extensions[format], format)
}

// overlay lays two runs over each other: the earlier one is A, unless the
// order is asked for as given.
func (s *Server) overlay(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	dirs := q["run"]
	if len(dirs) != 2 {
		w.Header().Set("Content-Security-Policy", listPolicy)
		s.page(w, http.StatusBadRequest, "choose", map[string]any{"Chosen": len(dirs)})
		return
	}
	var runs [2]Run
	var found [2]*report.Findings
	for i, dir := range dirs {
		run, _, v, ok := s.openRun(w, r, dir, 0)
		if !ok {
			return
		}
		if v.final == nil {
			http.Error(w, fmt.Sprintf("the log of %q could not be read: %s", dir, errText(v.err)), http.StatusInternalServerError)
			return
		}
		runs[i], found[i] = run, v.of(v.state(run))
	}
	if q.Get("order") != "given" && earlier(runs[1].Started, runs[0].Started) {
		runs[0], runs[1], found[0], found[1] = runs[1], runs[0], found[1], found[0]
	}
	o := report.Overlay{
		A: found[0], B: found[1], NameA: s.name(runs[0]), NameB: s.name(runs[1]), StateA: stateText(found[0]), StateB: stateText(found[1]),
		LinkA: link("/run", "dir", runs[0].Dir), LinkB: link("/run", "dir", runs[1].Dir), Back: "/",
		Swap: "/overlay?" + url.Values{"run": {runs[1].Dir, runs[0].Dir}, "order": {"given"}}.Encode(),
	}
	var b bytes.Buffer
	if err := o.Render(&b); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Security-Policy", reportPolicy)
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	_, _ = b.WriteTo(w) // a reader that has gone
}

func link(page, key, value string) string { return page + "?" + url.Values{key: {value}}.Encode() }

func earlier(a, b string) bool {
	x, errX := time.Parse(time.RFC3339Nano, a)
	y, errY := time.Parse(time.RFC3339Nano, b)
	return errX == nil && errY == nil && x.Before(y)
}

// name is what a run is called on a page: its directory below the folder.
func (s *Server) name(r Run) string {
	if r.Dir == "." {
		return s.dir
	}
	return r.Dir
}

func stateText(f *report.Findings) string {
	if f.Verdict == report.Live {
		return "still going: this page shows it as it was when the page was loaded"
	}
	return ""
}
