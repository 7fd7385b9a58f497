package report

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const fuzzHeader = `{"n":1,"host":"c","t":0,"header":{"format":1,"scenario":"x","kernel":"6.1","cpus":2,"limit":10,"traffic":[{"name":"w","shape":"short_lived","to":"s","end":5,"timeout":0.9,"entries_per_attempt":1,"residence":120,"expects_answer":true},{"name":"f","shape":"flood","to":"s","entries_per_attempt":1}],"services":[{"name":"s","addr":"1.2.3.4:5","backends":[]}],"nodes":["n"],"thresholds":["errors < 1%","p99 < 5ms during 1s..2s"],"sample_every":0.1}}` + "\n"

// fuzzSeeds are logs that no run made.
var fuzzSeeds = map[string]string{
	"all": fuzzHeader + `{"n":1,"host":"n","t":-1,"sample":{"took":1,"conntrack":{"entries":10,"limit":10,"counters":{"drop":1}}}}` + "\n" +
		`{"n":2,"host":"n","t":1,"sample":{"took":1,"conntrack":{"entries":10,"limit":10,"counters":{"drop":9,"insert_failed":3,"early_drop":2}}}}` + "\n" +
		`{"n":1,"host":"w","t":2,"bin":{"traffic":"w","start":0.5,"width":0.1,"due":8,"started":8,"outcomes":{"connect_timeout":7,"reset":1},"lost_packets":9}}` + "\n" +
		`{"n":2,"host":"w","t":2,"failure":{"traffic":"w","seq":1,"due":0.5,"start":0.5,"outcome":"connect_timeout"}}` + "\n" +
		`{"n":3,"host":"n","t":2,"autopsy":{"traffic":"w","seq":1,"found":true,"dnat":true}}` + "\n",
	"counts":   fuzzHeader + `{"n":2,"host":"c","t":1e8,"bin":{"traffic":"w","start":-1e8,"width":1e-300,"due":18446744073709551615,"started":18446744073709551615,"late":18446744073709551615,"outcomes":{"ok":18446744073709551615,"x":18446744073709551615},"lost_packets":18446744073709551615}}` + "\n",
	"times":    fuzzHeader + `{"n":2,"host":"n","t":1e300,"sample":{"took":-5}}` + "\n" + `{"n":1,"host":"q","t":0,"bin":{"traffic":"q","start":1e300,"width":-1}}` + "\n",
	"latency":  fuzzHeader + `{"n":2,"host":"c","t":1,"latency":{"traffic":"w","start":0,"width":1,"from_due":"HISTFAAAAB542pNpmSzMwMDAxQABzFCaEUoz2X+AsQB3VQPa"}}` + "\n",
	"trailer":  fuzzHeader + `{"n":2,"host":"c","t":1,"trailer":{"outcome":"completed","restored":true,"records":{"zz":5}}}`,
	"negative": `{"n":1,"host":"c","t":0,"header":{"traffic":[{"name":"w","entries_per_attempt":-1,"residence":-3,"end":1e99,"timeout":-4}],"sample_every":-1,"duration":-9,"cpus":-4}}` + "\n" + `{"n":1,"host":"n","t":5,"sample":{"cpu":{"idle":-1}}}` + "\n",
	"cluster":  fuzzHeader + clusterSeed(),
	"nothing":  "{}\n[]\nnull\n\x00\n",
	"names": strings.ReplaceAll(fuzzHeader, `"w"`, `"\u0000\u202e</text>\ud800\uffff\n=1"`) + `{"n":1,"host":"\u001b[2J\n# EOF","t":1,"sample":{"took":1,"conntrack":{"entries":1000000000000000000,"limit":18446744073709551615,"counters":{"drop\n 1":1,"=":1}}}}` + "\n" +
		`{"n":2,"host":"\u001b[2J\n# EOF","t":2,"sample":{"took":1,"conntrack":{"entries":18446744073709551615,"limit":1,"counters":{"drop\n 1":9e18,"=":5}}}}` + "\n" +
		`{"n":3,"host":"c","t":1.5,"event":{"kind":"action","name":"a\"b\\c\n` + strings.Repeat("long ", 400) + `"}}` + "\n" + "{\"n\":4,\"host\":\"\xff\xfe\",\"t\":1,\"event\":{\"kind\":\"action\",\"name\":\"\xff\"}}\n",
}

