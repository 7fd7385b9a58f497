package runlog

import (
	"fmt"

	"github.com/goccy/go-json"
)

// A decoder reads lines, one after the other, of Sample.Net only the counters
// that are wanted where that is not nil. It is what most of the time of reading
// a log is spent on: the library is several times as fast as encoding/json,
// and maps of counts, which are most of a log's bytes, are read by
// themselves. The zero decoder is ready to use.
type decoder struct {
	wanted map[string]bool
	line   wire
	names  map[string]string // of counts: each is kept once
}

// maxNames bounds decoder.names; the kernel has some 60.
const maxNames = 1000

func (d *decoder) decode(line []byte, rec *Record) error {
	d.line = wire{}
	if err := json.Unmarshal(line, &d.line); err != nil {
		return err //nolint:wrapcheck // the caller says which line
	}
	*rec = d.line.Record
	var err error
	if b := d.line.Bin; b != nil {
		rec.Bin = &b.Bin
		rec.Bin.Outcomes, err = counts[Outcome](d, b.Outcomes, nil)
	}
	if s := d.line.Sample; s != nil && err == nil {
		rec.Sample = &s.Sample
		if rec.Sample.Net, err = counts[string](d, s.Net, d.wanted); err != nil {
			return err
		}
		if c := s.Conntrack; c != nil {
			rec.Sample.Conntrack = &c.Conntrack
			rec.Sample.Conntrack.Counters, err = counts[string](d, c.Counters, nil)
		}
	}
	return err
}

// wire is a Record whose counts have not been read yet.
type wire struct {
	Record
	Bin    *wireBin    `json:"bin"`
	Sample *wireSample `json:"sample"`
}

type wireBin struct {
	Bin
	Outcomes json.RawMessage `json:"outcomes"`
}

type wireSample struct {
	Sample
	Conntrack *wireConntrack  `json:"conntrack"`
	Net       json.RawMessage `json:"net"`
}

type wireConntrack struct {
	Conntrack
	Counters json.RawMessage `json:"counters"`
}

// counts reads an object of counts, those that are wanted or all. What is not
// written as Writer writes it is left to the library.
func counts[K ~string](d *decoder, text []byte, wanted map[string]bool) (map[K]uint64, error) {
	if len(text) == 0 {
		return nil, nil //nolint:nilnil // there are none
	}
	out := map[K]uint64{}
	if plain(d, text, wanted, out) {
		return out, nil
	}
	out = nil
	if err := json.Unmarshal(text, &out); err != nil {
		return nil, fmt.Errorf("read counts: %w", err)
	}
	for name := range out {
		if wanted != nil && !wanted[string(name)] {
			delete(out, name)
		}
	}
	return out, nil
}

// plain reads {"name":1,"name":2}, without spaces, escapes or signs, and says
// whether that is all there was.
func plain[K ~string](d *decoder, text []byte, wanted map[string]bool, out map[K]uint64) bool {
	if string(text) == "{}" {
		return true
	}
	for i := 0; i+1 < len(text); {
		switch {
		case i == 0 && text[0] != '{', i > 0 && text[i] != ',', text[i+1] != '"':
			return false
		}
		from := i + 2
		for i = from; i < len(text) && text[i] != '"'; i++ {
			if text[i] < ' ' || text[i] == '\\' || text[i] >= 0x80 {
				return false
			}
		}
		name := text[from:min(i, len(text))]
		i += 2
		first := i
		var n uint64
		for ; i < len(text) && text[i] >= '0' && text[i] <= '9'; i++ {
			n = n*10 + uint64(text[i]-'0')
		}
		// 19 digits fit into 64 bits.
		if digits := i - first; digits < 1 || digits > 19 || text[first-1] != ':' || text[first] == '0' && digits > 1 {
			return false
		}
		if wanted == nil || wanted[string(name)] {
			out[K(d.name(name))] = n
		}
		if i == len(text)-1 {
			return text[i] == '}'
		}
	}
	return false
}

func (d *decoder) name(text []byte) string {
	if s, ok := d.names[string(text)]; ok {
		return s
	}
	s := string(text)
	if d.names == nil {
		d.names = map[string]string{}
	}
	if len(d.names) < maxNames {
		d.names[s] = s
	}
	return s
}
