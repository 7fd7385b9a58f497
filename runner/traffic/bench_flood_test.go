//go:build linux

package traffic

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"testing"
	"time"

	"github.com/tablefull/tablefull/scenarios"
)

const (
	floodRounds = 5
	floodWindow = 1500 * time.Millisecond // the table, of 262144 entries as a rule, does not get full in it
	floodTop    = 1e7                     // packets/s, more than any machine does
)

// benchFlooders are our flood and what it is compared with: hping3 as it comes,
// with the one source address the client has, and with random ones.
var benchFlooders = []string{"flood", "hping3", "hping3-rand-source"}

// floodResult is what arrived at the node in the time that was measured.
type floodResult struct {
	SYNs, Frames, Took float64 // Took in s
	Entries            uint32  // at its end
}

// BenchmarkFloodBesideHping3 measures how many SYNs per second arrive at a node
// that tracks and translates them, with a port behind it that listens. SYN/s is
// a median; x-NAME is the median of the rounds' ratios, of floods that take
// turns. Ours sends on as many threads as there are CPUs, up to four; hping3
// has one.
//
// It is the node that counts, and it counts SYNs: the client's kernel answers
// each SYN/ACK to a source of its own, as hping3's is, with a reset, and those
// come in on the same interface.
func BenchmarkFloodBesideHping3(b *testing.B) {
	needTools(b, "hping3")
	rate := map[string][]float64{}
	for round := range b.N * floodRounds {
		line := ""
		for i := range benchFlooders {
			name := benchFlooders[(round+i)%len(benchFlooders)]
			var r floodResult
			measureAs(b, &r, "flood", name)
			if r.SYNs == 0 {
				b.Fatalf("%s: nothing arrived", name)
			}
			rate[name] = append(rate[name], r.SYNs/r.Took)
			line += fmt.Sprintf("  %s %.0f SYN/s (%.0f frames/s, %d entries)", name, r.SYNs/r.Took, r.Frames/r.Took, r.Entries)
		}
		b.Logf("round %d:%s", round, line)
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(median(rate["flood"]), "SYN/s")
	for _, name := range benchFlooders[1:] {
		b.ReportMetric(median(ratios(rate["flood"], rate[name])), "x-"+name)
	}
}

// playFlood builds the network around itself, floods it, and counts at the
// node from when the flood is under way.
func playFlood(name string) (err error) {
	network, err := newBenchNet("tcp")
	if err != nil {
		return err
	}
	r, err := floodFor(network, name)
	if err := errors.Join(err, network.flush(), network.close()); err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(r)
}

func floodFor(network *benchNet, name string) (r floodResult, err error) {
	stop, err := startFlooding(name)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, stop()) }()
	first, err := network.count()
	for deadline := time.Now().Add(5 * time.Second); err == nil && first.SYNs == 0; first, err = network.count() {
		if time.Now().After(deadline) {
			return r, fmt.Errorf("%s: no SYN has arrived after 5 s", name)
		}
		time.Sleep(10 * time.Millisecond)
	}
	if err != nil {
		return r, err
	}
	time.Sleep(floodWindow)
	last, err := network.count()
	return floodResult{
		SYNs: float64(last.SYNs - first.SYNs), Frames: float64(last.Frames - first.Frames),
		Took: last.At - first.At, Entries: last.Entries,
	}, err
}

// startFlooding starts our flood or hping3; stop ends it and waits for it.
func startFlooding(name string) (stop func() error, err error) {
	if name == "flood" {
		return startOurFlood()
	}
	args := []string{"--flood", "-q", "-n", "-S", "-p", strconv.Itoa(int(benchService.Port()))}
	if name == "hping3-rand-source" {
		args = append(args, "--rand-source")
	}
	cmd := exec.Command("hping3", append(args, benchService.Addr().String())...)
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return func() error {
		err := cmd.Process.Kill()
		if errors.Is(err, os.ErrProcessDone) {
			err = errors.New("hping3 has ended by itself")
		}
		_ = cmd.Wait() // killed
		return err
	}, nil
}

func startOurFlood() (stop func() error, err error) {
	j := floodLoad(benchService, scenarios.Flood{Pacing: scenarios.Pacing{Rate: floodTop}})
	j.Load.End = 60 // s, which it does not reach
	w, err := NewFlood(j)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx, func() {}, discard{}) }()
	return func() error {
		cancel()
		return <-ended
	}, nil
}
