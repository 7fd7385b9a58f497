package conntrack

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func fixture(t testing.TB, name string) []byte {
	t.Helper()
	text, err := os.ReadFile("testdata/" + name)
	require.NoError(t, err)
	return text
}

func TestTableStatsOfSeveralKernels(t *testing.T) {
	for _, tt := range []struct {
		file    string
		entries uint64
		want    map[string]uint64
		absent  []string
	}{
		{"nf_conntrack_4.19", 0xa1b2, map[string]uint64{
			"searched": 0, "found": 0x33, "invalid": 0x105, "ignore": 0xff0, "delete_list": 0, "insert_failed": 7,
			"drop": 7, "early_drop": 7, "icmp_error": 1, "search_restart": 15,
		}, []string{"clashres", "chainlength", "entries"}},
		{"nf_conntrack_6.18", 0x3f480, map[string]uint64{
			"clashres": 10, "found": 0x33, "invalid": 5, "chainlength": 21, "insert": 0x3f480, "insert_failed": 7,
			"drop": 0xa26, "early_drop": 7, "icmp_error": 1, "search_restart": 15,
		}, []string{"searched", "delete_list", "entries"}},
	} {
		t.Run(tt.file, func(t *testing.T) {
			var s tableStats
			entries, err := s.update(fixture(t, tt.file))
			require.NoError(t, err)
			assert.Equal(t, tt.entries, entries)
			got := s.counters(true)
			for name, n := range tt.want {
				assert.Equal(t, n, got[name], name)
			}
			for _, name := range tt.absent {
				assert.NotContains(t, got, name)
			}
		})
	}
}

// A column is what its header says, wherever it stands.
func TestTableStatsGoByName(t *testing.T) {
	var s tableStats
	entries, err := s.update([]byte("drop something_new entries\n00000001 0000000f 00000064\n00000002 0000000f 00000064\n"))
	require.NoError(t, err)
	assert.Equal(t, uint64(100), entries)
	assert.Equal(t, map[string]uint64{"drop": 3, "something_new": 30}, s.counters(true))
}

func TestTableStatsDoNotWrap(t *testing.T) {
	var s tableStats
	row := func(a, b uint32) []byte {
		return fmt.Appendf(nil, "entries drop\n00000001 %08x\n00000001 %08x\n", a, b)
	}
	for _, step := range []struct {
		a, b uint32
		want uint64
	}{
		{0xfffffff0, 5, 0xfffffff5},
		{0xffffffff, 5, 0x100000004},
		{3, 5, 0x100000008}, // the first CPU wrapped: four more
		{3, 0, 0x200000003}, // the second nearly all the way round
	} {
		_, err := s.update(row(step.a, step.b))
		require.NoError(t, err)
		assert.Equal(t, step.want, s.counters(true)["drop"])
	}
}

func TestTableStatsRefuseWhatTheyCannotRead(t *testing.T) {
	good := "entries drop\n00000001 00000002\n"
	for name, text := range map[string]string{
		"empty":             "",
		"header only":       "entries drop\n",
		"no entries":        "found drop\n00000001 00000002\n",
		"too few numbers":   "entries drop\n00000001\n",
		"too many numbers":  "entries drop\n00000001 00000002 00000003\n",
		"not hexadecimal":   "entries drop\n00000001 0000000g\n",
		"too large":         "entries drop\n00000001 100000000\n",
		"other header":      "entries early_drop\n00000001 00000002\n",
		"more rows at once": good + "00000001 00000002\n",
	} {
		t.Run(name, func(t *testing.T) {
			var s tableStats
			_, err := s.update([]byte(good))
			require.NoError(t, err)
			_, err = s.update([]byte(text))
			require.Error(t, err)
			assert.Equal(t, map[string]uint64{"drop": 2}, s.counters(true), "an error leaves the sums alone")
		})
	}
}

