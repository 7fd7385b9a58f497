package serve

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/tablefull/tablefull/report"
	"github.com/tablefull/tablefull/report/runlog"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// logOf makes the lines of a run of n seconds whose table holds; the first is
// the header, the last the trailer.
func logOf(scenario string, n int, started string) []string {
	recs := []runlog.Record{{T: -1, Header: &runlog.Header{
		Format: runlog.Format, Version: "test", RunID: "r", Started: started, Target: "lab", Scenario: scenario, Digest: scenario, Duration: float64(n),
		Limit: 1000, Buckets: 1000, CPUs: 2, SampleEvery: 0.1, Nodes: []string{"node1"},
		Traffic: []runlog.TrafficInfo{{Name: "clients", Shape: "short_lived", To: "web", End: float64(n), Timeout: 1, ExpectsAnswer: true, EntriesPerAttempt: 1, Residence: 120}},
	}}}
	for i := range n * 10 {
		at := float64(i) / 10
		recs = append(recs,
			runlog.Record{T: at + 0.1, Bin: &runlog.Bin{Traffic: "clients", Start: at, Width: 0.1, Due: 5, Started: 5, Outcomes: map[runlog.Outcome]uint64{runlog.OK: 5}}},
			runlog.Record{Host: "node1", T: at + 0.05, Sample: &runlog.Sample{Conntrack: &runlog.Conntrack{Entries: uint64(100 + 5*i), Limit: 1000, Counters: map[string]uint64{"drop": 0, "early_drop": 0, "insert_failed": 0}}}})
	}
	recs = append(recs, runlog.Record{T: float64(n) + 1, Trailer: &runlog.Trailer{Ended: started, Outcome: "completed", Restored: true}})
	seen := map[string]uint64{}
	var out []string
	for _, r := range recs {
		if r.Host == "" {
			r.Host = "controller"
		}
		seen[r.Host]++
		r.N = seen[r.Host]
		b, err := json.Marshal(r)
		if err != nil {
			panic(err)
		}
		out = append(out, string(b)+"\n")
	}
	return out
}

const day = "2026-01-01T00:00:00Z"

func write(t *testing.T, dir, name, text string) string {
	t.Helper()
	require.NoError(t, os.MkdirAll(dir, 0o755))
	path := filepath.Join(dir, name)
	require.NoError(t, os.WriteFile(path, []byte(text), 0o644))
	return path
}

func writeLog(t *testing.T, dir string, lines []string) string {
	t.Helper()
	return write(t, dir, runlog.FileName, strings.Join(lines, ""))
}

func add(t *testing.T, path string, lines []string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	require.NoError(t, err)
	_, err = f.WriteString(strings.Join(lines, ""))
	require.NoError(t, err)
	require.NoError(t, f.Close())
}

// longAgo makes a file look as if nobody had written to it for an hour.
func longAgo(t *testing.T, path string) {
	t.Helper()
	at := time.Now().Add(-time.Hour)
	require.NoError(t, os.Chtimes(path, at, at))
}

// start serves a folder until the test ends, and returns its address.
func start(t *testing.T, dir string) (*Server, string) {
	t.Helper()
	s, err := New(dir)
	require.NoError(t, err)
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	t.Cleanup(func() {
		http.DefaultClient.CloseIdleConnections()
		cancel()
		require.NoError(t, <-done)
		require.NoError(t, s.Close())
	})
	return s, "http://" + l.Addr().String()
}

type answer struct {
	code int
	text string
	head http.Header
}

func get(t *testing.T, address string) answer {
	t.Helper()
	return ask(t, http.MethodGet, address, "")
}

func ask(t *testing.T, method, address, host string) answer {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, address, nil)
	require.NoError(t, err)
	req.Host = host
	res, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	return answer{res.StatusCode, string(b), res.Header}
}

