package runlog

import (
	"fmt"

	"github.com/goccy/go-json"
)

// decode reads one line, of Sample.Net only the counters that are wanted where
// that is not nil. It is what most of the time of reading a log is spent on:
// the library is several times as fast as encoding/json, and maps of counters,
// which are most of a log's bytes, are read by themselves.
func decode(line []byte, rec *Record, wanted map[string]bool) error {
	w := wire{}
	if err := json.Unmarshal(line, &w); err != nil {
		return err //nolint:wrapcheck // the caller says which line
	}
	*rec = w.Record
	if w.Sample == nil {
		return nil
	}
	rec.Sample = &w.Sample.Sample
	var err error
	if rec.Sample.Net, err = readCounters(w.Sample.Net, wanted); err != nil {
		return err
	}
	if c := w.Sample.Conntrack; c != nil {
		rec.Sample.Conntrack = &c.Conntrack
		rec.Sample.Conntrack.Counters, err = readCounters(c.Counters, nil)
	}
	return err
}

// wire is a Record whose counters have not been read yet.
type wire struct {
	Record
	Sample *wireSample `json:"sample"`
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

// readCounters reads an object of counters, those that are wanted or all. What
// is not written as Writer writes it is left to the library.
func readCounters(text []byte, wanted map[string]bool) (map[string]uint64, error) {
	if len(text) == 0 {
		return nil, nil //nolint:nilnil // there are none
	}
	out := make(map[string]uint64, 16)
	if plainCounters(text, wanted, out) {
		return out, nil
	}
	out = nil
	if err := json.Unmarshal(text, &out); err != nil {
		return nil, fmt.Errorf("read counters: %w", err)
	}
	for name := range out {
		if wanted != nil && !wanted[name] {
			delete(out, name)
		}
	}
	return out, nil
}

// plainCounters reads {"name":1,"name":2}, without spaces, escapes or signs,
// and says whether that is all there was.
func plainCounters(text []byte, wanted map[string]bool, out map[string]uint64) bool {
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
			out[string(name)] = n
		}
		if i == len(text)-1 {
			return text[i] == '}'
		}
	}
	return false
}
