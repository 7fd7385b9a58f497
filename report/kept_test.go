package report

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tablefull/tablefull/report/runlog"
)

// Of those that were led to a pod that is gone, some were led by rules that were
// out of date, and some by an entry that outlived these.
func TestEntriesThatOutliveTheRules(t *testing.T) {
	run := func(mode string, later ...float64) *Findings {
		s, _ := hangRun(t)
		for i := range s.records {
			if d := s.records[i].Dataplane; d != nil {
				d.Mode = mode
			}
		}
		for _, due := range later {
			s.lookedUp("web", due, 0.9, runlog.ConnectTimeout, 1, "SYN_SENT", false)
		}
		return s.analyze()
	}
	f := run("nftables")
	require.Equal(t, staleBackend, f.Causes[0].Cause)
	assert.NotContains(t, f.Causes[0].Evidence, "from before")
	assert.Empty(t, keptAdvice(f), "all were sent while the rules were out of date")

	f = run("nftables", 11.001)
	assert.Contains(t, f.Causes[0].Evidence, "; 1 of them was sent when its node's rules led there no more: its entry was there from before")
	f = run("nftables", 9.03, 11.001, 12.001)
	assert.Contains(t, f.Causes[0].Evidence, "; 2 of them were sent when their node's rules led there no more: their entries were there from before", "at 9.03 s no reading had shown the new rules yet")
	assert.Contains(t, f.Causes[0].Evidence, "; of the other 120, 117 were sent while rules still led there, and 3 when no reading tells where rules led", "none was between 8.85 s and 9.05 s")
	why := keptAdvice(f)
	require.Len(t, why, 1)
	assert.Contains(t, why[0], "2 attempts looked up were sent when the rules led there no more")
	assert.Contains(t, why[0], "conntrack -D -p tcp --orig-dst SERVICE --reply-src POD")
	f.Spikes = slices.DeleteFunc(f.Spikes, func(s Spike) bool { return s.Action == "heal" })
	assert.Contains(t, joined(otherAdvice(f).Why), "2 attempts looked up were sent when the rules led there no more", "also where no proxy hung")
	why = keptAdvice(run("ipvs", 11.001))
	assert.Contains(t, why[0], "1 attempt looked up was sent")
	assert.Contains(t, why[0], "expire_nodest_conn=1")
	assert.NotContains(t, why[0], "conntrack -D", "that deletes none of IPVS's own")
}

// What a spike is put down to are its own attempts, and not such as failed later.
// Nor do few that fail at a time, all of which are looked up, outweigh the many of
// which hardly any is.
func TestLateEntriesAreNotTheSpike(t *testing.T) {
	s, _ := hangRun(t)
	n := 0
	s.records = slices.DeleteFunc(s.records, func(r runlog.Record) bool {
		if r.Autopsy != nil {
			n++
		}
		return r.Autopsy != nil && n%20 != 0
	})
	for i := range 20 {
		s.lookedUp("web", 11.001+float64(i)*0.05, 0.9, runlog.ConnectTimeout, 1, "SYN_SENT", false)
	}
	f := s.analyze()
	c := f.Causes[0]
	require.Equal(t, staleBackend, c.Cause)
	require.Greater(t, 2*c.Proof.kept, c.Proof.AutopsiesAgree, "most look-ups are of later ones")
	most, known := c.outlived()
	assert.True(t, known && !most, "and most attempts are not")
	i := slices.IndexFunc(f.Spikes, func(s Spike) bool { return s.Action == "roll" })
	require.GreaterOrEqual(t, i, 0)
	assert.Contains(t, mechanism(f, &f.Spikes[i]), "node1 kept up to 2 stale backends, for ")
}

// Each advice to delete entries names those that are meant, and no others.
func TestAdviceDeletesNoMoreThanIsMeant(t *testing.T) {
	of := func(shape, cause string) []string {
		f := behindFor(0.006, 7)
		f.Causes[0].Cause, f.Traffic[0].Shape = cause, shape
		f.Environment.Timeouts = map[string]float64{"udp_timeout": 30, "udp_timeout_stream": 120, "tcp_timeout_syn_sent": 120}
		return advise(&f).Why
	}
	udp := of("udp", staleBackend)[1]
	assert.Contains(t, udp, "Each datagram renews such an entry for 30 s (nf_conntrack_udp_timeout), or 120 s (nf_conntrack_udp_timeout_stream) once there were answers, so that it never expires while a client goes on sending")
	assert.Contains(t, udp, "conntrack -D -p udp --orig-dst SERVICE --reply-src POD, ")
	assert.Contains(t, of("short_lived", staleBackend)[1], "stays for 120 s (nf_conntrack_tcp_timeout_syn_sent)")
	assert.Contains(t, of("short_lived", untranslated)[1], "conntrack -D -p tcp --orig-dst SERVICE --reply-src SERVICE, ")
}

