package report

import "slices"

// setting is what becomes of the notes about setting a limit.
type setting struct {
	leave bool     // the limit is to stay, and kube-proxy's own would do as well
	notes []string // those that matter to whoever sets one
	all   []string // all notes, where Notes leaves those out
}

// forLimit adds notes that matter to whoever sets a limit, and to nobody else.
func (s *Sizing) forLimit(notes ...string) {
	s.Notes = append(s.Notes, notes...)
	s.setting.notes = append(s.setting.notes, notes...)
}

// decide leaves those notes out where no limit is to be set: they would stand for
// advice in the report of a run after which nothing is to be changed.
func (s *Sizing) decide(tableTrouble bool) {
	if !s.setting.leave || tableTrouble {
		return
	}
	s.setting.all = s.Notes
	s.Notes = []string{}
	for _, n := range s.setting.all {
		if !slices.Contains(s.setting.notes, n) {
			s.Notes = append(s.Notes, n)
		}
	}
}

// withAllNotes is for whoever asks for sizes, and not what a run showed.
func (s *Sizing) withAllNotes() *Sizing {
	if s.setting.all == nil {
		return s
	}
	all := *s
	all.Notes, all.setting.all = s.setting.all, nil
	return &all
}