// has is assert.Contains without the whole page in the message.
func has(t *testing.T, text, part string, why ...any) {
	t.Helper()
	assert.True(t, strings.Contains(text, part), append([]any{"no %q " + strings.Repeat("%v", len(why)), part}, why...)...)
}

func hasNot(t *testing.T, text, part string, why ...any) {
	t.Helper()
	assert.False(t, strings.Contains(text, part), append([]any{"has %q " + strings.Repeat("%v", len(why)), part}, why...)...)
}

// until asks again and again until the answer has a text.
func until(t *testing.T, address, text string) answer {
	t.Helper()
	var a answer
	require.Eventually(t, func() bool {
		a = get(t, address)
		return strings.Contains(a.text, text)
	}, 20*time.Second, 50*time.Millisecond, "%s never has %q", address, text)
	return a
}

func TestList(t *testing.T) {
	dir := t.TempDir()
	writeLog(t, filepath.Join(dir, "old"), logOf("older", 3, "2025-01-01T00:00:00Z"))
	writeLog(t, filepath.Join(dir, "ci", "new"), logOf("newer", 3, day))
	writeLog(t, filepath.Join(dir, "a", "b", "c", "d", "deep"), logOf("deep", 3, day))
	writeLog(t, filepath.Join(dir, "gates", "monday", "candidate", "2"), logOf("upgrade", 3, "2024-01-01T00:00:00Z"))
	writeLog(t, filepath.Join(dir, ".hidden"), logOf("hidden", 3, day))
	longAgo(t, writeLog(t, filepath.Join(dir, "dead"), logOf("dying", 3, "2025-06-01T00:00:00Z")[:20]))
	writeLog(t, filepath.Join(dir, "going"), logOf("going", 3, "2025-07-01T00:00:00Z")[:20])
	write(t, filepath.Join(dir, "<img src=x>"), runlog.FileName, "no log\n")
	_, base := start(t, dir)

	a := until(t, base+"/", "taken for dead")
	assert.Equal(t, http.StatusOK, a.code)
	a = until(t, base+"/", "table held")
	require.Eventually(t, func() bool { a = get(t, base+"/"); return !strings.Contains(a.text, "being read") }, 20*time.Second, 50*time.Millisecond)
	hasNot(t, a.text, "deep")
	hasNot(t, a.text, "hidden<")
	hasNot(t, a.text, "<img", "names are escaped")
	has(t, a.text, "&lt;img src=x&gt;")
	assert.Less(t, strings.Index(a.text, "newer"), strings.Index(a.text, "going"), "newest first")
	assert.Less(t, strings.Index(a.text, "going"), strings.Index(a.text, "dying"))
	assert.Less(t, strings.Index(a.text, "dying"), strings.Index(a.text, "older"))
	has(t, a.text, "running</span>")
	has(t, a.text, `href="/run?dir=ci%2Fnew"`)
	has(t, a.text, "0 of 150", "failed of due")
	has(t, a.text, `href="/run?dir=gates%2Fmonday%2Fcandidate%2F2"`, "a trial of an experiment")
	has(t, a.text, "none up to where the log ends")
}

func TestStoredSummaries(t *testing.T) {
	dir := t.TempDir()
	path := writeLog(t, filepath.Join(dir, "run"), logOf("s", 3, day))
	longAgo(t, path)
	text := `{"format":1,"verdict":"fail","headline":"as stored","traffic":[{"failed":7,"due":9}],"nodes":[{"counters":{"drop":7}}]}`
	summary := write(t, filepath.Join(dir, "run"), "summary.json", text)
	s, base := start(t, dir)
	has(t, get(t, base+"/").text, "as stored")
	has(t, get(t, base+"/").text, "7 of 9")

	s.lib.mu.Lock()
	s.lib.items = map[string]*item{}
	s.lib.mu.Unlock()
	at := time.Now().Add(-2 * time.Hour)
	require.NoError(t, os.Chtimes(summary, at, at))
	a := until(t, base+"/", "table held")
	hasNot(t, a.text, "as stored", "older than the log")
}