// Datagrams are not sent again, so that no step is theirs.
func TestNoRetriesOfDatagrams(t *testing.T) {
	of := func(shape string, longest float64) chart {
		f := &Findings{Traffic: []Traffic{{Name: "a", Shape: shape}}, Timeline: Timeline{Latency: []LatencySeries{{
			Traffic: "a", StepS: 1, T: []float64{0}, P50Ms: []*float64{ref(1.0)}, P90Ms: []*float64{ref(2.0)}, P99Ms: []*float64{ref(3.0)}, MaxMs: []*float64{ref(longest)},
		}}}}
		c := &charts{f: f}
		c.latency()
		require.Len(t, c.over, 1)
		return c.over[0]
	}
	for _, longest := range []float64{26, 1200} {
		assert.NotContains(t, of("udp", longest).Note, "SYN")
		assert.Empty(t, of("udp", longest).Lines)
		assert.Contains(t, of("short_lived", longest).Note, "TCP sends a lost SYN again")
	}
}

// Of a single one, and where all were led by old entries, it reads as it should.
func TestWhereEntriesLedInWords(t *testing.T) {
	assert.Equal(t, "of those looked up, 1 attempt had an entry to a pod that was terminating when it was sent, and not to be used any more, although its node's rules led there no more: its entry was there from before", leadText(drainingBackend, 1)+keptText(1, 1, 0, false))
	assert.Equal(t, ", although their node's rules led there no more: their entries were there from before", keptText(5, 5, 0, false))
	assert.Equal(t, ", although their node's rules led there no more: entries of IPVS were there from before", keptText(5, 5, 0, true), "that of conntrack is the attempt's own")
	assert.Empty(t, keptText(5, 0, 0, false))
}

// Look-ups that were not made are not told as if they had been.
func TestLookUpsThatWereNotMade(t *testing.T) {
	s := newSim(t, 262144, 200000, finTraffic("web", 0, 5))
	s.fill("web", 50, 0, 5)
	s.records = append(s.records,
		runlog.Record{Host: "controller", T: 5, Loss: &runlog.Loss{What: "autopsies", Count: 539, Why: "there were more than are looked up, at most 20 a second"}},
		runlog.Record{Host: "client", T: 5, Loss: &runlog.Loss{What: "failures", Count: 2, Why: "too many"}},
	)
	f := s.analyze()
	assert.Contains(t, f.NotMeasured, "539 look-ups of failed attempts were not made: there were more than are looked up, at most 20 a second")
	lost, none := uint64(148), uint64(0)
	assert.Equal(t, "lost connections", lookedAt(&Findings{Traffic: []Traffic{{HeldLost: &lost}}}))
	assert.Equal(t, "failed attempts and lost connections", lookedAt(&Findings{Traffic: []Traffic{{HeldLost: &lost}, {Failed: 3}}}))
	assert.Equal(t, "failed attempts", lookedAt(&Findings{Traffic: []Traffic{{HeldLost: &none, Failed: 3}}}))
	assert.Contains(t, f.NotMeasured, "2 failures were counted and not recorded one by one: too many")
}

// What of those that were looked up is not so is said as well.
func TestTheOthersOfThoseLookedUp(t *testing.T) {
	assert.Equal(t, "; 136 of them were sent when their node's rules led there no more: their entries were there from before; of the other 9, 8 were sent while rules still led there, and 1 when no reading tells where rules led", keptText(145, 136, 8, false))
	assert.Equal(t, "; 1 of them was sent when its node's rules led there no more: its entry was there from before; the other 3 were sent when no reading tells where rules led", keptText(4, 1, 0, false))
	assert.Contains(t, keptText(2, 1, 1, false), "; 1 of them was sent when its node's rules led there no more: its entry was there from before; the other one was sent while rules still led there")
}
