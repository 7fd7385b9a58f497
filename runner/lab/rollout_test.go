//go:build linux

package lab

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/tablefull/tablefull/report/runlog"
	"github.com/tablefull/tablefull/runner/env"
	"github.com/tablefull/tablefull/scenarios"
)

// heard keeps what a lab records of endpoints and pods, with the time.
type heard struct {
	mu   sync.Mutex
	all  []runlog.Record
	warn []string
}

func (h *heard) Record(r runlog.Record) {
	h.mu.Lock()
	defer h.mu.Unlock()
	r.T = float64(now()) / 1e9
	h.all = append(h.all, r)
	if r.Event != nil && r.Event.Kind == "warning" {
		h.warn = append(h.warn, r.Event.Detail)
	}
}

func (h *heard) Join(context.Context, env.Host) (int64, error) {
	return 0, errors.New("no host comes later")
}

func now() int64 {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts)
	return ts.Nano()
}

// pods is what happened to each pod, in order, and when.
func (h *heard) pods() (what map[string][]string, when map[string]map[string]float64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	what, when = map[string][]string{}, map[string]map[string]float64{}
	for _, r := range h.all {
		if e := r.Event; e != nil && e.Kind == "pod" {
			what[e.Name] = append(what[e.Name], e.Detail)
			if when[e.Name] == nil {
				when[e.Name] = map[string]float64{}
			}
			when[e.Name][e.Detail] = r.T
		}
	}
	return what, when
}

// lives is the states each endpoint went through.
func (h *heard) lives() map[string][]string {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := map[string][]string{}
	add := func(name, state string) {
		if l := out[name]; len(l) == 0 || l[len(l)-1] != state {
			out[name] = append(out[name], state)
		}
	}
	for _, r := range h.all {
		if r.Endpoints == nil {
			continue
		}
		there := map[string]bool{}
		for _, e := range r.Endpoints.Endpoints {
			there[e.Name] = true
			var s []string
			for name, is := range map[string]bool{"ready": e.Ready, "serving": e.Serving, "terminating": e.Terminating} {
				if is {
					s = append(s, name)
				}
			}
			slices.Sort(s)
			add(e.Name, strings.Join(s, " "))
		}
		for name := range out {
			if !there[name] {
				add(name, "removed")
			}
		}
	}
	return out
}

// records are all those of a host so far.
func records(t testing.TB, h env.Host) []runlog.Record {
	t.Helper()
	id := fmt.Sprint("mark ", time.Now().UnixNano())
	require.NoError(t, h.Start(t.Context(), env.Job{ID: id, Autopsy: &env.AutopsyJob{Failure: runlog.Failure{Traffic: id}}}))
	var all []runlog.Record
	found := fmt.Errorf("found")
	err := h.Records(t.Context(), 1, func(r runlog.Record) error {
		if r.Event != nil && r.Event.Name == id {
			return found
		}
		all = append(all, r)
		return nil
	})
	require.ErrorIs(t, err, found)
	return all
}

// proxied is what the node's proxy did, and the endpoints it now works with.
func proxied(t testing.TB, l *Lab, service string) (did []string, usable []string, times []float64) {
	t.Helper()
	for _, r := range records(t, l.host("node1")) {
		if e := r.Event; e != nil && e.Kind == "proxy" {
			did, usable, times = append(did, e.Name), strings.Fields(e.Fields[service]), append(times, r.T)
		}
	}
	slices.Sort(usable)
	return did, usable, times
}

// follows waits until the proxy works with these endpoints.
func follows(t testing.TB, l *Lab, service string, want ...string) {
	t.Helper()
	var usable []string
	if !assert.Eventually(t, func() bool { _, usable, _ = proxied(t, l, service); return slices.Equal(usable, want) }, 10*time.Second, 20*time.Millisecond) {
		t.Fatalf("the proxy works with %v, not with %v", usable, want)
	}
}

