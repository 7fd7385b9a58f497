package conntrack

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
)

// tableStats follows /proc/net/stat/nf_conntrack: a header line, then one row
// of hexadecimal numbers per possible CPU. Columns are taken by name, because
// the kernel has renamed some (searched is clashres since 5.10 or so,
// delete_list is chainlength since 5.15) and added others.
//
// The kernel keeps each counter as an unsigned 32-bit number per CPU, which
// wraps. tableStats adds up differences per CPU, so its sums do not.
type tableStats struct {
	header  []byte
	columns []string
	entries int        // index of the column entries
	rows    [][]uint32 // last reading, per CPU
	sums    []uint64   // per column; unused for entries
	told    []uint64   // the sums as counters returned them last
	seen    bool
}

// update takes one whole reading of the file and returns the number of
// entries in the table. On an error the sums are as they were.
func (s *tableStats) update(text []byte) (uint64, error) {
	head, rest, _ := bytes.Cut(text, []byte{'\n'})
	if !bytes.Equal(head, s.header) {
		if err := s.setHeader(head); err != nil {
			return 0, err
		}
	}
	var fresh [][]uint32
	var entries uint64
	for n := 0; len(rest) > 0; n++ {
		var line []byte
		line, rest, _ = bytes.Cut(rest, []byte{'\n'})
		if len(bytes.TrimSpace(line)) == 0 {
			continue
		}
		row, err := s.parseRow(line)
		if err != nil {
			return 0, fmt.Errorf("parse row %d of the table's counters: %w", n+1, err)
		}
		// The same total stands on every row.
		entries = uint64(row[s.entries])
		fresh = append(fresh, row)
	}
	if len(fresh) == 0 {
		return 0, fmt.Errorf("parse the table's counters: no row below the header")
	}
	if s.seen && len(fresh) != len(s.rows) {
		return 0, fmt.Errorf("parse the table's counters: %d rows after %d", len(fresh), len(s.rows))
	}
	for cpu, row := range fresh {
		for c, v := range row {
			if s.seen {
				v -= s.rows[cpu][c] // modulo 2^32: right across a wrap
			}
			s.sums[c] += uint64(v)
		}
	}
	s.rows, s.seen = fresh, true
	return entries, nil
}

func (s *tableStats) setHeader(head []byte) error {
	if s.seen {
		return fmt.Errorf("parse the table's counters: the header changed from %q to %q", s.header, head)
	}
	columns := strings.Fields(string(head))
	entries := -1
	for i, name := range columns {
		if name == "entries" {
			entries = i
		}
	}
	if entries < 0 {
		return fmt.Errorf("parse the table's counters: no column entries in header %q", head)
	}
	s.header = bytes.Clone(head)
	s.columns, s.entries = columns, entries
	s.sums = make([]uint64, len(columns))
	return nil
}

func (s *tableStats) parseRow(line []byte) ([]uint32, error) {
	row := make([]uint32, 0, len(s.columns))
	for field := range bytes.FieldsSeq(line) {
		v, err := strconv.ParseUint(string(field), 16, 32)
		if err != nil {
			return nil, err
		}
		row = append(row, uint32(v))
	}
	if len(row) != len(s.columns) {
		return nil, fmt.Errorf("%d numbers below %d names", len(row), len(s.columns))
	}
	return row, nil
}

// counters returns the sums by the kernel's names: all, or those that are not
// what it returned last.
func (s *tableStats) counters(all bool) map[string]uint64 {
	m := map[string]uint64{}
	for i, name := range s.columns {
		if i != s.entries && (all || i >= len(s.told) || s.told[i] != s.sums[i]) {
			m[name] = s.sums[i]
		}
	}
	s.told = append(s.told[:0], s.sums...)
	return m
}

// wanted are the counters of /proc/net/netstat, snmp and snmp6 that help to
// tell a full table from other reasons why connections fail. The files have
// some 400, and a sample is taken ten times a second.
var wanted = map[string]map[string]bool{
	"TcpExt": names("ListenOverflows ListenDrops TCPSynRetrans TCPTimeouts TCPAbortOnData TCPAbortOnClose" +
		" TCPAbortOnTimeout TCPReqQFullDrop TCPReqQFullDoCookies TCPTimeWaitOverflow TCPBacklogDrop PAWSActive PAWSEstab"),
	"Tcp": names("ActiveOpens PassiveOpens AttemptFails EstabResets CurrEstab RetransSegs OutRsts InErrs"),
	"Udp": names("InDatagrams NoPorts InErrors OutDatagrams RcvbufErrors SndbufErrors"),
	"Ip":  names("OutNoRoutes InDiscards OutDiscards ForwDatagrams"),
	// snmp6 has one name and value per line, without a group of its own.
	"snmp6": names("Ip6OutNoRoutes Ip6InDiscards Ip6OutDiscards Ip6OutForwDatagrams" +
		" Udp6InDatagrams Udp6NoPorts Udp6InErrors Udp6OutDatagrams Udp6RcvbufErrors Udp6SndbufErrors"),
}

func names(s string) map[string]bool {
	m := make(map[string]bool)
	for n := range strings.FieldsSeq(s) {
		m[n] = true
	}
	return m
}