func TestParseNet(t *testing.T) {
	m := make(map[string]uint64)
	require.NoError(t, parseNet(fixture(t, "netstat_6.18"), m))
	require.NoError(t, parseNet(fixture(t, "snmp_6.18"), m))
	require.NoError(t, parseNet6(fixture(t, "snmp6_6.18"), m))
	for name, n := range map[string]uint64{
		"TcpExt.ListenOverflows": 41, "TcpExt.ListenDrops": 42, "TcpExt.TCPSynRetrans": 1<<64 - 1,
		"Tcp.ActiveOpens": 64, "Udp.NoPorts": 7, "Ip.ForwDatagrams": 99, "Udp6NoPorts": 5,
	} {
		assert.Equal(t, n, m[name], name)
	}
	total := 0
	for _, group := range wanted {
		total += len(group)
	}
	assert.Len(t, m, total, "this kernel has every counter that is wanted, and nothing else may be in a sample")
}

func TestParseNetRefusesMismatches(t *testing.T) {
	for name, text := range map[string]string{
		"no group":        "hello\nworld\n",
		"values missing":  "Tcp: ActiveOpens\n",
		"other group":     "Tcp: ActiveOpens\nUdp: 1\n",
		"fewer values":    "Tcp: ActiveOpens PassiveOpens\nTcp: 1\n",
		"not a number":    "Tcp: ActiveOpens\nTcp: x\n",
		"a negative one":  "Tcp: ActiveOpens\nTcp: -1\n",
		"nothing wanted ": "Tcp: ActiveOpens\n\n",
	} {
		t.Run(name, func(t *testing.T) { assert.Error(t, parseNet([]byte(text), map[string]uint64{})) })
	}
}

func TestParseStat(t *testing.T) {
	got, err := parseStat(fixture(t, "stat_6.18"))
	require.NoError(t, err)
	assert.InDelta(t, 21.66, got.user, 1e-9)
	assert.InDelta(t, 17.02, got.system, 1e-9)
	assert.InDelta(t, 4641.91, got.idle, 1e-9)
	assert.InDelta(t, 0.27, got.softirq, 1e-9)
	assert.InDelta(t, 0.12, got.steal, 1e-9)
	for _, bad := range []string{"", "cpu0 1 2 3 4 5 6 7 8\n", "cpu 1 2 3\n", "cpu 1 2 3 4 5 6 7 x\n"} {
		_, err := parseStat([]byte(bad))
		assert.Error(t, err, "%q", bad)
	}
}

func TestParseSlab(t *testing.T) {
	s, ok, err := parseSlab(fixture(t, "slabinfo_6.18"), 4096)
	require.NoError(t, err)
	assert.True(t, ok)
	assert.Equal(t, slab{objectBytes: 256, bytes: 16197 * 4096}, s)

	s, ok, err = parseSlab(fixture(t, "slabinfo_3.10"), 4096)
	require.NoError(t, err)
	assert.True(t, ok)
	assert.Equal(t, slab{objectBytes: 312, bytes: 8 * 4 * 4096}, s)

	_, ok, err = parseSlab([]byte("nf_conntrack_expect 0 0 208 19 1 : tunables 0 0 0 : slabdata 0 0 0\n"), 4096)
	require.NoError(t, err)
	assert.False(t, ok, "expectations are not entries")

	_, _, err = parseSlab([]byte("nf_conntrack 1 2 256\n"), 4096)
	assert.Error(t, err)
}

// Whatever the kernel of tomorrow prints, reading it may fail but not panic,
// and sums never go down.
func FuzzTableStats(f *testing.F) {
	first := fixture(f, "nf_conntrack_6.18")
	f.Add(first)
	f.Add(fixture(f, "nf_conntrack_4.19"))
	f.Add([]byte(strings.Replace(string(first), "00000a21", "ffffffff", 1)))
	f.Fuzz(func(t *testing.T, text []byte) {
		var s tableStats
		_, err := s.update(first)
		require.NoError(t, err)
		before := s.counters(true)
		if _, err := s.update(text); err != nil {
			return
		}
		for name, n := range s.counters(true) {
			assert.GreaterOrEqual(t, n, before[name], name)
		}
	})
}

func FuzzProcFiles(f *testing.F) {
	for _, name := range []string{"netstat_6.18", "snmp_6.18", "snmp6_6.18", "stat_6.18", "slabinfo_6.18", "slabinfo_3.10"} {
		f.Add(fixture(f, name))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		kept := bytes.Clone(text)
		m := make(map[string]uint64)
		_ = parseNet(text, m)
		_ = parseNet6(text, m)
		_, _ = parseStat(text)
		_, _, _ = parseSlab(text, 4096)
		assert.Equal(t, kept, text, "the text is only read")
	})
}
