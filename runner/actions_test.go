package runner

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/tablefull/tablefull/report/runlog"
	"github.com/tablefull/tablefull/runner/env"
	"github.com/tablefull/tablefull/scenarios"
)

// actingLab does actions as act says, and notes when they began and ended.
type actingLab struct {
	env.Lab
	zero time.Time
	act  func(ctx context.Context, n int) error

	mu  sync.Mutex
	n   int
	log []string
}

func (l *actingLab) note(what string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.log = append(l.log, fmt.Sprintf("%v %s", time.Since(l.zero), what))
}

func (l *actingLab) Act(ctx context.Context, a scenarios.Action) error {
	l.mu.Lock()
	l.n++
	n := l.n
	l.mu.Unlock()
	l.note(a.Name)
	if l.act == nil {
		return nil
	}
	return l.act(ctx, n)
}

// Record notes the events as well: they are what the analysis sees.
func (l *actingLab) Record(r runlog.Record) {
	e := r.Event
	if e.Fields["phase"] != "begin" {
		l.note(e.Name + " " + e.Fields["number"] + " " + e.Fields["phase"] + ": " + e.Detail)
	}
}

func lasting(d time.Duration) func(context.Context, int) error {
	return func(ctx context.Context, _ int) error {
		select {
		case <-time.After(d):
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func TestActions(t *testing.T) {
	const s = scenarios.Duration(time.Second)
	flush := &scenarios.Flush{}
	for name, c := range map[string]struct {
		actions []scenarios.Action
		act     func(context.Context, int) error
		stop    time.Duration // when the run ends
		want    []string
		err     string
	}{
		"each at its time": {
			actions: []scenarios.Action{{Name: "late", At: 7 * s, Flush: flush}, {Name: "early", At: 2 * s, Flush: flush}},
			stop:    10 * time.Second,
			want:    []string{"2s early", "2s early 1 end: ", "7s late", "7s late 1 end: "},
		},
		"again and again, to the end": {
			actions: []scenarios.Action{{Name: "a", At: s, Every: 3 * s, Flush: flush}},
			stop:    10 * time.Second,
			// 10 s is the end: nothing begins then.
			want: []string{"1s a", "1s a 1 end: ", "4s a", "4s a 2 end: ", "7s a", "7s a 3 end: "},
		},
		"so often in all": {
			actions: []scenarios.Action{{Name: "a", Every: s, Count: 2, Flush: flush}},
			stop:    10 * time.Second,
			want:    []string{"0s a", "0s a 1 end: ", "1s a", "1s a 2 end: "},
		},
		"one that takes longer than every": {
			actions: []scenarios.Action{{Name: "a", Every: s, Count: 3, Flush: flush}},
			act:     lasting(2500 * time.Millisecond),
			stop:    10 * time.Second,
			want:    []string{"0s a", "2.5s a 1 end: ", "2.5s a", "5s a 2 end: ", "5s a", "7.5s a 3 end: "},
		},
		"one that hangs": {
			actions: []scenarios.Action{{Name: "a", Every: s, Timeout: 4 * s, Flush: flush}},
			act:     lasting(time.Hour),
			stop:    10 * time.Second,
			want:    []string{"0s a", "4s a 1 fail: it took longer than its timeout of 4s"},
			err:     "do action a: it took longer than its timeout of 4s",
		},
		"one that fails, and another that goes on": {
			actions: []scenarios.Action{{Name: "a", Every: s, Flush: flush}, {Name: "b", At: 5 * s, Flush: flush}},
			act: func(_ context.Context, n int) error {
				if n == 2 {
					return errors.New("no such pod")
				}
				return nil
			},
			stop: 10 * time.Second,
			want: []string{"0s a", "0s a 1 end: ", "1s a", "1s a 2 fail: no such pod", "5s b", "5s b 1 end: "},
			err:  "do action a: no such pod",
		},
		"one that says what was missing when the run ended": {
			actions: []scenarios.Action{{Name: "a", At: 8 * s, Flush: flush}},
			act: func(ctx context.Context, _ int) error {
				<-ctx.Done()
				return errors.New("the limit is another one")
			},
			stop: 8500 * time.Millisecond,
			want: []string{"8s a", "8.5s a 1 fail: the limit is another one"},
			err:  "do action a: the limit is another one",
		},
		"cut by the end of the run": {
			actions: []scenarios.Action{{Name: "a", At: 8 * s, Flush: flush}, {Name: "never", At: 9 * s, Flush: flush}},
			act:     lasting(time.Hour),
			stop:    8500 * time.Millisecond,
			want:    []string{"8s a", "8.5s a 1 fail: the run ended before it had"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				lab := &actingLab{zero: time.Now(), act: c.act}
				for i := range c.actions {
					if c.actions[i].Timeout == 0 {
						c.actions[i].Timeout = 300 * s
					}
				}
				a := &actions{now: func() int64 { return time.Now().UnixNano() }}
				a.start(t.Context(), lab, &scenarios.Scenario{Duration: 10 * s, Actions: c.actions}, time.Now().UnixNano(), lab)
				time.Sleep(c.stop)
				err := a.stop()
				if c.err == "" {
					assert.NoError(t, err)
				} else {
					assert.EqualError(t, err, c.err)
				}
				assert.Equal(t, c.want, lab.log)
			})
		})
	}
}
