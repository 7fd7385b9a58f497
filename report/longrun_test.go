package report

import (
	"bufio"
	"fmt"
	"io"
	"math"
	"runtime"
	"runtime/metrics"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tablefull/tablefull/report/runlog"
)

// netCounters are what the samples of a real run hold besides the table; the
// log of a long run consists of these in the main.
var netCounters = strings.Fields(`Ip.ForwDatagrams Ip.InDiscards Ip.OutDiscards Ip.OutNoRoutes Ip6InDiscards Ip6OutDiscards
	Ip6OutForwDatagrams Ip6OutNoRoutes Tcp.ActiveOpens Tcp.AttemptFails Tcp.CurrEstab Tcp.EstabResets Tcp.InErrs Tcp.OutRsts
	Tcp.PassiveOpens Tcp.RetransSegs TcpExt.ListenDrops TcpExt.ListenOverflows TcpExt.PAWSActive TcpExt.PAWSEstab
	TcpExt.TCPAbortOnClose TcpExt.TCPAbortOnData TcpExt.TCPAbortOnTimeout TcpExt.TCPBacklogDrop TcpExt.TCPReqQFullDoCookies
	TcpExt.TCPReqQFullDrop TcpExt.TCPSynRetrans TcpExt.TCPTimeWaitOverflow TcpExt.TCPTimeouts Udp.InDatagrams Udp.InErrors
	Udp.NoPorts Udp.OutDatagrams Udp.RcvbufErrors Udp.SndbufErrors Udp6InDatagrams Udp6InErrors Udp6NoPorts Udp6OutDatagrams
	Udp6RcvbufErrors Udp6SndbufErrors`)

// spikeAt is when, in s, the long run's table is full for one sample, in which
// it drops.
const spikeAt = 1234.5

// longRun writes the log of a run of that many s at default sampling: 200
// attempts per second, the node sampled ten times a second and three other
// hosts twice, in records of real size.
func longRun(w io.Writer, seconds int) error {
	out := bufio.NewWriterSize(w, 1<<20)
	n := map[string]uint64{}
	put := func(host string, t float64, format string, args ...any) {
		n[host]++
		fmt.Fprintf(out, `{"n":%d,"host":%q,"t":%.9f,`, n[host], host, t)
		fmt.Fprintf(out, format, args...)
		out.WriteString("}\n")
	}
	var net strings.Builder
	for i, c := range netCounters {
		fmt.Fprintf(&net, `%q:%d,`, c, i%3*100000)
	}
	// All of them every 10 s, else those that have changed.
	moving := func(s int) string {
		some := fmt.Sprintf(`"Ip.ForwDatagrams":%d,"Tcp.ActiveOpens":%d,"Tcp.CurrEstab":%d`, 2000*s, 20*s, s%3)
		if s%100 == 0 {
			return strings.TrimSuffix(net.String(), ",")
		}
		return some
	}
	table := func(s, drop int) string {
		if s%100 == 0 {
			return fmt.Sprintf(`"chainlength":0,"clashres":%d,"delete":0,"drop":%d,"early_drop":0,"expect_create":0,"expect_delete":0,"expect_new":0,"found":%d,"icmp_error":0,"ignore":0,"insert":%d,"insert_failed":0,"invalid":0,"new":0,"search_restart":0`,
				s/1000, drop, s/70, 20*s)
		}
		some := fmt.Sprintf(`"found":%d,"insert":%d`, s/70, 20*s)
		if drop > 0 && s == int(10*spikeAt) {
			some = fmt.Sprintf(`"drop":%d,`, drop) + some
		}
		return some
	}
	fmt.Fprintf(out, `{"n":1,"host":"controller","t":0,"header":{"format":1,"scenario":"soak","target":"lab","kernel":"6.18.44","cpus":2,"limit":262144,"duration":%d,"traffic":[{"name":"web","shape":"short_lived","to":"web","end":%d,"timeout":0.9,"close":"fin","entries_per_attempt":1,"residence":120,"residue_state":"TIME_WAIT","expects_answer":true}],"services":[{"name":"web","addr":"10.96.0.10:8080","protocol":"tcp","backends":[{"name":"web-1","addr":"10.244.0.2:8080"},{"name":"web-2","addr":"10.244.0.3:8080"}]}],"nodes":["node1"],"thresholds":["errors < 0.1%%","p99 < 50ms"],"sample_every":0.1,"census_every":1}}`+"\n", seconds, seconds)
	n["controller"] = 1
	for s := range seconds {
		took, err := someLatencies(s)
		if err != nil {
			return err
		}
		for i := range 10 {
			t := float64(s) + float64(i)/10
			entries, drop := 24000+int(200*math.Sin(t/1000)), 0
			if t == spikeAt {
				entries = 262144
			}
			failed := 0
			if t >= spikeAt {
				drop = 5
			}
			if t == spikeAt-0.1 {
				failed = 5
			}
			put("node1", t, `"sample":{"took":0.000255109,"conntrack":{"entries":%d,"limit":262144,"counters":{%s}},"net":{%s},"cpu":{"user":%.2f,"system":%.2f,"softirq":%.2f,"idle":%.2f,"steal":0,"self":%.6f}}`,
				entries, table(s*10+i, drop), moving(s*10+i), t*0.3+100, t*0.4+100, t*0.1+50, t*1.2+1000, t*0.01)
			if failed > 0 {
				put("client", t+1, `"bin":{"traffic":"web","start":%.1f,"width":0.1,"due":20,"started":20,"outcomes":{"ok":15,"connect_timeout":5},"lost_packets":5}`, t)
			} else {
				put("client", t+0.2, `"bin":{"traffic":"web","start":%.1f,"width":0.1,"due":20,"started":20,"outcomes":{"ok":18}}`, t)
				put("client", t+0.3, `"bin":{"traffic":"web","start":%.1f,"width":0.1,"outcomes":{"ok":2}}`, t)
			}
			if i%5 == 0 {
				for _, h := range []string{"client", "web-1", "web-2"} {
					put(h, t, `"sample":{"took":0.000194529,"net":{%s}}`, moving(s*10+i))
				}
			}
		}
		put("client", float64(s)+2, `"latency":{"traffic":"web","start":%d,"width":1,"from_due":%q,"from_start":%q,"connect":%q}`, s, took, took, took)
		put("web-1", float64(s)+1, `"served":{"service":"web","backend":"web-1","accepted":100,"served":100,"open":0}`)
		put("web-2", float64(s)+1, `"served":{"service":"web","backend":"web-2","accepted":100,"served":100,"open":0}`)
		if s%10 == 0 {
			put("node1", float64(s)+0.95, `"census":{"took":0.06,"cpu":0.05,"entries":24000,"ballast":0,"groups":[{"proto":"tcp","state":"TIME_WAIT","assured":true,"replied":true,"service":"10.96.0.10:8080","backend":"10.244.0.2:8080","count":12000},{"proto":"tcp","state":"TIME_WAIT","assured":true,"replied":true,"service":"10.96.0.10:8080","backend":"10.244.0.3:8080","count":12000}],"sources":[{"addr":"10.128.0.1","count":47},{"addr":"10.128.0.2","count":47},{"addr":"10.128.0.3","count":47},{"addr":"10.128.0.4","count":47}]}`)
		}
	}
	put("controller", float64(seconds)+3, `"trailer":{"ended":"2026-01-02T00:00:00Z","outcome":"completed","restored":true,"records":{}}`)
	return out.Flush()
}