// serve brings a lab up whose first service may have slots pods at once.
func serve(t testing.TB, top env.Topology, slots int) (*Lab, *heard) {
	t.Helper()
	needLab(t)
	top.Slots = map[string]int{top.Services[0].Name: slots}
	e, err := newEnv().Up(t.Context(), top)
	require.NoError(t, err)
	l := e.(*Lab)
	h := &heard{}
	t.Cleanup(func() {
		assert.NoError(t, l.Close(context.Background()))
		assert.Empty(t, h.warn)
	})
	require.NoError(t, l.Serve(t.Context(), map[string]int64{}, h))
	return l, h
}

func act(t testing.TB, l *Lab, a scenarios.Action) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	require.NoError(t, l.Act(ctx, a))
}

func rollOut(service string) scenarios.Action {
	return scenarios.Action{Rollout: &scenarios.Rollout{Service: service}}
}

// flow begins to make short connections to the first service, with the real
// generator; the result ends it and returns the outcomes.
func flow(t testing.TB, l *Lab, rate scenarios.Rate) (stop func() map[runlog.Outcome]uint64) {
	t.Helper()
	name := fmt.Sprint("flow-", l.serial.Add(1))
	s := &scenarios.Scenario{
		Name: "flow", Duration: scenarios.Duration(time.Minute), Services: l.topology.Services,
		Traffic: []scenarios.Traffic{{Name: name, To: l.topology.Services[0].Name, ShortLived: &scenarios.ShortLived{Pacing: scenarios.Pacing{Rate: rate}}}},
	}
	s.Defaults()
	client := l.host("client")
	epoch, err := client.Clock(t.Context())
	require.NoError(t, err)
	j := env.Job{ID: name, Epoch: epoch + int64(100*time.Millisecond), Load: &env.LoadJob{
		Traffic: s.Traffic[0], End: 60, Target: l.Services()[0].Addr, Ports: 1, Sources: l.Entries()[0].Sources, SourceCount: 64, Seed: 1, FailuresPerSecond: 100,
	}}
	require.NoError(t, client.Start(t.Context(), j))
	return func() map[runlog.Outcome]uint64 {
		time.Sleep(time.Duration(s.Traffic[0].Timeout)) // what was lost on the way has failed by then
		require.NoError(t, client.Stop(t.Context(), j.ID))
		out := map[runlog.Outcome]uint64{}
		for _, r := range records(t, client) {
			if r.Bin != nil && r.Bin.Traffic == name {
				for o, n := range r.Bin.Outcomes {
					out[o] += n
				}
			}
		}
		delete(out, runlog.Interrupted) // on its way when it was stopped
		return out
	}
}

func withLife(s scenarios.Service, l scenarios.Lifecycle) scenarios.Service {
	s.Lifecycle = l
	return s
}

func ms(n int) scenarios.Duration {
	return scenarios.Duration(n) * scenarios.Duration(time.Millisecond)
}

// A rollout whose pods drain after a preStop longer than the proxy needs loses
// nothing; pods and endpoints go through their states in order, and never
// fewer than three are ready, nor more than four are there.
func TestRollout(t *testing.T) {
	for _, protocol := range []string{"tcp", "http"} {
		t.Run(protocol, func(t *testing.T) {
			const readyAfter, preStop = 200, 2000 // the proxy needs 10 ms, and on a busy machine hundreds
			web := withLife(service("web", protocol, 3), scenarios.Lifecycle{ReadyAfter: ms(readyAfter), PreStop: ms(preStop), Grace: ms(30_000), OnSIGTERM: "drain"})
			l, h := serve(t, topology(t, "ipv4", web), 7)
			stop := func() map[runlog.Outcome]uint64 { return nil }
			if protocol == "tcp" {
				stop = flow(t, l, 300)
			}
			act(t, l, rollOut("web"))
			follows(t, l, "web", "web-4", "web-5", "web-6")
			if outcomes := stop(); protocol == "tcp" {
				assert.Equal(t, []runlog.Outcome{runlog.OK}, slices.Collect(maps.Keys(outcomes)), "%v", outcomes)
				assert.Greater(t, outcomes[runlog.OK], uint64(100))
			}
			what, when := h.pods()
			lives := h.lives()
			for i := 1; i <= 3; i++ {
				pod := fmt.Sprintf("web-%d", i)
				assert.Equal(t, []string{"terminating", "sigterm", "exited", "gone"}, what[pod], pod)
				assert.Equal(t, []string{"ready serving", "serving terminating", "terminating", "removed"}, lives[pod], pod)
				assert.GreaterOrEqual(t, when[pod]["sigterm"]-when[pod]["terminating"], preStop/1000.0, "pre_stop of %s", pod)
			}
			for i := 4; i <= 6; i++ {
				pod := fmt.Sprintf("web-%d", i)
				assert.Equal(t, []string{"started", "ready"}, what[pod], pod)
				assert.Equal(t, []string{"", "ready serving"}, lives[pod], pod)
				assert.GreaterOrEqual(t, when[pod]["ready"]-when[pod]["started"], readyAfter/1000.0, "ready_after of %s", pod)
			}
			for _, r := range h.all {
				if r.Endpoints == nil {
					continue
				}
				ready, alive := 0, 0
				for _, e := range r.Endpoints.Endpoints {
					if e.Ready {
						ready++
					}
					if !e.Terminating {
						alive++
					}
				}
				assert.GreaterOrEqual(t, ready, 3)
				assert.LessOrEqual(t, alive, 4)
			}
		})
	}
}

