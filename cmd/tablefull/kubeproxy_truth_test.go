package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tablefull/tablefull/report"
	"github.com/tablefull/tablefull/report/runlog"
	"github.com/tablefull/tablefull/runner/env/envtest"
	"github.com/tablefull/tablefull/runner/proxy"
)

// needKubeProxy skips where one of the versions or programs is not there,
// which TABLEFULL_REQUIRE=kube-proxy turns into a failure.
func needKubeProxy(t *testing.T, versions, programs []string) {
	t.Helper()
	for _, v := range versions {
		if _, err := proxy.Locate(v); err != nil {
			envtest.Require(t, "kube-proxy", err.Error())
		}
	}
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			envtest.Require(t, "kube-proxy", err.Error())
		}
	}
}

// kubeProxyLife is a scenario in which a real kube-proxy goes through all that
// can happen to one.
func kubeProxyLife(mode string) string {
	return `
name: kube-proxy-life
duration: 24s
lab: {proxy: {mode: ` + mode + `, binary: v1.35.4}}
services:
  - {name: web, pods: 2, lifecycle: {pre_stop: 2s, grace: 5s, on_sigterm: drain}}
traffic:
  - {name: clients, to: web, short_lived: {rate: 100/s}}
actions:
  - {name: roll, at: 1s, rollout: {service: web}}
  - {name: hang, at: 5s, pause_proxy: {}}
  - {name: roll-unseen, at: 5.5s, rollout: {service: web}}
  - {name: go-on, at: 9s, resume_proxy: {}}
  - {name: restart, at: 11s, restart_proxy: {}}
  - {name: restart-clean, at: 14s, restart_proxy: {clean: true}}
  - {name: upgrade, at: 18s, upgrade_proxy: {binary: v1.36.3, mode: ` + mode + `}}
  - {name: roll-again, at: 20s, rollout: {service: web}}
sampling: {census_every: 10s}
`
}

// A real kube-proxy in the built-in one's place, in each mode: it follows a
// rollout, hangs and is stale, goes on and is not, restarts and leaves its
// rules in place, restarts and does not, and gives way to the next release.
// Where the machine is quick enough for its rules to come before the end of a
// pod, only what it does not know of and what has no rules loses anything.
func TestTruthKubeProxy(t *testing.T) {
	needLab(t)
	for _, c := range []struct {
		mode     string
		programs []string
	}{{"nftables", []string{"nft"}}, {"iptables", []string{"iptables"}}} {
		needKubeProxy(t, []string{"v1.35.4", "v1.36.3"}, c.programs)
		t.Run(c.mode, func(t *testing.T) {
			r := runHonest(t, "-", kubeProxyLife(c.mode), "--set", "lab.kernel=host")
			assertLife(t, r, true, "restart", "restart-clean", "upgrade")
			at := map[string]report.Spike{}
			for _, s := range r.Spikes {
				at[s.Action] = s
			}
			assert.Zero(t, at["roll"].Failures)
			require.NotZero(t, at["roll-unseen"].Failures)
			require.NotZero(t, at["restart-clean"].Failures)
			require.NotNil(t, at["restart-clean"].DoneS)
			assert.Empty(t, failedAnew(t, r.dir, at["restart"].BeginS, at["restart-clean"].BeginS), "a restart")
			assert.Empty(t, failedAnew(t, r.dir, *at["restart-clean"].DoneS, 24), "an upgrade, and a rollout after it")
			assert.GreaterOrEqual(t, readLife(t, r.dir).told("healthy"), 4, "each of the four processes said so")
		})
	}
}