// latencyTexts are the histograms of ten different seconds.
var latencyTexts [10]string

// someLatencies is the encoded histogram of 200 times like those of a real run.
func someLatencies(second int) (string, error) {
	text := &latencyTexts[second%len(latencyTexts)]
	if *text == "" {
		h := hdrhistogram.New(1, 60_000_000, 2)
		for i := range 200 {
			if err := h.RecordValue(int64(150 + (i*i*37+second*11)%400 + i/190*5000)); err != nil {
				return "", err
			}
		}
		s, err := runlog.EncodeHistogram(h)
		if err != nil {
			return "", err
		}
		*text = s
	}
	return *text, nil
}

// heapPeak calls fn and returns the most memory in bytes that the heap had
// meanwhile, garbage that was not yet collected included.
func heapPeak(fn func()) uint64 {
	runtime.GC()
	var peak atomic.Uint64
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		s := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}, {Name: "/memory/classes/heap/unused:bytes"}}
		tick := time.NewTicker(2 * time.Millisecond)
		defer tick.Stop()
		for {
			metrics.Read(s)
			peak.Store(max(peak.Load(), s[0].Value.Uint64()+s[1].Value.Uint64()))
			select {
			case <-tick.C:
			case <-stop:
				return
			}
		}
	}()
	fn()
	close(stop)
	<-stopped
	return peak.Load()
}

// A long run is kept in memory that grows by little per hour. With what is
// added up at the end, and as much garbage again, a day must do with 300 MB;
// TestDay shows it.
func TestLongRunMemory(t *testing.T) {
	live := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	held := func(seconds int, thin bool) uint64 {
		before := live()
		l := newLog()
		for i := range 10 * seconds {
			t := float64(i) / 10
			l.add(&runlog.Record{Host: simNode, T: t, Sample: &runlog.Sample{
				Conntrack: &runlog.Conntrack{Entries: 5, Limit: 10, Counters: map[string]uint64{"drop": 0, "found": uint64(i)}},
				CPU:       &runlog.CPU{User: t, Idle: t},
			}})
			l.add(&runlog.Record{Host: "client", T: t, Bin: &runlog.Bin{Traffic: "web", Start: t, Width: 0.1, Due: 1, Started: 1, Outcomes: map[runlog.Outcome]uint64{runlog.OK: 1}}})
			if thin && i%1000 == 0 {
				l.thin()
			}
		}
		n := live() - before
		runtime.KeepAlive(l)
		return n
	}
	for _, c := range []struct {
		name  string
		thin  bool
		hours int    // and three times as many
		most  uint64 // bytes a day
	}{
		{"whole", false, 1, 100 << 20},
		{"thin", true, 3, 10 << 20},
	} {
		t.Run(c.name, func(t *testing.T) {
			short, long := held(c.hours*3600, c.thin), held(3*c.hours*3600, c.thin)
			require.Greater(t, long, short)
			perDay := (long - short) * 24 / uint64(2*c.hours)
			t.Logf("%d kB for %d h, %d kB for %d h, so about %d MB for a day", short>>10, c.hours, long>>10, 3*c.hours, perDay>>20)
			assert.Less(t, perDay, c.most)
		})
	}
}

// The log of an hour, read as a file is.
func TestLongRun(t *testing.T) {
	r, w := io.Pipe()
	go func() { w.CloseWithError(longRun(w, 3600)) }()
	f, err := Analyze(r)
	require.NoError(t, err)
	checkTimeline(t, f)
	require.Equal(t, map[string]uint64{"table_full": 5}, causesOf(f))
	assert.Contains(t, f.Timeline.Nodes[0].Entries, uint64(262144), "a spike of one sample")
	assert.Equal(t, Pass, f.Verdict, "%v", f.Reasons)
	size := len(renderedHTML(t, f))
	t.Logf("%d kB of HTML", size>>10)
	assert.Less(t, size, 1<<20, "bytes of HTML")
}
