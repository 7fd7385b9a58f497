package serve

import (
	"encoding/json"
	"fmt"
	"net/http"
	"time"
)

const (
	// lookEvery is how often a stream looks for news.
	lookEvery = 500 * time.Millisecond
	// beatEvery is how often a stream without news says that it is there.
	beatEvery = 10 * time.Second
	// sendFor is how long a reader may take for one message.
	sendFor = 10 * time.Second
)

// news is something that can be said again and again.
type news interface {
	// key is the same as long as there is nothing new.
	key() string
}

// stream sends what next returns, as server-sent events, whenever it is
// something new, until the reader has gone, the server ends, or last is true.
func (s *Server) stream(w http.ResponseWriter, r *http.Request, next func() (news news, last bool)) {
	select {
	case s.streams <- struct{}{}:
		defer func() { <-s.streams }()
	default:
		http.Error(w, fmt.Sprintf("there are %d live pages already; close some", maxStreams), http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	rc := http.NewResponseController(w)
	defer func() { _ = rc.SetWriteDeadline(time.Time{}) }() // the connection goes on
	send := func(text string) bool {
		_ = rc.SetWriteDeadline(time.Now().Add(sendFor)) // where it cannot be set, there is none
		_, err := fmt.Fprint(w, text)
		return err == nil && rc.Flush() == nil
	}
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	sent, at := "", time.Now()
	for {
		news, last := next()
		b, err := json.Marshal(news)
		if err != nil {
			return
		}
		switch {
		case news.key() != sent:
			if !send("data: " + string(b) + "\n\n") { // JSON has no line ends
				return
			}
			sent, at = news.key(), time.Now()
		case time.Since(at) >= beatEvery:
			if !send(": still here\n\n") {
				return
			}
			at = time.Now()
		}
		if last {
			return
		}
		select {
		case <-tick.C:
		case <-r.Context().Done():
			return
		}
	}
}