// The same in mode ipvs, in a private kernel, whose one CPU takes a second and
// a half to start a kube-proxy and two to program its rules: with more time
// between the turns, without a cleanup, which takes twice as long again, and
// judged by rules, not by the number of failures. On a busy machine it takes
// several times as long, by its own account: then once more with all of it that
// much slower. Where that is not enough, only what holds at any speed is judged.
func TestTruthKubeProxyIPVS(t *testing.T) {
	needPrivate(t)
	needKubeProxy(t, []string{"v1.35.4", "v1.36.3"}, []string{"iptables", "ipset"})
	judged := false
	for _, slower := range []float64{1, 3} {
		r := runIt(t, "-", ipvsLife(slower), "--quiet")
		took := readLife(t, r.dir).slowestSync()
		inTime, whole := took < 3.2*slower, true // a rollout of two pods takes two of them, and has 7 s
		for i, s := range r.Spikes {
			whole = whole && s.DoneS != nil && *s.DoneS < 40*slower // what is not over by then fails with the run's end
			inTime = inTime && whole && (i+1 == len(r.Spikes) || *s.DoneS < r.Spikes[i+1].BeginS)
		}
		t.Logf("kube-proxy took at most %.1f s to program its rules; in time: %t", took, inTime)
		if !whole {
			continue // a restart that began was not over when the run was
		}
		assertLife(t, r, inTime, "restart", "upgrade")
		assert.NotZero(t, r.cause("stale_backend"), "pods that it did not know of had gone")
		judged = true
		if inTime {
			assertNoRulesMissed(t, r, "restart", "upgrade")
			return
		}
	}
	require.True(t, judged, "the machine was too busy both times to judge anything")
	t.Log("the machine was too busy both times to judge what kube-proxy did in time")
}

// ipvsLife is the scenario of that in mode ipvs, with all its times so much
// longer. What is not yet programmed when the hang begins can be read after it:
// so the audit has two turns until the next rollout.
func ipvsLife(slower float64) string {
	s := func(at float64) string { return strconv.FormatFloat(at*slower, 'f', 1, 64) + "s" }
	return `
name: kube-proxy-life
duration: ` + s(41) + `
lab: {kernel: private, proxy: {mode: ipvs, binary: v1.35.4}}
services:
  - {name: web, pods: 2, lifecycle: {pre_stop: ` + s(2) + `, grace: ` + s(5) + `, on_sigterm: drain}}
traffic:
  - {name: clients, to: web, short_lived: {rate: 10/s}}
actions:
  - {name: roll, at: ` + s(1) + `, rollout: {service: web}}
  - {name: hang, at: ` + s(8) + `, pause_proxy: {}}
  - {name: roll-unseen, at: ` + s(9.3) + `, rollout: {service: web}}
  - {name: go-on, at: ` + s(12.3) + `, resume_proxy: {}}
  - {name: restart, at: ` + s(19.5) + `, restart_proxy: {}}
  - {name: upgrade, at: ` + s(27) + `, upgrade_proxy: {binary: v1.36.3, mode: ipvs}}
  - {name: roll-again, at: ` + s(34) + `, rollout: {service: web}}
sampling: {every: 500ms, census_every: 60s}
`
}

// A restart of the built-in proxy with its rules cleaned leaves no virtual server in
// IPVS, and the next one programs the same real servers again; one that leaves them
// has them all the time. What the audit reads over netlink is what ipvsadm -ln
// shows.
func TestTruthCleanRestartIPVS(t *testing.T) {
	needPrivate(t)
	const scenario = `
name: clean-restart
duration: 5s
lab: {kernel: private, proxy: {mode: ipvs}}
services: [{name: web, pods: 2}]
traffic:
  - {name: clients, to: web, timeout: 500ms, short_lived: {rate: 10/s}}
actions:
  - {name: keep, at: 500ms, restart_proxy: {down: 500ms}}
  - {name: clean, at: 2s, restart_proxy: {clean: true, down: 700ms}}
sampling: {every: 500ms, census_every: 60s}
`
	r := runIt(t, "-", scenario, "--quiet")
	l := readLife(t, r.dir)
	both := l.programmed(l.begin("keep"))
	require.Len(t, both, 2)
	turns := l.restarts()
	require.Len(t, turns, 2)
	for i, cleaned := range []bool{false, true} {
		read := l.between(turns[i])
		assert.Equal(t, cleaned, slices.ContainsFunc(read, func(b []netip.AddrPort) bool { return len(b) == 0 }), "restart %d: %v", i+1, read)
		assert.Equal(t, both, l.programmed(turns[i].to+0.6), "restart %d", i+1)
	}
	assert.NotZero(t, r.cause("untranslated"), "without a virtual server nobody is reached, and the node goes on tracking")
}

