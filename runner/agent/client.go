package agent

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"sync"
	"time"

	"github.com/tablefull/tablefull/report/runlog"
	"github.com/tablefull/tablefull/runner/env"
)

const (
	defaultPatience = 15 * time.Second
	firstRetry      = 5 * time.Millisecond
	lastRetry       = 500 * time.Millisecond
	// takenBytes is after how many bytes of records their agent is told that
	// it need not keep them any more.
	takenBytes = 1 << 20
)

// ClientConfig is how an agent is reached.
type ClientConfig struct {
	Name  string
	Role  env.Role
	Token string
	// Dial opens a connection to the agent.
	Dial func(ctx context.Context) (net.Conn, error)
	// Patience is how long an agent that cannot be reached is asked again
	// before that is an error. 0 is 15 s.
	Patience time.Duration
	// Gone returns an error once the agent is known to have ended: there is
	// no use in asking again then. Nil: it is never known.
	Gone func() error
}

// A Client is the controller's side of an agent. It is safe for concurrent
// use.
type Client struct {
	cfg  ClientConfig
	http *http.Client

	closing sync.Mutex // held by Close

	mu        sync.Mutex
	closed    bool
	last      uint64        // with closed: number of the agent's last record
	following int           // running Records calls
	drained   chan struct{} // closed when following gets to 0; nil while nobody waits
}

var _ env.Host = (*Client)(nil)

// Dial returns a client for the agent, which must answer within ctx and
// Patience, under its name.
func Dial(ctx context.Context, cfg ClientConfig) (*Client, error) {
	if cfg.Patience == 0 {
		cfg.Patience = defaultPatience
	}
	if cfg.Gone == nil {
		cfg.Gone = func() error { return nil }
	}
	c := newClient(cfg)
	h, err := c.Health(ctx)
	if err == nil && h.Host != cfg.Name {
		err = fmt.Errorf("the agent calls itself %q", h.Host)
	}
	if err != nil {
		c.http.CloseIdleConnections()
		return nil, fmt.Errorf("reach agent %s: %w", cfg.Name, err)
	}
	return c, nil
}

func newClient(cfg ClientConfig) *Client {
	return &Client{cfg: cfg, http: &http.Client{Transport: &http.Transport{
		DialContext:         func(ctx context.Context, _, _ string) (net.Conn, error) { return cfg.Dial(ctx) },
		MaxIdleConnsPerHost: 8,
		DisableCompression:  true,
	}}}
}

// ask asks once, over a connection of its own, how the agent fares.
func (c *Client) ask(ctx context.Context) (Health, error) {
	defer c.http.CloseIdleConnections()
	var h Health
	err := c.call(ctx, http.MethodGet, "/v1/health", nil, &h)
	return h, err
}

// Facts asks for what the agent's machine is, and for the settings of
// connection tracking in its network namespace. The list of capabilities is
// empty.
func (c *Client) Facts(ctx context.Context) (env.Capabilities, error) {
	var f env.Capabilities
	err := c.insist(ctx, func() error { return c.call(ctx, http.MethodGet, "/v1/facts", nil, &f) })
	return f, c.named(err)
}

// Peer has the agent ask the agent at addr, which has the same token, for its
// health: so one learns whom a service leads to, from there. It asks once.
func (c *Client) Peer(ctx context.Context, addr netip.AddrPort) (Health, error) {
	var h Health
	err := c.call(ctx, http.MethodGet, "/v1/peer?addr="+url.QueryEscape(addr.String()), nil, &h)
	return h, c.named(err)
}

// Name is part of env.Host.
func (c *Client) Name() string { return c.cfg.Name }

// Role is part of env.Host.
func (c *Client) Role() env.Role { return c.cfg.Role }

// Health asks how the agent fares.
func (c *Client) Health(ctx context.Context) (Health, error) {
	var h Health
	err := c.insist(ctx, func() error { return c.call(ctx, http.MethodGet, "/v1/health", nil, &h) })
	return h, err
}

// Clock is part of env.Host.
func (c *Client) Clock(ctx context.Context) (int64, error) {
	var r clockReply
	if err := c.call(ctx, http.MethodGet, "/v1/clock", nil, &r); err != nil {
		return 0, fmt.Errorf("read clock of %s: %w", c.cfg.Name, err)
	}
	return r.Nanoseconds, nil
}