func TestNewRunsAppear(t *testing.T) {
	dir := t.TempDir()
	_, base := start(t, dir)
	has(t, get(t, base+"/").text, "No run here yet")
	events := listen(t, base+"/events")
	first := events.next(t)
	writeLog(t, filepath.Join(dir, "one"), logOf("s", 2, day))
	assert.NotEqual(t, first, events.next(t))
	until(t, base+"/", "dir=one")
	require.NoError(t, os.RemoveAll(filepath.Join(dir, "one")))
	until(t, base+"/", "No run here yet")
}

func TestReportAndFormats(t *testing.T) {
	dir := t.TempDir()
	writeLog(t, filepath.Join(dir, `a"b`), logOf("short-lived", 3, day))
	write(t, filepath.Join(dir, `a"b`), "report.html", "an old one")
	_, base := start(t, dir)
	run := base + "/run?dir=" + url.QueryEscape(`a"b`)
	a := get(t, run)
	require.Equal(t, http.StatusOK, a.code)
	has(t, a.text, "table held", "from the log, not from the file")
	has(t, a.text, "connect-src &#39;self&#39;")
	has(t, a.text, `"dir":"a\"b"`)
	for format, kind := range types {
		f := get(t, base+"/run/file?format="+format+"&dir="+url.QueryEscape(`a"b`))
		assert.Equal(t, http.StatusOK, f.code, format)
		assert.Equal(t, kind, f.head.Get("Content-Type"), format)
		assert.Contains(t, f.head.Get("Content-Disposition"), `filename="a-b.`, format)
		assert.Contains(t, f.head.Get("Content-Security-Policy"), "sandbox", format)
		assert.NotEmpty(t, f.text, format)
	}
	assert.Equal(t, http.StatusBadRequest, get(t, base+"/run/file?format=color&dir=x").code)
	for _, f := range report.FormatList() {
		if f.Name != "color" {
			assert.Contains(t, types, f.Name)
		}
	}
}

func TestOverlay(t *testing.T) {
	dir := t.TempDir()
	writeLog(t, filepath.Join(dir, "late"), logOf("late-one", 3, day))
	writeLog(t, filepath.Join(dir, "early"), logOf("early-one", 4, "2025-01-01T00:00:00Z"))
	_, base := start(t, dir)
	a := get(t, base+"/overlay?run=late&run=early")
	require.Equal(t, http.StatusOK, a.code)
	has(t, a.text, "<title>early and late", "the earlier is A")
	has(t, a.text, "They were not made alike")
	has(t, get(t, base+"/overlay?run=late&run=early&order=given").text, "<title>late and early")
	assert.Equal(t, http.StatusBadRequest, get(t, base+"/overlay?run=late").code)
	assert.Equal(t, http.StatusNotFound, get(t, base+"/overlay?run=late&run=..").code)
}

func TestNothingOutsideTheFolder(t *testing.T) {
	outside := t.TempDir()
	writeLog(t, filepath.Join(outside, "secret"), logOf("secret-one", 3, day))
	dir := filepath.Join(outside, "runs")
	writeLog(t, filepath.Join(dir, "own"), logOf("own", 3, day))
	require.NoError(t, os.Symlink(filepath.Join(outside, "secret"), filepath.Join(dir, "link")))
	require.NoError(t, os.Mkdir(filepath.Join(dir, "filelink"), 0o755))
	require.NoError(t, os.Symlink(filepath.Join(outside, "secret", runlog.FileName), filepath.Join(dir, "filelink", runlog.FileName)))
	_, base := start(t, dir)
	a := until(t, base+"/", "dir=own")
	hasNot(t, a.text, "dir=link")
	hasNot(t, a.text, "dir=filelink")
	for _, name := range []string{
		"..", "../secret", "own/../../secret", "/", "/etc", outside + "/secret", "link", "filelink", "own/", "./own", "", "own\x00", "%2e%2e/secret", `..\secret`,
	} {
		for _, page := range []string{"/run?", "/run/file?format=json&", "/run/events?"} {
			a := get(t, base+page+url.Values{"dir": {name}}.Encode())
			assert.Equal(t, http.StatusNotFound, a.code, "%s %q", page, name)
			hasNot(t, a.text, "secret-one")
		}
	}
	for _, path := range []string{"/assets/", "/assets/list.html", "/assets/../serve.go", "/own/run.jsonl", "/../secret/run.jsonl", "/run/"} {
		assert.Equal(t, http.StatusNotFound, get(t, base+path).code, path)
	}
}