// A connection that arrives while the proxy changes its rules is translated by
// the old ones or by the new ones, never by neither: the built-in proxy adds no
// errors of its own to a rollout.
func TestSyncLosesNothing(t *testing.T) {
	l, _ := serve(t, topology(t, "ipv4", withLife(service("web", "tcp", 3), scenarios.Lifecycle{Grace: ms(30_000), OnSIGTERM: "drain"})), 3)
	l.statesMu.Lock()
	three := slices.Clone(l.states)
	l.statesMu.Unlock()
	two := slices.Clone(three)
	two[0].Endpoints = two[0].Endpoints[:2]
	stop := flow(t, l, 1500)
	for i := range 1000 {
		require.NoError(t, l.host("node1").Update(t.Context(), proxyJob, env.Update{Services: [][]env.ServiceState{two, three}[i%2]}))
	}
	outcomes := stop()
	assert.Equal(t, []runlog.Outcome{runlog.OK}, slices.Collect(maps.Keys(outcomes)), "%v", outcomes)
}

// Without preStop, and with pods that close at once, connections are lost
// while the proxy has not heard yet.
func TestRolloutRace(t *testing.T) {
	top := topology(t, "ipv4", withLife(service("web", "tcp", 2), scenarios.Lifecycle{Grace: ms(30_000), OnSIGTERM: "close"}))
	top.Lab.Proxy.Delay = ms(300)
	l, _ := serve(t, top, 5)
	stop := flow(t, l, 300)
	act(t, l, rollOut("web"))
	follows(t, l, "web", "web-3", "web-4")
	outcomes := stop()
	var failed uint64
	for o, n := range outcomes {
		if o != runlog.OK {
			failed += n
		}
	}
	assert.Positive(t, failed, "%v", outcomes)
}

func TestRolloutsUseHostsAgain(t *testing.T) {
	families(t, func(t *testing.T, family string) {
		web := withLife(service("web", "tcp", 1), scenarios.Lifecycle{Grace: ms(30_000), OnSIGTERM: "drain"})
		l, h := serve(t, topology(t, family, web), 2)
		act(t, l, rollOut("web"))
		act(t, l, rollOut("web"))
		follows(t, l, "web", "web-1.2")
		act(t, l, rollOut("web"))
		follows(t, l, "web", "web-2.2")
		stop := flow(t, l, 100)
		require.Eventually(t, func() bool {
			return slices.ContainsFunc(records(t, l.host("web-2")), func(r runlog.Record) bool { return r.Served != nil && r.Served.Backend == "web-2.2" })
		}, 20*time.Second, 50*time.Millisecond, "the new pod on the old host serves under its own name")
		assert.Equal(t, []runlog.Outcome{runlog.OK}, slices.Collect(maps.Keys(stop())))
		what, _ := h.pods()
		assert.Equal(t, []string{"terminating", "sigterm", "exited", "gone"}, what["web-2"][2:])
		assert.Equal(t, []string{"started", "ready", "terminating", "sigterm", "exited", "gone"}, what["web-1.2"])
	})
}

