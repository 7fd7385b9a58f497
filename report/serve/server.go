package serve

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"html/template"
	"log"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/tablefull/tablefull/report"
)

//go:embed assets
var assets embed.FS

// maxStreams is how many pages can be live at the same time.
const maxStreams = 64

// A Server shows the runs of one folder.
type Server struct {
	dir     string
	root    *os.Root
	lib     *library
	follow  *followers
	pages   *template.Template
	styles  string
	live    string // the script of a report's page
	streams chan struct{}
	// ErrorLog is told what goes wrong with a connection; nil for nobody.
	ErrorLog *log.Logger
}

// New returns a Server of the runs in dir and up to four levels below it. It
// reads nothing outside of dir, symbolic links included.
func New(dir string) (*Server, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("open folder of runs: %w", err)
	}
	s := &Server{dir: dir, root: root, lib: newLibrary(root), streams: make(chan struct{}, maxStreams)}
	if err := s.load(); err != nil {
		_ = root.Close()
		return nil, err
	}
	return s, nil
}

func (s *Server) load() error {
	var err error
	if s.pages, err = template.New("").Funcs(pageFuncs).ParseFS(assets, "assets/*.html"); err != nil {
		return fmt.Errorf("parse pages: %w", err)
	}
	own, err := assets.ReadFile("assets/serve.css")
	if err != nil {
		return fmt.Errorf("read styles: %w", err)
	}
	base, err := report.StyleSheet()
	if err != nil {
		return fmt.Errorf("read styles: %w", err)
	}
	s.styles = base + string(own)
	script, err := assets.ReadFile("assets/live.js")
	if err != nil {
		return fmt.Errorf("read script: %w", err)
	}
	s.live = string(script)
	return nil
}

// Close gives the folder back. Serve must have returned.
func (s *Server) Close() error {
	if err := s.root.Close(); err != nil {
		return fmt.Errorf("close folder of runs: %w", err)
	}
	return nil
}

// Loopback says whether only this machine can reach a listener.
func Loopback(l net.Listener) bool {
	a, ok := l.Addr().(*net.TCPAddr)
	return ok && a.IP.IsLoopback()
}

// Serve answers on l until ctx is done, and returns nil then. It closes l, and
// all that it started has ended when it returns.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	inner, cancel := context.WithCancel(ctx)
	s.follow = &followers{lib: s.lib, ctx: inner, byd: map[string]*follower{}}
	var all sync.WaitGroup
	defer func() {
		cancel()
		all.Wait()
		s.follow.all.Wait()
	}()
	all.Go(func() { s.lib.readAll(inner) })
	all.Go(func() { s.tidy(inner) })
	srv := &http.Server{
		Handler: guard(Loopback(l), s.routes()), ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute,
		MaxHeaderBytes: 64 << 10, BaseContext: func(net.Listener) context.Context { return inner }, ErrorLog: s.ErrorLog,
	}
	all.Go(func() {
		<-inner.Done()
		// Streams end with their context; a rendering that goes on is let go.
		end, stop := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
		defer stop()
		if srv.Shutdown(end) != nil {
			_ = srv.Close()
		}
	})
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve: %w", err)
	}
	return nil
}

func (s *Server) tidy(ctx context.Context) {
	tick := time.NewTicker(5 * time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			s.follow.tidy(now)
		}
	}
}

func (s *Server) routes() http.Handler {
	m := http.NewServeMux()
	m.HandleFunc("GET /{$}", s.list)
	m.HandleFunc("GET /events", s.listEvents)
	m.HandleFunc("GET /run", s.run)
	m.HandleFunc("GET /run/events", s.runEvents)
	m.HandleFunc("GET /run/file", s.file)
	m.HandleFunc("GET /overlay", s.overlay)
	m.HandleFunc("GET /comparison", s.comparison)
	m.HandleFunc("GET /assets/serve.css", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/css; charset=utf-8")
		_, _ = w.Write([]byte(s.styles)) // a reader that has gone
	})
	m.HandleFunc("GET /favicon.ico", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	m.HandleFunc("GET /assets/list.js", func(w http.ResponseWriter, r *http.Request) { http.ServeFileFS(w, r, assets, "assets/list.js") })
	return m
}
