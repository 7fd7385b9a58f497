//go:build linux

package traffic

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	vegeta "github.com/tsenart/vegeta/v12/lib"
	"golang.org/x/sys/unix"
)

const (
	benchRounds      = 5
	benchConnections = 20_000 // a round, of each generator
	benchSources     = 64
	benchConcurrent  = 256 // connections under way, for all generators
)

// benchGenerators are our engine and what it is compared with. The first two
// speak the lab's own protocol to its tcp server, the others HTTP to its http
// server: what each is made for.
var benchGenerators = []string{"engine", "c-epoll", "vegeta", "wrk"}

// connResult is what one generator did. Times are in s.
type connResult struct {
	OK        int
	Took      float64
	CPU       float64 // user and system, of the generator
	ServerCPU float64
	Error     string
}

// BenchmarkConnectionsBesidePeers measures how many new connections per second,
// with one request each, a generator makes through a node that forwards, tracks
// and translates, when it makes the next as soon as one is done.
//
// The generators take turns, in an order that moves on with each round. conn/s
// and us/conn (of CPU, of the generator's process) are medians; x-NAME is the
// median of the rounds' ratios of conn/s: above 1 the engine is faster. Only
// the ratios mean anything beyond this machine.
func BenchmarkConnectionsBesidePeers(b *testing.B) {
	needTools(b, "gcc", "wrk")
	bin := filepath.Join(b.TempDir(), "generator")
	out, err := exec.Command("gcc", "-O2", "-o", bin, "testdata/generator.c").CombinedOutput()
	require.NoError(b, err, "compile generator: %s", out)
	rate, cpu := map[string][]float64{}, map[string][]float64{}
	for round := range b.N * benchRounds {
		line := ""
		for i := range benchGenerators {
			name := benchGenerators[(round+i)%len(benchGenerators)]
			var r connResult
			measureAs(b, &r, "connections", name, strconv.Itoa(benchConnections), bin)
			if r.OK < benchConnections*99/100 && name != "wrk" || r.OK == 0 { // wrk knows a time, no number
				b.Fatalf("%s: %d of %d connections succeeded: %s", name, r.OK, benchConnections, r.Error)
			}
			rate[name] = append(rate[name], float64(r.OK)/r.Took)
			cpu[name] = append(cpu[name], r.CPU/float64(r.OK)*1e6)
			line += fmt.Sprintf("  %s %.0f/s, CPU %.1f + server %.1f us", name, float64(r.OK)/r.Took, r.CPU/float64(r.OK)*1e6, r.ServerCPU/float64(r.OK)*1e6)
		}
		b.Logf("round %d:%s", round, line)
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(median(rate["engine"]), "conn/s")
	b.ReportMetric(median(cpu["engine"]), "us/conn")
	for _, name := range benchGenerators[1:] {
		b.ReportMetric(median(ratios(rate["engine"], rate[name])), "x-"+name)
		b.ReportMetric(median(cpu[name]), name+"-us/conn")
	}
}

// playConnections builds the network around itself and generates the load.
func playConnections(generator, count, bin string) (err error) {
	n, err := strconv.Atoi(count)
	if err != nil {
		return err
	}
	protocol := "tcp"
	if generator == "vegeta" || generator == "wrk" {
		protocol = "http"
	}
	network, err := newBenchNet(protocol)
	if err != nil {
		return err
	}
	var r connResult
	before := usage()
	began := time.Now()
	switch generator {
	case "engine":
		r.OK, err = benchEngine(n)
	case "c-epoll":
		r.OK, err = benchC(n, bin)
	case "vegeta":
		r.OK, err = benchVegeta(n)
	case "wrk":
		r.OK, err = benchWrk(n)
	}
	r.Took = time.Since(began).Seconds()
	r.CPU = usage() - before
	if err != nil {
		r.Error = err.Error()
	}
	if err := errors.Join(network.flush(), network.close()); err != nil {
		return err
	}
	state := network.server.cmd.ProcessState
	r.ServerCPU = (state.UserTime() + state.SystemTime()).Seconds()
	return json.NewEncoder(os.Stdout).Encode(r)
}

// usage is the CPU time, user and system in s, of this process and of those it
// has waited for.
func usage() (s float64) {
	for _, who := range []int{unix.RUSAGE_SELF, unix.RUSAGE_CHILDREN} {
		var u unix.Rusage
		if unix.Getrusage(who, &u) == nil {
			s += float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
		}
	}
	return s
}

// closedLoop is a pacer that makes the next attempt due when fewer than
// benchConcurrent sockets are open.
type closedLoop struct {
	e     *tcpEngine
	start float64
}

func (c *closedLoop) Pace(elapsed time.Duration, _ uint64) (time.Duration, bool) {
	wait := max(0, seconds(c.e.now()-c.start)-elapsed)
	if c.e.open >= benchConcurrent {
		wait += 100 * time.Microsecond
	}
	return wait, false
}

func (c *closedLoop) Rate(time.Duration) float64 { return 0 }

func benchEngine(n int) (ok int, err error) {
	j := load(benchService, time.Hour)
	j.Load.SourceCount = benchSources
	j.Load.End = 0
	tuples, err := newTCPTuples(*j.Load, nil)
	if err != nil {
		return 0, err
	}
	shape := &shortLived{mode: "fin"}
	pacer := &closedLoop{}
	out := new(records)
	e, err := newTCPEngine(j, out, shape, tcpSetup{schedule: NewSchedule(pacer, 0, 3600), limit: uint64(n), tuples: tuples, requestBytes: 64, responseBytes: 64})
	if err != nil {
		return 0, err
	}
	shape.e, pacer.e = e, e
	if err := e.run(context.Background()); err != nil {
		return 0, err
	}
	got := out.totals()
	if len(got.failures) > 0 {
		err = fmt.Errorf("%v %v", got.outcomes, got.failures[0])
	}
	return int(got.outcomes["ok"]), err
}

func benchC(n int, bin string) (ok int, err error) {
	out, err := exec.Command(bin, benchService.Addr().String(), strconv.Itoa(int(benchService.Port())), "10.9.0.1", strconv.Itoa(benchSources), strconv.Itoa(n), strconv.Itoa(benchConcurrent)).Output()
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(out)))
}