func TestGraceEnds(t *testing.T) {
	const grace = 400
	web := withLife(service("web", "tcp", 1), scenarios.Lifecycle{PreStop: ms(100), Grace: ms(grace), OnSIGTERM: "ignore"})
	l, h := serve(t, topology(t, "ipv4", web), 2)
	act(t, l, rollOut("web"))
	what, when := h.pods()
	assert.Equal(t, []string{"terminating", "sigterm", "killed", "gone"}, what["web-1"])
	assert.GreaterOrEqual(t, when["web-1"]["killed"]-when["web-1"]["terminating"], grace/1000.0)
}

func TestDeletePod(t *testing.T) {
	web := withLife(service("web", "tcp", 2), scenarios.Lifecycle{PreStop: ms(5_000), Grace: ms(30_000), OnSIGTERM: "drain"})
	l, h := serve(t, topology(t, "ipv4", web), 5)
	act(t, l, scenarios.Action{DeletePod: &scenarios.DeletePod{Service: "web", Count: 1, Force: true}})
	what, _ := h.pods()
	assert.Equal(t, []string{"terminating", "killed", "gone"}, what["web-1"], "without preStop and SIGTERM")
	follows(t, l, "web", "web-2", "web-3")
	assert.Error(t, l.Act(t.Context(), rollOut("wbe")), "no such service")
}

func TestScaleToNothingAndBack(t *testing.T) {
	families(t, func(t *testing.T, family string) {
		web := withLife(service("web", "tcp", 2), scenarios.Lifecycle{Grace: ms(30_000), OnSIGTERM: "drain"})
		l, _ := serve(t, topology(t, family, web), 4)
		act(t, l, scenarios.Action{Scale: &scenarios.Scale{Service: "web"}})
		follows(t, l, "web")
		for _, e := range connects(t, l.host("client"), "tcp", l.Services()[0].Addr, 3, l.Entries()[0].Sources, 1) {
			assert.Equal(t, "ECONNREFUSED", e.Name, "%+v", e)
		}
		act(t, l, scenarios.Action{Scale: &scenarios.Scale{Service: "web", To: 3}})
		// The third one uses the host of whichever ended first.
		require.Eventually(t, func() bool {
			_, usable, _ := proxied(t, l, "web")
			return len(usable) == 3 && slices.Equal(usable[1:], []string{"web-3", "web-4"})
		}, 10*time.Second, 20*time.Millisecond)
		stop := flow(t, l, 200)
		time.Sleep(time.Second)
		assert.Equal(t, []runlog.Outcome{runlog.OK}, slices.Collect(maps.Keys(stop())))
	})
}

// What a paused proxy has programmed stays, and leads to pods that are gone;
// it catches up when it goes on.
func TestPausedProxy(t *testing.T) {
	web := withLife(service("web", "tcp", 1), scenarios.Lifecycle{Grace: ms(30_000), OnSIGTERM: "drain"})
	l, h := serve(t, topology(t, "ipv4", web), 2)
	act(t, l, scenarios.Action{PauseProxy: &scenarios.Simple{}})
	act(t, l, rollOut("web"))
	assert.Equal(t, "removed", h.lives()["web-1"][3])
	assert.NotContains(t, flow(t, l, 50)(), runlog.OK, "it still leads to the pod that is gone")
	did, _, _ := proxied(t, l, "web")
	assert.Equal(t, []string{"synced", "paused"}, did)
	act(t, l, scenarios.Action{ResumeProxy: &scenarios.Simple{}})
	follows(t, l, "web", "web-2")
	stop := flow(t, l, 100)
	time.Sleep(500 * time.Millisecond)
	assert.Equal(t, []runlog.Outcome{runlog.OK}, slices.Collect(maps.Keys(stop())))
}

