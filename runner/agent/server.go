package agent

import (
	"context"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tablefull/tablefull/runner/env"
)

const (
	// completeTrailer comes after the last record of a stream that was sent
	// whole; its value is the number of that record. A stream that ends
	// without it was cut.
	completeTrailer = "Tablefull-Complete"
	streamType      = "application/x-ndjson"
	// coalesce is the shortest time between two flushes of one record stream:
	// at thousands of records per second one system call each would be felt.
	coalesce   = time.Millisecond
	maxJobJSON = 16 << 20
)

// Config is what an agent needs.
type Config struct {
	Host  string                            // its name
	Token string                            // what callers must know; empty: none is asked for
	Spool *Spool                            // its records
	Build func(env.Job) (env.Worker, error) // how a job becomes a worker; nil: New
	// Lonely is how long the agent goes on without hearing of its controller: it
	// then ends as when it is told to, and whatever its jobs hold is given
	// back. 0 is for ever.
	Lonely time.Duration
	// Pod says that the agent is all there is of a pod: when Serve's ctx is
	// done, which is SIGTERM, its servers end as their lifecycle says, and the
	// agent ends when they have and their records are read.
	Pod  bool
	Errs io.Writer // for stacks of workers that panicked; nil: discarded
}

// A Server is an agent: Serve until Shutdown and Exit.
type Server struct {
	cfg  Config
	jobs *jobs
	http *http.Server

	down     sync.Once
	unasked  atomic.Bool // it shut down although no caller asked for it
	exit     chan struct{}
	exitOnce sync.Once

	answering atomic.Int64 // requests
	heard     atomic.Int64 // when the last one ended, ns since 1970
}

// NewServer returns an agent that does not serve yet.
func NewServer(cfg Config) *Server {
	if cfg.Build == nil {
		cfg.Build = New
	}
	if cfg.Errs == nil {
		cfg.Errs = io.Discard
	}
	s := &Server{
		cfg:  cfg,
		jobs: &jobs{build: cfg.Build, spool: cfg.Spool, stderr: cfg.Errs, byID: map[string]*job{}},
		exit: make(chan struct{}),
	}
	s.http = &http.Server{
		Handler: s.handler(), ReadHeaderTimeout: 10 * time.Second,
		ErrorLog: log.New(cfg.Errs, "tablefull agent: ", 0),
	}
	return s
}

// Serve answers on l until a caller asks for /v1/exit or ctx is done; in both
// cases it shuts down first and gives readers a moment to take what is left.
// It closes l.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	served := make(chan error, 1)
	linger := 10 * time.Second
	alone := make(chan struct{})
	var watching sync.WaitGroup
	defer watching.Wait()
	waiting, stop := context.WithCancel(ctx)
	defer stop()
	if s.cfg.Lonely > 0 {
		watching.Go(func() { s.watch(waiting, alone) })
	}
	go func() { served <- s.http.Serve(l) }()
	select {
	case err := <-served:
		s.Shutdown()
		return fmt.Errorf("serve: %w", err)
	case <-s.exit:
	case <-alone:
		s.shutdown(false)
		linger = time.Second
	case <-ctx.Done():
		if s.cfg.Pod {
			s.jobs.terminate()
			linger = time.Second
			break
		}
		s.shutdown(false)
		// Nobody said that he had read everything, and perhaps nobody reads.
		linger = time.Second
	}
	s.Shutdown()
	left, cancel := context.WithTimeout(context.WithoutCancel(ctx), linger)
	defer cancel()
	err := s.http.Shutdown(left)
	if err != nil {
		err = errors.Join(fmt.Errorf("end open requests: %w", err), s.http.Close())
	}
	<-served
	return err
}

// Shutdown stops every job in order, waits for them, and ends the spool. It is
// idempotent. Requests for records are still answered.
func (s *Server) Shutdown() { s.shutdown(true) }

func (s *Server) shutdown(asked bool) {
	s.down.Do(func() {
		s.unasked.Store(!asked)
		s.jobs.close()
		s.cfg.Spool.Close()
	})
}

