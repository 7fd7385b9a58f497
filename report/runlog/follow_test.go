package runlog

import (
	"bytes"
	"context"
	"errors"
	"io"
	"sync"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

// growing is a file that is being written: it ends, and goes on later.
type growing struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (g *growing) Read(p []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.b.Read(p)
}

func (g *growing) write(p []byte) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.b.Write(p)
}

func lines(t testing.TB, recs []Record) []byte {
	t.Helper()
	var b bytes.Buffer
	w := NewWriter(&b)
	for _, r := range recs {
		require.NoError(t, w.Write(r))
	}
	require.NoError(t, w.Flush())
	return b.Bytes()
}

func TestEachIsNext(t *testing.T) {
	defer goleak.VerifyNone(t)
	var recs []Record
	for i := range 20000 {
		r := everyKind()[i%13]
		r.N = uint64(i + 1)
		recs = append(recs, r)
	}
	log := lines(t, recs)
	damaged := bytes.Replace(log, []byte(`"n":777,`), []byte(`"n":777;`), 1)
	for name, in := range map[string][]byte{"whole": log, "cut": log[:len(log)-20], "empty": nil, "damaged": damaged, "no end": log[:len(log)-1]} {
		a, b := NewReader(bytes.NewReader(in)), NewReader(bytes.NewReader(in))
		want := all(t, a)
		var got []Record
		require.NoError(t, b.Each(func(r *Record) { got = append(got, *r) }), name)
		require.Len(t, got, len(want), name)
		for i := range want {
			if x := got[i].Latency; x != nil {
				got[i].Latency = want[i].Latency // it has been decoded in advance
			}
			require.Equal(t, want[i], got[i], name)
		}
		assert.Equal(t, a.Problems(), b.Problems(), name)
		assert.Equal(t, a.Truncated(), b.Truncated(), name)
		assert.Equal(t, int64(len(in)), b.Offset(), name)
	}
	r := NewReader(io.MultiReader(bytes.NewReader(log), iotest.ErrReader(errors.New("bad disk"))))
	n := 0
	assert.ErrorContains(t, r.Each(func(*Record) { n++ }), "bad disk")
	assert.Equal(t, len(recs), n, "what came before the error was read")
}

func TestOnlyNet(t *testing.T) {
	net := map[string]uint64{"a": 1, "b": 18446744073709551615, "c \"d\"": 3}
	log := lines(t, []Record{{N: 1, Host: "h", Sample: &Sample{Net: net, Conntrack: &Conntrack{Counters: net}}}})
	r := NewReader(bytes.NewReader(log))
	assert.Equal(t, net, all(t, r)[0].Sample.Net)
	r = NewReader(bytes.NewReader(log))
	r.OnlyNet("b", "z")
	s := all(t, r)[0].Sample
	assert.Equal(t, map[string]uint64{"b": 18446744073709551615}, s.Net)
	assert.Equal(t, net, s.Conntrack.Counters, "these are all wanted")
}

// What the counters' own reader takes, the library takes for the same.
func TestPlainCounters(t *testing.T) {
	for _, text := range []string{`{}`, `{"a":1}`, `{"a":0,"b.c":12345678901}`} {
		out := map[string]uint64{}
		assert.True(t, plain(new(decoder), []byte(text), nil, out), text)
	}
	for _, text := range []string{
		``, `{`, `{"`, `{"a`, `{"a"`, `{"a":`, `{"a":1`, `{"a":1,`, `{"a":1,}`, `{"a":}`, `{"a":-1}`, `{"a":01}`, `{"a":1.5}`, `{"a" :1}`,
		`{"a":1 }`, `{"a":1}}`, `{"a":1}x`, `{"a\"":1}`, `{"ä":1}`, `{"a":99999999999999999999}`, `["a":1]`, `{"a":1,"b"}`, `{"a":"1"}`, `null`, `{,"a":1}`,
	} {
		assert.False(t, plain(new(decoder), []byte(text), nil, map[string]uint64{}), text)
	}
}

func TestFollow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		recs := everyKind()
		log := lines(t, recs)
		var file growing
		r := NewReader(&file)
		type state struct {
			records int
			offset  int64
		}
		caughtUp, done := make(chan state, 10), make(chan error)
		go func() {
			n := 0
			done <- r.Follow(t.Context(), func(*Record) { n++ }, func() error {
				caughtUp <- state{n, r.Offset()}
				return nil
			})
		}()
		assert.Equal(t, state{}, <-caughtUp, "at once, though there is nothing")
		end := bytes.IndexByte(log, '\n') + 1
		file.write(log[:end+10])
		assert.Equal(t, state{1, int64(end)}, <-caughtUp, "the half line is waited for")
		time.Sleep(time.Second)
		assert.Empty(t, caughtUp, "only when there is something new")
		file.write(log[end+10 : len(log)-5])
		assert.Equal(t, len(recs)-1, (<-caughtUp).records)
		file.write(log[len(log)-5:])
		assert.Equal(t, state{len(recs), int64(len(log))}, <-caughtUp)
		require.NoError(t, <-done, "the trailer ends it")
		assert.Empty(t, r.Problems())
		assert.False(t, r.Truncated())
	})
}

func TestFollowEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		polls := 0
		in := pollCounter{&polls}
		err := NewReader(in).Follow(ctx, func(*Record) {}, func() error { return nil })
		assert.ErrorIs(t, err, context.DeadlineExceeded)
		assert.LessOrEqual(t, polls, 50+1, "5 times a second at most")
		stop := errors.New("enough")
		assert.ErrorIs(t, NewReader(in).Follow(t.Context(), func(*Record) {}, func() error { return stop }), stop)
		assert.ErrorContains(t, NewReader(iotest.ErrReader(errors.New("bad disk"))).Follow(t.Context(), func(*Record) {}, func() error { return nil }), "bad disk")
	})
}

type pollCounter struct{ n *int }

func (p pollCounter) Read([]byte) (int, error) {
	*p.n++
	return 0, io.EOF
}