// Rolling restarts one node's proxy after the other's is back; otherwise all are
// down at once.
func TestRollingRestart(t *testing.T) {
	top := topology(t, "ipv4", service("web", "tcp", 1))
	top.Lab.Nodes = 2
	l, _ := serve(t, top, 1)
	span := func(node string) (ended, back float64) {
		for _, r := range records(t, l.host(node)) {
			if e := r.Event; e != nil && e.Kind == "proxy" && e.Name == "ended" {
				ended = r.T
			} else if e != nil && e.Kind == "proxy" && e.Name == "synced" {
				back = r.T
			}
		}
		return ended, back
	}
	for _, rolling := range []bool{true, false} {
		act(t, l, scenarios.Action{RestartProxy: &scenarios.RestartProxy{Rolling: rolling, Down: ms(500)}})
		_, back := span("node1")
		ended, _ := span("node2")
		assert.Equal(t, rolling, ended >= back, "node1 was back at %.3f, and node2 ended at %.3f", back, ended)
	}
}

func TestRestartedProxy(t *testing.T) {
	web := withLife(service("web", "tcp", 1), scenarios.Lifecycle{Grace: ms(30_000), OnSIGTERM: "drain"})
	l, _ := serve(t, topology(t, "ipv4", web), 2)
	act(t, l, scenarios.Action{RestartProxy: &scenarios.RestartProxy{}})
	did, _, _ := proxied(t, l, "web")
	assert.Equal(t, []string{"synced", "ended", "synced"}, did)

	// While it is down it hears of nothing; with clean there are no rules.
	done := make(chan error, 1)
	go func() {
		done <- l.Act(t.Context(), scenarios.Action{RestartProxy: &scenarios.RestartProxy{Clean: true, Down: ms(8_000)}})
	}()
	require.Eventually(t, func() bool { did, _, _ := proxied(t, l, "web"); return slices.Contains(did, "cleaned") }, 10*time.Second, 10*time.Millisecond)
	assert.NotContains(t, flow(t, l, 50)(), runlog.OK, "nothing translates")
	act(t, l, rollOut("web"))
	require.NoError(t, <-done)
	did, usable, times := proxied(t, l, "web")
	assert.Equal(t, []string{"synced", "ended", "synced", "ended", "cleaned", "synced"}, did[:6])
	assert.Equal(t, []string{"web-2"}, usable, "it begins with what there is then")
	assert.GreaterOrEqual(t, times[5]-times[3], 8.0)
	stop := flow(t, l, 100)
	time.Sleep(500 * time.Millisecond)
	assert.Equal(t, []runlog.Outcome{runlog.OK}, slices.Collect(maps.Keys(stop())))
}

func TestActionsOnTheTable(t *testing.T) {
	l, _ := serve(t, topology(t, "ipv4", service("dns", "udp", 1), service("web", "tcp", 1)), 1)
	node, client := l.host("node1"), l.host("client")
	caps, err := newEnv().Probe(t.Context())
	require.NoError(t, err)
	const ballast = 500
	require.NoError(t, node.Start(t.Context(), env.Job{ID: env.BallastID("node1"), Ballast: &env.BallastJob{Headroom: caps.Limit - ballast, Timeout: 60}}))
	count := func() map[string]int {
		n := map[string]int{}
		for _, e := range entries(t, l) {
			n[e["dport"]]++
		}
		return n
	}
	connects(t, client, "udp", l.Services()[0].Addr, 5, l.Entries()[0].Sources, 1)
	connects(t, client, "tcp", l.Services()[1].Addr, 7, l.Entries()[0].Sources, 1)
	require.Len(t, entries(t, l), ballast+5+7)
	act(t, l, scenarios.Action{Flush: &scenarios.Flush{Protocol: "udp"}})
	assert.Equal(t, map[string]int{"9": ballast, "8080": 7}, count())
	act(t, l, scenarios.Action{Flush: &scenarios.Flush{}})
	assert.Equal(t, map[string]int{"9": ballast}, count())
	for _, headroom := range []int64{int64(caps.Limit) - 100, int64(caps.Limit) - 900} {
		act(t, l, scenarios.Action{Ballast: &scenarios.Refill{Headroom: headroom}})
		assert.Equal(t, map[string]int{"9": int(int64(caps.Limit) - headroom)}, count())
	}
	assert.ErrorContains(t, l.Act(t.Context(), scenarios.Action{Ballast: &scenarios.Refill{Headroom: int64(caps.Limit) + 1}}), "a headroom of")
	assert.Equal(t, map[string]int{"9": 900}, count(), "as it was")
}