// The same with a real kube-proxy, of which one cleanup, which says that it failed, is
// enough. Where it is not over when the run is, a longer run is made.
func TestTruthCleanRestartOfKubeProxyIPVS(t *testing.T) {
	needPrivate(t)
	needKubeProxy(t, []string{"v1.36.3"}, []string{"iptables", "ipset"})
	const scenario = `
name: clean-restart
duration: 14s
lab: {kernel: private, proxy: {mode: ipvs, binary: v1.36.3}}
services: [{name: web, pods: 2}]
traffic:
  - {name: clients, to: web, timeout: 500ms, short_lived: {rate: 5/s}}
actions:
  - {name: clean, at: 500ms, restart_proxy: {clean: true}}
sampling: {every: 500ms, census_every: 60s}
`
	for _, duration := range []float64{14, 45} {
		r := runIt(t, "-", scenario, "--quiet", "--set", fmt.Sprintf("duration=%.0fs", duration))
		require.Len(t, r.Spikes, 1)
		l := readLife(t, r.dir)
		both := l.programmed(l.begin("clean"))
		require.Len(t, both, 2)
		if d := r.Spikes[0].DoneS; d == nil || *d > duration {
			t.Logf("the restart was not over after %.0f s", duration)
			continue
		}
		assert.Empty(t, r.Spikes[0].Error)
		turns := l.restarts()
		require.Len(t, turns, 1)
		assert.Equal(t, 1, l.told("cleaned"))
		assert.Contains(t, l.between(turns[0]), []netip.AddrPort(nil), "a moment without rules")
		assert.Equal(t, both, l.programmed(turns[0].to+0.6))
		return
	}
	require.FailNow(t, "the machine was too busy both times to judge how it ended")
}

// assertNoRulesMissed holds that no attempt failed during these actions because
// of what the node was programmed with.
func assertNoRulesMissed(t *testing.T, r result, actions ...string) {
	t.Helper()
	for _, s := range r.Spikes {
		if !slices.Contains(actions, s.Action) {
			continue
		}
		for _, c := range s.Causes {
			assert.NotContains(t, []string{"stale_backend", "no_endpoint", "untranslated"}, c.Cause, s.Action)
		}
	}
}

// assertLife holds what the kernel was programmed with, as the audit read it,
// to the endpoints that there were, at each turn of a kube-proxy's life. The
// restarts are all actions that end one kube-proxy and start another. Where the
// machine was too slow for it, how soon rules followed is not judged.
func assertLife(t *testing.T, r result, inTime bool, restarts ...string) {
	t.Helper()
	for _, s := range r.Spikes {
		assert.Empty(t, s.Error, s.Action)
	}
	l := readLife(t, r.dir)
	followed := func(when string, at float64) {
		if inTime {
			assert.Equal(t, l.usable(at), l.programmed(at), when)
		}
	}
	followed("a rollout", l.begin("hang"))
	unseen, seen := l.begin("roll-unseen"), l.begin("go-on")
	assert.Equal(t, l.programmed(unseen), l.programmed(seen), "a proxy that hangs changes nothing")
	assert.NotEqual(t, l.usable(seen), l.programmed(seen))
	followed("a hang", l.begin("restart"))

	turns := l.restarts()
	require.Len(t, turns, len(restarts))
	for i, what := range restarts {
		empty := slices.ContainsFunc(l.between(turns[i]), func(b []netip.AddrPort) bool { return len(b) == 0 })
		assert.Equal(t, what == "restart-clean", empty, "%s: whether there was a moment without rules", what)
		followed(what, turns[i].to+0.3)
	}
	followed("an upgrade and a rollout", l.records[len(l.records)-1].T)
}

// failedAnew are the attempts due in [from, to), in s, that failed, and whose
// source address and port no attempt before had that failed. One that has them
// follows that one's entry, which stays for nf_conntrack_tcp_timeout_syn_sent,
// 120 s, whatever is programmed by then: one attempt does in a run of ten.
func failedAnew(t *testing.T, dir string, from, to float64) (out []runlog.Failure) {
	t.Helper()
	f, err := os.Open(filepath.Join(dir, "run.jsonl"))
	require.NoError(t, err)
	defer f.Close()
	seen := map[netip.AddrPort]bool{}
	require.NoError(t, runlog.NewReader(f).Each(func(r *runlog.Record) {
		if r.Failure == nil {
			return
		}
		if x := *r.Failure; x.Due >= from && x.Due < to && !seen[x.Tuple.Src] {
			out = append(out, x)
		}
		seen[r.Failure.Tuple.Src] = true
	}))
	return out
}