// Start is part of env.Host. It is not tried again: a job whose caller is lost
// before it is ready is stopped by the agent.
func (c *Client) Start(ctx context.Context, j env.Job) error {
	body, err := json.Marshal(j)
	if err != nil {
		return fmt.Errorf("encode job %s: %w", j.ID, err)
	}
	err = c.call(ctx, http.MethodPost, "/v1/jobs", body, nil)
	if gone := c.cfg.Gone(); err != nil && gone != nil {
		err = gone
	}
	return c.named(err)
}

// Wait is part of env.Host.
func (c *Client) Wait(ctx context.Context, id string) error {
	return c.named(c.insist(ctx, func() error {
		return c.call(ctx, http.MethodGet, "/v1/jobs/"+url.PathEscape(id), nil, nil)
	}))
}

// Stop is part of env.Host. The job's own error is returned too.
func (c *Client) Stop(ctx context.Context, id string) error {
	return c.named(c.insist(ctx, func() error {
		return c.call(ctx, http.MethodDelete, "/v1/jobs/"+url.PathEscape(id), nil, nil)
	}))
}

// Update is part of env.Host. It is not tried again: it may have been made.
func (c *Client) Update(ctx context.Context, id string, u env.Update) error {
	body, err := json.Marshal(u)
	if err != nil {
		return fmt.Errorf("encode update of job %s: %w", id, err)
	}
	return c.named(c.call(ctx, http.MethodPatch, "/v1/jobs/"+url.PathEscape(id), body, nil))
}