func TestActionSysctl(t *testing.T) {
	l, _ := serve(t, topology(t, "ipv4", service("web", "tcp", 1)), 1)
	const path, name = "net/netfilter/nf_conntrack_tcp_timeout_time_wait", "net.netfilter.nf_conntrack_tcp_timeout_time_wait"
	n := 0
	read := func() string {
		n++
		for _, e := range events(t, l.host("node1"), env.Job{ID: fmt.Sprint("settings ", n), Sample: &env.SampleJob{}}) {
			if e.Kind == "settings" {
				return e.Fields[path]
			}
		}
		return ""
	}
	set := func(value string, d scenarios.Duration) scenarios.Action {
		return scenarios.Action{SetSysctl: &scenarios.SetSysctl{Values: map[string]string{name: value}, For: d}}
	}
	was := read()
	require.NotEmpty(t, was)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- l.Act(ctx, set("33", ms(60_000))) }()
	require.Eventually(t, func() bool { return read() == "33" }, 10*time.Second, 10*time.Millisecond)
	cancel()
	assert.ErrorIs(t, <-done, context.Canceled)
	assert.Equal(t, was, read(), "an action that is cut puts back as well")
	act(t, l, set("44", ms(50)))
	assert.Equal(t, was, read())
	act(t, l, set("55", 0))
	assert.Equal(t, "55", read())
	assert.ErrorContains(t, l.Act(t.Context(), set("soon", 0)), "the kernel refuses it")
	assert.Equal(t, "55", read())
}

func TestActionHoldsTheLock(t *testing.T) {
	l, _ := serve(t, topology(t, "ipv4", service("web", "tcp", 1)), 1)
	hold := scenarios.Action{HoldXtablesLock: &scenarios.HoldXtablesLock{For: ms(700)}}
	// Which iptables there is is the machine's choice: here it is first one,
	// then the other, by what they say of themselves.
	says := func(version string) {
		dir := t.TempDir()
		require.NoError(t, os.WriteFile(filepath.Join(dir, "iptables"), []byte("#!/bin/sh\necho '"+version+"'\n"), 0o755))
		t.Setenv("PATH", dir+":/usr/bin:/bin")
	}
	says("iptables v1.8.9 (nf_tables)")
	assert.ErrorContains(t, l.Act(t.Context(), hold), "takes no lock")
	says("iptables v1.8.9 (legacy)")
	begun := time.Now()
	var wg sync.WaitGroup
	for range 2 { // the second waits for the first
		wg.Go(func() { assert.NoError(t, l.Act(t.Context(), hold)) })
	}
	wg.Wait()
	assert.GreaterOrEqual(t, time.Since(begun), 1400*time.Millisecond)
}

// A feed delivers the newest state that is due, each a while after it was made.
func TestFeed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		host := &slowProxy{begun: time.Now(), takes: time.Second}
		f := newFeed(host, 3*time.Second, func(s string) { t.Error(s) })
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); f.run(ctx) }()
		push := func(name string) { f.push([]env.ServiceState{{Name: name}}) }
		push("a") // due at 3 s, taken at 4 s
		time.Sleep(500 * time.Millisecond)
		push("b") // due at 3.5 s, while the proxy is at work with a
		time.Sleep(200 * time.Millisecond)
		push("c") // due at 3.7 s: delivered in place of b
		time.Sleep(6300 * time.Millisecond)
		push("d")
		time.Sleep(10 * time.Second)
		cancel()
		<-done
		assert.Equal(t, []string{"3s a", "4s c", "10s d"}, host.heard)
	})
}

type slowProxy struct {
	env.Host
	begun time.Time
	takes time.Duration
	heard []string
}

func (p *slowProxy) Update(_ context.Context, _ string, u env.Update) error {
	p.heard = append(p.heard, fmt.Sprint(time.Since(p.begun), " ", u.Services[0].Name))
	time.Sleep(p.takes)
	return nil
}