func (s *Server) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/jobs", s.postJob)
	mux.HandleFunc("GET /v1/jobs/{id}", func(w http.ResponseWriter, r *http.Request) {
		reply(w, s.jobs.wait(r.Context(), r.PathValue("id")), struct{}{})
	})
	mux.HandleFunc("DELETE /v1/jobs/{id}", func(w http.ResponseWriter, r *http.Request) {
		reply(w, s.jobs.stop(r.Context(), r.PathValue("id")), struct{}{})
	})
	mux.HandleFunc("PATCH /v1/jobs/{id}", s.patchJob)
	mux.HandleFunc("GET /v1/records", s.getRecords)
	mux.HandleFunc("DELETE /v1/records", s.trimRecords)
	mux.HandleFunc("GET /v1/clock", func(w http.ResponseWriter, _ *http.Request) {
		reply(w, nil, clockReply{Nanoseconds: monotonic()})
	})
	mux.HandleFunc("GET /v1/health", s.getHealth)
	mux.HandleFunc("GET /v1/facts", func(w http.ResponseWriter, _ *http.Request) {
		f, err := Facts()
		reply(w, err, f)
	})
	mux.HandleFunc("GET /v1/peer", s.getPeer)
	mux.HandleFunc("POST /v1/shutdown", func(w http.ResponseWriter, _ *http.Request) {
		s.Shutdown()
		reply(w, nil, s.health())
	})
	mux.HandleFunc("POST /v1/exit", func(w http.ResponseWriter, _ *http.Request) {
		reply(w, nil, struct{}{})
		s.exitOnce.Do(func() { close(s.exit) })
	})
	all := http.NewServeMux()
	// The kubelet knows no token, and asks for as long as the pod lives.
	all.HandleFunc("GET /ready", func(w http.ResponseWriter, _ *http.Request) {
		if !s.jobs.serving() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	all.Handle("/", s.authorize(s.busy(mux)))
	return all
}

// busy counts the requests that are being answered: see Config.Lonely.
func (s *Server) busy(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.answering.Add(1)
		defer func() {
			s.heard.Store(time.Now().UnixNano())
			s.answering.Add(-1)
		}()
		next.ServeHTTP(w, r)
	})
}

// watch closes alone once nobody who knows the token has been heard of for
// Config.Lonely. It ends with ctx.
func (s *Server) watch(ctx context.Context, alone chan<- struct{}) {
	s.heard.Store(time.Now().UnixNano())
	tick := time.NewTicker(s.cfg.Lonely / 10)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if s.answering.Load() == 0 && time.Since(time.Unix(0, s.heard.Load())) > s.cfg.Lonely {
			close(alone)
			return
		}
	}
}

// authorize lets through who knows the token.
func (s *Server) authorize(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		if s.cfg.Token != "" && (!ok || subtle.ConstantTimeCompare([]byte(got), []byte(s.cfg.Token)) != 1) {
			fail(w, http.StatusUnauthorized, errors.New("the token is missing or wrong"))
			return
		}
		next.ServeHTTP(w, r)
	})
}

type clockReply struct {
	Nanoseconds int64 `json:"ns"`
}

// Health is how an agent fares.
type Health struct {
	Host    string `json:"host"`
	Records uint64 `json:"records"`           // in its spool
	Dropped uint64 `json:"dropped,omitempty"` // could not be spooled; Loss records count them too
	Failure string `json:"failure,omitempty"` // of the last write to the spool
	Running int    `json:"running"`           // jobs that have not ended
}

func (s *Server) health() Health {
	st := s.cfg.Spool.State()
	return Health{Host: s.cfg.Host, Records: st.Records, Dropped: st.Dropped, Failure: st.Failure, Running: s.jobs.running()}
}

func (s *Server) getHealth(w http.ResponseWriter, _ *http.Request) { reply(w, nil, s.health()) }

// getPeer asks the agent at an address for its health, over this host's
// network: so a caller learns which agents a service leads to from here.
func (s *Server) getPeer(w http.ResponseWriter, r *http.Request) {
	addr, err := netip.ParseAddrPort(r.URL.Query().Get("addr"))
	if err != nil {
		fail(w, http.StatusBadRequest, fmt.Errorf("read addr: %w", err))
		return
	}
	var d net.Dialer
	peer, err := newClient(ClientConfig{
		Name: addr.String(), Token: s.cfg.Token,
		Dial: func(ctx context.Context) (net.Conn, error) { return d.DialContext(ctx, "tcp", addr.String()) },
	}).ask(r.Context())
	reply(w, err, peer)
}

