package conntrack

import (
	"hash/maphash"

	"github.com/tablefull/tablefull/report/runlog"
)

// maxFollowed bounds how many entries a turnover follows: about 2 MiB for two
// walks.
const maxFollowed = 1 << 16

// turnover tells, of two walks, which entries only one of them met. It keeps a
// hash of each entry, in a table with more of them than maxFollowed only of
// those whose hash ends with skip zeros: the same ones in each walk, so that
// what it counts, times 2^skip, estimates the whole without a bias.
type turnover struct {
	seed    maphash.Seed
	was, is followed
	wasAt   float64 // s
	seen    bool    // there is a walk before
}

// followed are hashes that end with skip zeros.
type followed struct {
	hashes map[uint64]struct{}
	skip   uint
}

// identity is what makes an entry that one. The kernel's id alone has 32 bits,
// of which two of a million are alike; a tuple alone comes back.
type identity struct {
	src, dst         address
	srcPort, dstPort uint16
	proto            uint8
	id               uint32
}

func newTurnover() *turnover {
	t := &turnover{seed: maphash.MakeSeed()}
	t.was.hashes, t.is.hashes = map[uint64]struct{}{}, map[uint64]struct{}{}
	return t
}

// begin forgets what the present walk has met.
func (t *turnover) begin() {
	clear(t.is.hashes)
	t.is.skip = t.was.skip
	if len(t.was.hashes) < maxFollowed/4 && t.is.skip > 0 {
		t.is.skip--
	}
}

func (t *turnover) add(e *entry) {
	t.is.add(maphash.Comparable(t.seed, identity{e.src, e.dst, e.srcPort, e.dstPort, e.proto, e.id}))
}

func (f *followed) add(h uint64) {
	if h&(1<<f.skip-1) != 0 {
		return
	}
	f.hashes[h] = struct{}{}
	for len(f.hashes) > maxFollowed {
		f.skip++
		for h := range f.hashes {
			if h&(1<<f.skip-1) != 0 {
				delete(f.hashes, h)
			}
		}
	}
}

// without counts those of f, followed as rarely as skip says, that g lacks.
func (f *followed) without(g *followed, skip uint) (n uint64) {
	for h := range f.hashes {
		if h&(1<<skip-1) != 0 {
			continue
		}
		if _, both := g.hashes[h]; !both {
			n++
		}
	}
	return n << skip
}

// end compares the walk whose middle was at a moment (s) with the one before.
// It is nil for the first.
func (t *turnover) end(at float64) *runlog.Turnover {
	var r *runlog.Turnover
	if t.seen {
		skip := max(t.was.skip, t.is.skip)
		r = &runlog.Turnover{Over: at - t.wasAt, Came: t.is.without(&t.was, skip), Went: t.was.without(&t.is, skip), OneIn: 1 << skip}
	}
	t.was, t.is = t.is, t.was
	t.wasAt, t.seen = at, true
	return r
}