func TestGuard(t *testing.T) {
	_, base := start(t, t.TempDir())
	for host, code := range map[string]int{
		"localhost:8017": 200, "LOCALHOST": 200, "127.0.0.1:1": 200, "127.9.9.9": 200, "[::1]:8017": 200,
		"evil.example:8017": 403, "evil.example": 403, "127.0.0.1.evil.example": 403, "localhost.evil.example": 403, "192.0.2.1": 403,
	} {
		assert.Equal(t, code, ask(t, http.MethodGet, base+"/", host).code, host)
	}
	for _, method := range []string{http.MethodPost, http.MethodPut, http.MethodDelete, http.MethodPatch} {
		assert.Equal(t, http.StatusMethodNotAllowed, ask(t, method, base+"/", "").code, method)
	}
	h := get(t, base+"/").head
	assert.Contains(t, h.Get("Content-Security-Policy"), "default-src 'none'; script-src 'self'")
	assert.Equal(t, "nosniff", h.Get("X-Content-Type-Options"))
	assert.Equal(t, "same-origin", h.Get("Cross-Origin-Resource-Policy"))
	assert.Equal(t, http.StatusOK, get(t, base+"/assets/list.js").code)
	has(t, get(t, base+"/assets/serve.css").text, "--bg")
	elsewhere := guard(false, http.NotFoundHandler())
	w := recorder{head: http.Header{}}
	elsewhere.ServeHTTP(&w, &http.Request{Host: "node7.example:8017", Method: http.MethodGet, URL: &url.URL{Path: "/"}})
	assert.Equal(t, http.StatusNotFound, w.code, "names of this machine are not known where it is not loopback")
}

type recorder struct {
	head http.Header
	code int
}

func (r *recorder) Header() http.Header         { return r.head }
func (r *recorder) Write(b []byte) (int, error) { return len(b), nil }
func (r *recorder) WriteHeader(code int)        { r.code = code }

// events is a stream of server-sent events.
type events struct{ lines *bufio.Scanner }

func listen(t *testing.T, address string) events {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	require.NoError(t, err)
	res, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	require.Equal(t, "text/event-stream", res.Header.Get("Content-Type"))
	t.Cleanup(func() { cancel(); _ = res.Body.Close() })
	return events{bufio.NewScanner(res.Body)}
}

// next returns the next event's data.
func (e events) next(t *testing.T) string {
	t.Helper()
	for e.lines.Scan() {
		if data, ok := strings.CutPrefix(e.lines.Text(), "data: "); ok {
			return data
		}
	}
	require.Fail(t, "the stream has ended", "%v", e.lines.Err())
	return ""
}

// until returns the first message for which ok is true.
func (e events) until(t *testing.T, ok func(message) bool) message {
	t.Helper()
	for {
		var m message
		require.NoError(t, json.Unmarshal([]byte(e.next(t)), &m))
		if ok(m) {
			return m
		}
	}
}