// life is what a run log says of endpoints, rules and the proxy, in order.
type life struct {
	t       *testing.T
	records []runlog.Record
}

func readLife(t *testing.T, dir string) life {
	t.Helper()
	return life{t: t, records: recordsOf(t, dir, func(r *runlog.Record) bool { return r.Endpoints != nil || r.Dataplane != nil || r.Event != nil })}
}

// recordsOf are the wanted records of a run in order of time.
func recordsOf(t *testing.T, dir string, wanted func(r *runlog.Record) bool) (list []runlog.Record) {
	t.Helper()
	f, err := os.Open(filepath.Join(dir, "run.jsonl"))
	require.NoError(t, err)
	defer f.Close()
	in := runlog.NewReader(f)
	for {
		rec, err := in.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err)
		if wanted(&rec) {
			list = append(list, rec)
		}
	}
	slices.SortStableFunc(list, func(a, b runlog.Record) int { return cmp.Compare(a.T, b.T) })
	return list
}

// begin is when an action began.
func (l life) begin(action string) float64 {
	for _, r := range l.records {
		if e := r.Event; e != nil && e.Kind == "action" && e.Name == action && e.Fields["phase"] == "begin" {
			return r.T
		}
	}
	require.FailNow(l.t, "there was no action "+action)
	return 0
}

// usable are the endpoints that new connections were to go to at a time.
func (l life) usable(at float64) []netip.AddrPort {
	var out []netip.AddrPort
	for _, r := range l.records {
		if r.Endpoints == nil || r.T > at {
			continue
		}
		out = nil
		for _, e := range runlog.Usable(r.Endpoints.Endpoints) {
			out = append(out, netip.AddrPortFrom(e.Addr, 8080))
		}
	}
	slices.SortFunc(out, netip.AddrPort.Compare)
	return out
}

// programmed are the backends that new connections did go to at a time.
func (l life) programmed(at float64) []netip.AddrPort {
	var out []netip.AddrPort
	for _, r := range l.records {
		if r.Dataplane != nil && r.T <= at {
			out = l.backends(r)
		}
	}
	return out
}

func (l life) backends(r runlog.Record) []netip.AddrPort {
	var out []netip.AddrPort
	assert.Empty(l.t, r.Dataplane.Failed)
	for _, b := range r.Dataplane.Services[0].Backends {
		if b.Weight > 0 {
			out = append(out, b.Addr)
		}
	}
	return out
}

// told is how many times the proxy told that.
func (l life) told(what string) (n int) {
	for _, r := range l.records {
		if e := r.Event; e != nil && e.Kind == "proxy" && e.Name == what {
			n++
		}
	}
	return n
}

// slowestSync is the longest, in s, that a kube-proxy says it took on average to
// program its rules from one of its metrics' readings to the next.
func (l life) slowestSync() float64 {
	var slowest, syncs, took float64
	for _, r := range l.records {
		switch e := r.Event; {
		case e == nil || e.Kind != "proxy":
		case e.Name == "ended":
			syncs, took = 0, 0 // the next one counts from there
		case e.Name == "metrics" && e.Fields["syncs"] != "":
			n, err := strconv.ParseFloat(e.Fields["syncs"], 64)
			require.NoError(l.t, err)
			s, err := strconv.ParseFloat(e.Fields["sync_s"], 64)
			require.NoError(l.t, err)
			if n > syncs {
				slowest = max(slowest, (s-took)/(n-syncs))
			}
			syncs, took = n, s
		}
	}
	return slowest
}

// span is a stretch of run time, s.
type span struct{ from, to float64 }

// restarts are the times from the end of a proxy to the first rules of the next.
func (l life) restarts() []span {
	var out []span
	for _, r := range l.records {
		switch e := r.Event; {
		case e == nil || e.Kind != "proxy":
		case e.Name == "ended":
			out = append(out, span{from: r.T})
		case e.Name == "synced" && len(out) > 0:
			out[len(out)-1].to = r.T
		}
	}
	return out
}

// between are the backends of each time at which they were read, and had
// changed.
func (l life) between(s span) [][]netip.AddrPort {
	out := [][]netip.AddrPort{l.programmed(s.from)}
	for _, r := range l.records {
		if r.Dataplane != nil && r.T > s.from && r.T <= s.to {
			out = append(out, l.backends(r))
		}
	}
	return out
}
