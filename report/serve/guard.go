package serve

import (
	"net"
	"net/http"
	"net/netip"
	"strings"
)

const (
	// dataPolicy is for what is no page of ours: it may do nothing, even where
	// a browser shows it.
	dataPolicy = "default-src 'none'; style-src 'unsafe-inline'; sandbox; frame-ancestors 'none'"
	// listPolicy is for the pages whose scripts and styles are files here.
	listPolicy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
	// reportPolicy adds to what the page says itself, which is stricter.
	reportPolicy = "object-src 'none'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)

// guard sets the headers of every answer, and refuses what no browser that
// was pointed here by its user would ask.
func guard(loopback bool, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", dataPolicy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("X-Frame-Options", "DENY")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cache-Control", "no-store")
		if loopback && !localName(r.Host) {
			http.Error(w, "this server is for this machine only: ask for it as 127.0.0.1 or localhost", http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// localName says whether a Host header names this machine as only its user
// can. A page from elsewhere that has its own name resolve to 127.0.0.1 (DNS
// rebinding) comes with that name.
func localName(host string) bool {
	name := host
	if h, _, err := net.SplitHostPort(host); err == nil {
		name = h
	}
	if strings.EqualFold(strings.TrimSuffix(name, "."), "localhost") {
		return true
	}
	addr, err := netip.ParseAddr(strings.Trim(name, "[]"))
	return err == nil && addr.Unmap().IsLoopback()
}