// FuzzAnalyze feeds it logs that no run made. Whatever they hold, there is a
// verdict, each failed attempt has one cause, and every rendering succeeds.
func FuzzAnalyze(f *testing.F) {
	for _, log := range fuzzSeeds {
		f.Add(log)
	}
	f.Fuzz(func(t *testing.T, log string) {
		if len(log) > 1<<16 {
			return
		}
		got, err := Analyze(strings.NewReader(log))
		require.NoError(t, err)
		require.Contains(t, []Verdict{Pass, Fail, Inconclusive}, got.Verdict)
		require.NotEmpty(t, got.Headline)
		if got.Verdict != Pass {
			require.NotEmpty(t, got.Reasons)
		}
		var failed, explained uint64
		for _, x := range got.Traffic {
			failed += x.Failed
		}
		for _, c := range got.Causes {
			if c.ShareOf == "failed" {
				explained += c.Failures
			}
		}
		require.Equal(t, failed, explained)
		for _, format := range Formats() {
			if format == "png" {
				continue // slow, and drawn by the same code as svg
			}
			require.NoError(t, Render(format, got, io.Discard), format)
		}
		var b bytes.Buffer
		require.NoError(t, Render("html", got, &b))
		require.Equal(t, ownScripts, strings.Count(b.String(), "<script"))
	})
}

// clusterSeed is endpoints, dataplanes, actions and servers as no run has them.
func clusterSeed() string {
	var b strings.Builder
	n := 1
	put := func(host string, t string, what string) {
		n++
		fmt.Fprintf(&b, `{"n":%d,"host":%q,"t":%s,%s}`+"\n", n, host, t, what)
	}
	pod := `{"name":"s-1","addr":"10.0.0.1","ready":true,"serving":true},{"name":"s-1","addr":"10.0.0.1","terminating":true},{"name":"","addr":""}`
	for i, t := range []string{"-1e8", "0.2", "1e8", "0.1", "0.6", "3"} {
		put("c", t, `"endpoints":{"service":"s","endpoints":[`+pod+`]}`)
		put("c", t, fmt.Sprintf(`"event":{"kind":"action","name":"a","fields":{"phase":"begin","number":"%d"}}`, i%2))
		put("c", t, `"event":{"kind":"action","name":"a","fields":{"phase":"fail","number":"1e9"}}`)
		put("n", t, `"dataplane":{"services":[{"service":"s","backends":[{"addr":"10.0.0.1:5"},{"addr":"10.0.0.9:5","weight":1},{"addr":"10.0.0.9:5","weight":-1}]},{"service":"zz"},{"service":"s"}]}`)
		put("n", t, `"dataplane":{"failed":"\u001b[2J"}`)
		put("w", t, `"served":{"service":"s","backend":"s-1","accepted":18446744073709551615,"served":9}`)
		put("w", t, `"held":{"traffic":"w","open":1,"lost":18446744073709551615}`)
		put("c", t, `"endpoints":{"service":"s","endpoints":null}`)
	}
	put("w", "2", `"bin":{"traffic":"w","start":0.5,"width":0.1,"due":8,"started":8,"outcomes":{"connect_timeout":7,"refused":1}}`)
	put("w", "2", `"bin":{"traffic":"w","start":9e7,"width":0.1,"due":1,"started":1,"outcomes":{"reset":1}}`)
	put("w", "2", `"failure":{"traffic":"w","seq":1,"due":0.5,"start":-1e8,"outcome":"connect_timeout"}`)
	put("n", "2", `"autopsy":{"traffic":"w","seq":1,"lag":1e300,"found":true,"dnat":true,"reply_src":"10.0.0.9:5"}`)
	services := strings.TrimSuffix(strings.Repeat(`{"service":"s","addr":"10.0.0.1:1","backends":[{"addr":"10.0.0.7:1","weight":1}]},`, 300), ",")
	put("n", "2.5", `"dataplane":{"services":[`+services+`]}`)
	return b.String()
}