func (s *Server) postJob(w http.ResponseWriter, r *http.Request) {
	var j env.Job
	if err := readBody(w, r, &j); err != nil {
		fail(w, http.StatusBadRequest, fmt.Errorf("read job: %w", err))
		return
	}
	reply(w, s.jobs.start(r.Context(), j), struct{}{})
}

func (s *Server) patchJob(w http.ResponseWriter, r *http.Request) {
	var u env.Update
	if err := readBody(w, r, &u); err != nil {
		fail(w, http.StatusBadRequest, fmt.Errorf("read update: %w", err))
		return
	}
	reply(w, s.jobs.update(r.Context(), r.PathValue("id"), u), struct{}{})
}

func readBody(w http.ResponseWriter, r *http.Request, v any) error {
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxJobJSON))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	// The rest of the body must be read, or the server would not notice that
	// the caller has gone away.
	_, err := io.Copy(io.Discard, r.Body)
	return err
}

// number reads a record's number from the query, 0 where it is not there.
func number(r *http.Request, name string) (uint64, error) {
	q := r.URL.Query().Get(name)
	if q == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(q, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("read %s: %q is not a record number", name, q)
	}
	return n, nil
}

// trimRecords is told up to which number records have been taken.
func (s *Server) trimRecords(w http.ResponseWriter, r *http.Request) {
	n, err := number(r, "through")
	if err != nil {
		fail(w, http.StatusBadRequest, err)
		return
	}
	reply(w, s.cfg.Spool.Trim(n), struct{}{})
}

func (s *Server) getRecords(w http.ResponseWriter, r *http.Request) {
	from, err := number(r, "from")
	if err != nil {
		fail(w, http.StatusBadRequest, err)
		return
	}
	rd, err := s.cfg.Spool.From(from)
	if err != nil {
		fail(w, http.StatusRequestedRangeNotSatisfiable, err)
		return
	}
	w.Header().Set("Content-Type", streamType)
	w.Header().Set("Trailer", completeTrailer)
	w.WriteHeader(http.StatusOK)
	err = stream(r.Context(), http.NewResponseController(w), w, rd)
	if err != nil || s.unasked.Load() {
		// Ending normally would look like the end of the run. An agent that
		// was made to end has sent what it had, but its caller must notice.
		panic(http.ErrAbortHandler)
	}
	w.Header().Set(completeTrailer, strconv.FormatUint(s.cfg.Spool.State().Records, 10))
}

// stream copies rd to w, flushing as soon as rd has no more for the moment,
// until rd ends.
func stream(ctx context.Context, rc *http.ResponseController, w io.Writer, rd *Reader) error {
	buf := make([]byte, 64<<10)
	var last time.Time
	if err := rc.Flush(); err != nil {
		return fmt.Errorf("send records: %w", err)
	}
	for {
		n, err := rd.Read(ctx, buf)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if _, err := w.Write(buf[:n]); err != nil {
			return fmt.Errorf("send records: %w", err)
		}
		if err := rc.Flush(); err != nil {
			return fmt.Errorf("send records: %w", err)
		}
		if since := time.Since(last); since < coalesce {
			t := time.NewTimer(coalesce - since)
			select {
			case <-t.C:
			case <-ctx.Done():
				t.Stop()
				return ctx.Err()
			}
		}
		last = time.Now()
	}
}

type errorReply struct {
	Error string `json:"error"`
}

// reply sends v, or err with the status that fits it.
func reply(w http.ResponseWriter, err error, v any) {
	switch {
	case err == nil:
		w.Header().Set("Content-Type", "application/json")
		// A failure means the caller is gone; it will see that itself.
		_ = json.NewEncoder(w).Encode(v)
	case errors.Is(err, ErrUnknownJob):
		fail(w, http.StatusNotFound, err)
	case errors.Is(err, errDuplicateJob), errors.Is(err, errShutDown):
		fail(w, http.StatusConflict, err)
	default:
		fail(w, http.StatusUnprocessableEntity, err)
	}
}

func fail(w http.ResponseWriter, status int, err error) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(errorReply{Error: err.Error()})
}