func TestFollowARun(t *testing.T) {
	dir := t.TempDir()
	lines := logOf("growing", 4, day)
	path := writeLog(t, filepath.Join(dir, "run"), lines[:20])
	_, base := start(t, dir)
	events := listen(t, base+"/run/events?dir=run")
	m := events.until(t, func(m message) bool { return m.Page != "" })
	assert.Equal(t, Running, m.State)
	assert.InDelta(t, 0.9, m.RunTime, 0.2)
	a := get(t, base+"/run?dir=run")
	has(t, a.text, "<title>live: growing")
	has(t, a.text, "So far: ")
	hasNot(t, a.text, "was killed", "it goes on")
	has(t, get(t, base+"/run/file?format=text&dir=run").text, "ends in the middle", "as tablefull report would say")

	add(t, path, lines[20:60])
	m = events.until(t, func(m message) bool { return m.RunTime > 2 })
	assert.Equal(t, Running, m.State)
	add(t, path, []string{lines[60][:30]}) // half a line
	add(t, path, []string{lines[60][30:]})
	add(t, path, lines[61:])
	m = events.until(t, func(m message) bool { return m.State == Finished && m.Page != "" })
	assert.InDelta(t, 4, m.RunTime, 0.2)
	for events.lines.Scan() {
		assert.Empty(t, events.lines.Text(), "the stream ends with the run")
	}
	a = get(t, base+"/run?dir=run")
	has(t, a.text, "growing – tablefull")
	hasNot(t, a.text, "So far")
	assert.Equal(t, m.Page, a.head.Get("X-Tablefull-Page"))
}

// A run whose log begins new segments meanwhile is followed on, and not read
// from its beginning each time.
func TestFollowSegments(t *testing.T) {
	dir := t.TempDir()
	run := filepath.Join(dir, "run")
	require.NoError(t, os.Mkdir(run, 0o755))
	file, err := runlog.Create(run, 2000)
	require.NoError(t, err)
	w := runlog.NewWriter(file)
	add := func(lines []string) {
		for _, line := range lines {
			var r runlog.Record
			require.NoError(t, json.Unmarshal([]byte(line), &r))
			require.NoError(t, w.Write(r))
			require.NoError(t, w.Flush())
		}
	}
	lines := logOf("soak", 6, day)
	add(lines[:40])
	s, base := start(t, dir)
	events := listen(t, base+"/run/events?dir=run")
	m := events.until(t, func(m message) bool { return m.Page != "" })
	assert.Equal(t, Running, m.State)
	s.follow.mu.Lock()
	first := s.follow.byd["run"]
	s.follow.mu.Unlock()
	add(lines[40:80])
	events.until(t, func(m message) bool { return m.RunTime > 3 })
	has(t, get(t, base+"/run?dir=run").text, "<title>live: soak")
	s.follow.mu.Lock()
	assert.Same(t, first, s.follow.byd["run"])
	s.follow.mu.Unlock()
	add(lines[80:])
	require.NoError(t, file.Close())
	m = events.until(t, func(m message) bool { return m.State == Finished && m.Page != "" })
	assert.InDelta(t, 6, m.RunTime, 0.2)
	segments, err := filepath.Glob(filepath.Join(run, "run-*.jsonl.zst"))
	require.NoError(t, err)
	assert.Greater(t, len(segments), 4)
	until(t, base+"/", "soak")
	hasNot(t, get(t, base+"/run?dir=run").text, "So far")
}

func TestARunThatDies(t *testing.T) {
	dir := t.TempDir()
	lines := logOf("dying", 4, day)
	path := writeLog(t, filepath.Join(dir, "run"), lines[:40])
	s, base := start(t, dir)
	events := listen(t, base+"/run/events?dir=run")
	events.until(t, func(m message) bool { return m.State == Running && m.Page != "" })
	later(s, quietFor+time.Second)
	m := events.until(t, func(m message) bool { return m.State == CutOff })
	assert.GreaterOrEqual(t, m.Quiet, quietFor.Seconds())
	a := get(t, base+"/run?dir=run")
	has(t, a.text, "ends in the middle")
	hasNot(t, a.text, "So far")
	until(t, base+"/", "taken for dead")

	add(t, path, lines[40:60])
	m = events.until(t, func(m message) bool { return m.State == Running && m.RunTime > 2 })
	assert.Less(t, m.Quiet, quietFor.Seconds(), "it was not dead")
}