// Close is part of env.Host. It waits until running Records calls have
// received everything, and ends the agent's process then. It is idempotent.
func (c *Client) Close(ctx context.Context) error {
	c.closing.Lock()
	defer c.closing.Unlock()
	if c.isClosed() {
		return nil
	}
	defer c.http.CloseIdleConnections()
	var h Health
	err := c.insist(ctx, func() error { return c.call(ctx, http.MethodPost, "/v1/shutdown", nil, &h) })
	if err != nil {
		return fmt.Errorf("shut down agent %s: %w", c.cfg.Name, err)
	}
	if err := c.drain(ctx); err != nil {
		return fmt.Errorf("take the last records of %s: %w", c.cfg.Name, err)
	}
	if err := c.call(ctx, http.MethodPost, "/v1/exit", nil, nil); err != nil {
		return fmt.Errorf("end agent %s: %w", c.cfg.Name, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed, c.last = true, h.Records
	return nil
}

func (c *Client) isClosed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closed
}

// drain waits until no Records call is running.
func (c *Client) drain(ctx context.Context) error {
	c.mu.Lock()
	if c.following == 0 {
		c.mu.Unlock()
		return nil
	}
	drained := make(chan struct{})
	c.drained = drained
	c.mu.Unlock()
	select {
	case <-drained:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// follow counts a running Records call; the function it returns ends it. It
// reports whether the agent has been closed with all its records before from.
func (c *Client) follow(from uint64) (end func(), complete bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.following++
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.following--
		if c.following == 0 && c.drained != nil {
			close(c.drained)
			c.drained = nil
		}
	}, c.closed && from > c.last
}

// Records is part of env.Host.
func (c *Client) Records(ctx context.Context, from uint64, fn func(runlog.Record) error) error {
	next := max(from, 1)
	end, complete := c.follow(next)
	defer end()
	if complete {
		return nil
	}
	r := c.newRetry()
	for {
		before := next
		err := c.readFrom(ctx, &next, fn)
		if err == nil {
			return nil
		}
		if next != before {
			r = c.newRetry() // patience is for an agent that stays away at a stretch
		}
		if err := r.again(ctx, err); err != nil {
			return c.named(fmt.Errorf("follow records from %d: %w", next, err))
		}
	}
}

// readFrom reads one stream of records to its end and keeps *next at the
// number that follows. Nil means that the agent has no more.
func (c *Client) readFrom(ctx context.Context, next *uint64, fn func(runlog.Record) error) error {
	resp, err := c.do(ctx, http.MethodGet, "/v1/records?from="+strconv.FormatUint(*next, 10), nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	lines := bufio.NewReaderSize(resp.Body, 64<<10)
	taken := 0
	for {
		line, err := lines.ReadBytes('\n')
		if errors.Is(err, io.EOF) && len(line) == 0 && resp.Trailer.Get(completeTrailer) != "" {
			return nil
		}
		if err != nil { // what is in line is half a record
			return brokenError{err}
		}
		var rec runlog.Record
		if err := json.Unmarshal(line, &rec); err != nil {
			return fmt.Errorf("read record %d: %w", *next, err)
		}
		if rec.N != *next {
			return fmt.Errorf("read record %d: the agent sent record %d", *next, rec.N)
		}
		*next++
		if err := fn(rec); err != nil {
			return err
		}
		if taken += len(line); taken >= takenBytes {
			taken = 0
			err := c.call(ctx, http.MethodDelete, "/v1/records?through="+strconv.FormatUint(*next-1, 10), nil, nil)
			if broken := (brokenError{}); err != nil && !errors.As(err, &broken) {
				return fmt.Errorf("free the spool: %w", err)
			}
		}
	}
}

// brokenError is a failure of the connection, not of what was asked.
type brokenError struct{ err error }

func (e brokenError) Error() string { return e.err.Error() }
func (e brokenError) Unwrap() error { return e.err }

// retry decides whether and when a broken request is made again.
type retry struct {
	c     *Client
	until time.Time
	wait  time.Duration
}

func (c *Client) newRetry() *retry {
	return &retry{c: c, until: time.Now().Add(c.cfg.Patience), wait: firstRetry}
}

// again returns nil when the request that failed with err should be made
// again now, and otherwise the error to give up with.
func (r *retry) again(ctx context.Context, err error) error {
	var broken brokenError
	if !errors.As(err, &broken) {
		return err
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if gone := r.c.cfg.Gone(); gone != nil {
		return gone
	}
	if time.Now().After(r.until) {
		return fmt.Errorf("the agent does not answer: %w", err)
	}
	t := time.NewTimer(r.wait)
	defer t.Stop()
	r.wait = min(2*r.wait, lastRetry)
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// insist makes a request that may be repeated until it gets an answer.
func (c *Client) insist(ctx context.Context, request func() error) error {
	r := c.newRetry()
	for {
		err := request()
		if err == nil {
			return nil
		}
		if err := r.again(ctx, err); err != nil {
			return err
		}
	}
}

// call makes one request and decodes the answer into out, which may be nil.
func (c *Client) call(ctx context.Context, method, path string, body []byte, out any) error {
	resp, err := c.do(ctx, method, path, body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return brokenError{err}
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(b, out); err != nil {
		return fmt.Errorf("read answer to %s %s: %w", method, path, err)
	}
	return nil
}

// do makes one request. An answer of the agent that is an error is returned as
// its text; everything else that fails is a brokenError.
func (c *Client) do(ctx context.Context, method, path string, body []byte) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://agent"+path, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("make request: %w", err)
	}
	req.Header.Set("Authorization", "Bearer "+c.cfg.Token)
	resp, err := c.http.Do(req)
	if err != nil {
		var u *url.Error
		if errors.As(err, &u) {
			err = u.Err // the made-up URL would only confuse
		}
		return nil, brokenError{err}
	}
	if resp.StatusCode < 400 {
		return resp, nil
	}
	defer resp.Body.Close()
	var e errorReply
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, brokenError{err}
	}
	if json.Unmarshal(b, &e) != nil || e.Error == "" {
		return nil, fmt.Errorf("%s %s: %s", method, path, resp.Status)
	}
	if resp.StatusCode == http.StatusNotFound {
		return nil, unknownJob(e.Error)
	}
	return nil, errors.New(e.Error)
}

// unknownJob is an agent's answer that it knows no such job.
type unknownJob string

func (u unknownJob) Error() string        { return string(u) }
func (u unknownJob) Is(target error) bool { return target == ErrUnknownJob }

// named puts the host's name before an error.
func (c *Client) named(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", c.cfg.Name, err)
}