// benchVegeta attacks as vegeta does without keep-alive, as fast as it can.
func benchVegeta(n int) (ok int, err error) {
	transport := &http.Transport{DisableKeepAlives: true, DialContext: (&net.Dialer{KeepAlive: -1, Control: func(_, _ string, c syscall.RawConn) error { return nil }}).DialContext}
	attacker := vegeta.NewAttacker(vegeta.Workers(benchConcurrent), vegeta.MaxWorkers(benchConcurrent), vegeta.Client(&http.Client{Transport: transport, Timeout: 20 * time.Second}))
	targeter := vegeta.NewStaticTargeter(vegeta.Target{Method: "GET", URL: "http://" + benchService.String() + "/"})
	left := n
	pacer := bounded{&left}
	for r := range attacker.Attack(targeter, pacer, 0, "bench") {
		if r.Code == 200 {
			ok++
		} else {
			err = fmt.Errorf("%s", r.Error)
		}
	}
	return ok, err
}

// bounded is a pacer for so many hits, as fast as possible.
type bounded struct{ left *int }

func (p bounded) Pace(_ time.Duration, hits uint64) (time.Duration, bool) {
	return 0, hits >= uint64(*p.left)
}
func (p bounded) Rate(time.Duration) float64 { return 0 }

// benchWrk runs for about as long as the others need for n connections: wrk
// knows whole seconds, and no number.
func benchWrk(n int) (ok int, err error) {
	d := max(1, n/10_000)
	out, err := exec.Command("wrk", "-t1", "-c"+strconv.Itoa(benchConcurrent), "-d"+strconv.Itoa(d)+"s", "-H", "Connection: close", "http://"+benchService.String()+"/").Output()
	for _, line := range strings.Split(string(out), "\n") {
		var took string
		if k, _ := fmt.Sscanf(strings.TrimSpace(line), "%d requests in %s", &ok, &took); k == 2 {
			return ok, err
		}
	}
	return 0, fmt.Errorf("wrk: %w: %s", err, out)
}