// later moves the library's clock.
func later(s *Server, by time.Duration) {
	s.lib.mu.Lock()
	defer s.lib.mu.Unlock()
	s.lib.now = func() time.Time { return time.Now().Add(by) }
}

// A log that is replaced by another is read from its beginning.
func TestALogThatIsReplaced(t *testing.T) {
	dir := t.TempDir()
	path := writeLog(t, filepath.Join(dir, "run"), logOf("first", 3, day))
	_, base := start(t, dir)
	has(t, get(t, base+"/run?dir=run").text, "first – tablefull")
	require.NoError(t, os.Remove(path))
	writeLog(t, filepath.Join(dir, "run"), logOf("second", 2, day))
	has(t, get(t, base+"/run?dir=run").text, "second – tablefull")
	require.NoError(t, os.RemoveAll(filepath.Join(dir, "run")))
	assert.Equal(t, http.StatusNotFound, get(t, base+"/run?dir=run").code)
}

func TestFewAreKeptRead(t *testing.T) {
	dir := t.TempDir()
	for i := range maxFollowed + 3 {
		writeLog(t, filepath.Join(dir, fmt.Sprint("run", i)), logOf("s", 1, day))
	}
	s, base := start(t, dir)
	for i := range maxFollowed + 3 {
		assert.Equal(t, http.StatusOK, get(t, base+"/run?dir="+fmt.Sprint("run", i)).code)
	}
	kept := func() int {
		s.follow.mu.Lock()
		defer s.follow.mu.Unlock()
		return len(s.follow.byd)
	}
	assert.Equal(t, maxFollowed, kept())
	s.follow.tidy(time.Now().Add(2 * keepFor))
	assert.Zero(t, kept())
}

func TestEmptyAndOddLogs(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "empty"), runlog.FileName, "")
	write(t, filepath.Join(dir, "odd"), runlog.FileName, strings.Repeat("x", 3<<20))
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "folder", runlog.FileName), 0o755))
	longAgo(t, filepath.Join(dir, "odd", runlog.FileName))
	_, base := start(t, dir)
	has(t, get(t, base+"/run?dir=empty").text, "So far")
	assert.Equal(t, http.StatusOK, get(t, base+"/run?dir=odd").code)
	assert.Equal(t, http.StatusNotFound, get(t, base+"/run?dir=folder").code)
	until(t, base+"/", "dir=odd")
}

func TestAFolderThatIsARun(t *testing.T) {
	dir := t.TempDir()
	writeLog(t, dir, logOf("alone", 2, day))
	_, base := start(t, dir)
	until(t, base+"/", "this folder")
	has(t, get(t, base+"/run?dir=.").text, "alone – tablefull")
	has(t, get(t, base+"/run/file?dir=.&format=csv").head.Get("Content-Disposition"), "alone.csv")
}

// Work that is done between two reads is a fifth of one CPU's time at most,
// whatever it is done on.
func TestPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := true
		p := &paced{ctx: t.Context(), in: zeros{}, slow: func() bool { return slow }}
		read := func() time.Duration {
			began := time.Now()
			_, err := p.Read(make([]byte, 10))
			require.NoError(t, err)
			return time.Since(began)
		}
		assert.Zero(t, read())
		time.Sleep(10 * time.Millisecond) // the work
		cpus := min(runtime.GOMAXPROCS(0), 5)
		assert.Equal(t, time.Duration(cpus)*40*time.Millisecond, read())
		slow = false
		time.Sleep(10 * time.Millisecond)
		assert.Zero(t, read(), "no run is going on")
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := (&paced{ctx: ctx, in: zeros{}, slow: p.slow}).Read(make([]byte, 1))
		assert.ErrorIs(t, err, context.Canceled)
	})
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { return len(b), nil }