// parseNet adds the wanted counters of a file in the format of
// /proc/net/netstat and /proc/net/snmp to m, as Group.Name. The format is
// pairs of lines, names above values, both beginning with the group.
func parseNet(text []byte, m map[string]uint64) error {
	for len(text) > 0 {
		var heads, values []byte
		heads, text, _ = bytes.Cut(text, []byte{'\n'})
		values, text, _ = bytes.Cut(text, []byte{'\n'})
		group, heads, ok := bytes.Cut(heads, []byte{':'})
		if !ok {
			return fmt.Errorf("parse network counters: %.40q has no group", heads)
		}
		want := wanted[string(group)]
		if want == nil {
			continue
		}
		g, values, ok := bytes.Cut(values, []byte{':'})
		if !ok || !bytes.Equal(g, group) {
			return fmt.Errorf("parse network counters: no values below the names of %s", group)
		}
		nf, vf := bytes.Fields(heads), bytes.Fields(values)
		if len(nf) != len(vf) {
			return fmt.Errorf("parse network counters: %s has %d names and %d values", group, len(nf), len(vf))
		}
		for i, n := range nf {
			if !want[string(n)] {
				continue
			}
			v, err := strconv.ParseUint(string(vf[i]), 10, 64)
			if err != nil {
				return fmt.Errorf("parse network counter %s.%s: %w", group, n, err)
			}
			m[string(group)+"."+string(n)] = v
		}
	}
	return nil
}

// parseNet6 adds the wanted counters of /proc/net/snmp6 to m, by the kernel's
// names: lines of a name and a value.
func parseNet6(text []byte, m map[string]uint64) error {
	want := wanted["snmp6"]
	for line := range bytes.Lines(text) {
		f := bytes.Fields(line)
		if len(f) != 2 || !want[string(f[0])] {
			continue
		}
		v, err := strconv.ParseUint(string(f[1]), 10, 64)
		if err != nil {
			return fmt.Errorf("parse network counter %s: %w", f[0], err)
		}
		m[string(f[0])] = v
	}
	return nil
}

// clockTicks is USER_HZ, the unit of /proc/stat: 1/100 s on every architecture
// Go runs Linux on.
const clockTicks = 100

// machineCPU is the first line of /proc/stat, in seconds since boot over all
// CPUs. nice counts as user, irq as system, iowait as idle, so that the five
// add up to all the time there was; guest time is a part of user already.
type machineCPU struct{ user, system, softirq, idle, steal float64 }

func parseStat(text []byte) (machineCPU, error) {
	line, _, _ := bytes.Cut(text, []byte{'\n'})
	f := bytes.Fields(line)
	// cpu user nice system idle iowait irq softirq steal (guest guest_nice)
	if len(f) < 9 || string(f[0]) != "cpu" {
		return machineCPU{}, fmt.Errorf("parse CPU times: %.60q", line)
	}
	var t [8]float64
	for i := range t {
		v, err := strconv.ParseUint(string(f[i+1]), 10, 64)
		if err != nil {
			return machineCPU{}, fmt.Errorf("parse CPU times: %w", err)
		}
		t[i] = float64(v) / clockTicks
	}
	return machineCPU{user: t[0] + t[1], system: t[2] + t[5], softirq: t[6], idle: t[3] + t[4], steal: t[7]}, nil
}

// slab is what /proc/slabinfo says about connection tracking entries.
type slab struct {
	objectBytes uint64 // of one entry
	bytes       uint64 // of all slabs, free objects in them included
}

// parseSlab finds the cache nf_conntrack in slabinfo (version 2.1). Kernels
// before 4.8 had one cache per network namespace, named nf_conntrack_ and a
// number or an address; those are added up. ok is false where there is none.
func parseSlab(text []byte, page uint64) (s slab, ok bool, err error) {
	for line := range bytes.Lines(text) {
		if !bytes.HasPrefix(line, []byte("nf_conntrack")) {
			continue
		}
		f := bytes.Fields(line)
		if !isEntryCache(string(f[0])) {
			continue
		}
		// name active_objs num_objs objsize objperslab pagesperslab
		// : tunables limit batchcount sharedfactor : slabdata active_slabs num_slabs sharedavail
		if len(f) < 16 {
			return slab{}, false, fmt.Errorf("parse slab info: %d fields in %.60q", len(f), line)
		}
		size, err1 := strconv.ParseUint(string(f[3]), 10, 64)
		pages, err2 := strconv.ParseUint(string(f[5]), 10, 64)
		slabs, err3 := strconv.ParseUint(string(f[14]), 10, 64)
		if err1 != nil || err2 != nil || err3 != nil {
			return slab{}, false, fmt.Errorf("parse slab info: %.60q", line)
		}
		s.objectBytes = max(s.objectBytes, size)
		s.bytes += slabs * pages * page
		ok = true
	}
	return s, ok, nil
}

func isEntryCache(name string) bool {
	suffix, found := strings.CutPrefix(name, "nf_conntrack")
	if suffix == "" {
		return found
	}
	suffix, found = strings.CutPrefix(suffix, "_")
	_, err := strconv.ParseUint(suffix, 16, 64)
	return found && err == nil
}
