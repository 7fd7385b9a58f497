package report

import (
	"cmp"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"html/template"
	"io"
	"slices"
	"strings"
)

//go:embed assets
var assets embed.FS

// A Page is how the HTML report is put together. The zero value is a file
// that stands alone and may connect to nothing.
type Page struct {
	// Script is run after the page's own, in the same policy. It may use
	// window.tablefull, see assets/report.js.
	Script string
	// Connect is what the page may connect to, as in a Content-Security-Policy;
	// empty for nothing. It must not hold quotes other than those of 'self'.
	Connect string
}

// Render writes the findings as one HTML file.
func (p Page) Render(f *Findings, w io.Writer) error {
	v, err := p.view(f)
	if err != nil {
		return fmt.Errorf("write html: %w", err)
	}
	texts, err := readAssets("report.html", "capacity.html")
	if err != nil {
		return err
	}
	t := template.New("report").Funcs(htmlFuncs)
	for i, name := range []string{"report", "capacity"} {
		if t, err = t.New(name).Parse(texts[i]); err != nil {
			return fmt.Errorf("parse %s template: %w", name, err)
		}
	}
	name, data := "report", any(v)
	if c := f.Capacity; c != nil {
		a, _ := adviceOf(f)
		due, lost := c.dueAndLost()
		name, data = "capacity", capacityView{view: v, Bounds: c.boundsRows(), Rows: c.trialRows(), DueAndLost: [2]string{due, lost}, About: c.about(), Each: c.each(), Do: a.Do, DoWhy: a.Why}
	}
	if err := t.ExecuteTemplate(w, name, data); err != nil {
		return fmt.Errorf("write html: %w", err)
	}
	return nil
}

// capacityView is what the template of a search's report sees.
type capacityView struct {
	*view
	Bounds, Rows [][]string
	DueAndLost   [2]string // headings
	About        string
	Each         string
	Do           string // what to change, in one sentence
	DoWhy        []string
}

func renderHTML(f *Findings, w io.Writer) error { return Page{}.Render(f, w) }

// view is what the template sees.
type view struct {
	*Findings
	Figures   []figure
	Advice    advice
	Staged    string   // the faults that the scenario put in itself; empty for none
	Why       []string // reasons, but for what was expected where all was shown
	Shown     []string // what was expected, where all of it was shown
	Alone     string   // what the settings leave out; empty for nothing
	First     []chart  // on the first screen
	Over      []chart  // over time
	ByLoad    []chart
	Actions   []Spike
	Pods      []Backend
	Events    []Event
	MorePods  uint64 // that are not listed, of each of them
	MoreActs  uint64
	MoreEvent uint64
	Gaps      []string // what is not plotted, and why
	Policy    string
	Styles    []template.CSS
	Scripts   []template.JS
	License   template.HTML
	Data      template.JS
	LimitsTop bool // doubts come before the plots, because they limit the verdict
	Rollout   bool // there is something to say of pods that end
}

func (p Page) view(f *Findings) (*view, error) {
	v := &view{Findings: f, Figures: figures(f), Advice: advise(f), Staged: staged(f), Alone: settingsNote(f), LimitsTop: f.Verdict == Inconclusive}
	c := newCharts(f)
	v.First, v.Over, v.ByLoad, v.Gaps = c.first, c.over, c.byLoad, c.gaps
	v.Why, v.Shown = reasonsApart(f)
	v.Rollout = len(f.Spikes) > 0
	for _, b := range f.Backends {
		v.Rollout = v.Rollout || b.ServedWhileDraining > 0 || b.ServedAfterGone != nil && *b.ServedAfterGone > 0 || b.DrainingShare != nil
	}
	v.list(f)
	data, err := json.Marshal(c.data())
	if err != nil {
		return nil, fmt.Errorf("encode plots: %w", err)
	}
	// Marshal has escaped <, > and &, so nothing in it can end the element.
	v.Data = template.JS(data) //nolint:gosec // see above
	scripts, err := readAssets("uplot/uPlot.iife.min.js", "report.js")
	if err != nil {
		return nil, err
	}
	if p.Script != "" {
		scripts = append(scripts, p.Script)
	}
	styles, err := readAssets("uplot/uPlot.min.css", "report.css")
	if err != nil {
		return nil, err
	}
	license, err := readAssets("uplot/LICENSE")
	if err != nil {
		return nil, err
	}
	v.License = template.HTML("<!--\nuPlot 1.6.32, which draws the plots of this page:\n" + license[0] + "-->") //nolint:gosec // an asset
	var scriptHashes, styleHashes []string
	for _, s := range scripts {
		v.Scripts = append(v.Scripts, template.JS(s)) //nolint:gosec // an asset, or the caller's own
		scriptHashes = append(scriptHashes, sourceHash(s))
	}
	for _, s := range styles {
		v.Styles = append(v.Styles, template.CSS(s)) //nolint:gosec // an asset
		styleHashes = append(styleHashes, sourceHash(s))
	}
	v.Policy = "default-src 'none'; base-uri 'none'; form-action 'none'; script-src " + strings.Join(scriptHashes, " ") + "; style-src " + strings.Join(styleHashes, " ")
	if p.Connect != "" {
		v.Policy += "; connect-src " + p.Connect
	}
	return v, nil
}

// reasonsApart keeps what was expected, where all of it was shown, from hiding
// what to change: it is in a table of its own.
func reasonsApart(f *Findings) (why, shown []string) {
	if f.Reproduced == nil || !*f.Reproduced {
		return shownReasons(f), nil
	}
	for _, r := range shownReasons(f) {
		if what, is := strings.CutPrefix(r, asExpected); is {
			shown = append(shown, what)
		} else {
			why = append(why, r)
		}
	}
	return why, shown
}

func readAssets(names ...string) ([]string, error) {
	var out []string
	for _, name := range names {
		b, err := assets.ReadFile("assets/" + name)
		if err != nil {
			return nil, fmt.Errorf("read asset: %w", err)
		}
		out = append(out, string(b))
	}
	return out, nil
}

// sourceHash is how a Content-Security-Policy names an inline script or style.
func sourceHash(s string) string {
	sum := sha256.Sum256([]byte(s))
	return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
}

// How many rows the tables have that grow with the run. More are only turned over.
const (
	listedRows   = 60
	listedEvents = 150
)

// list chooses what the tables show that grow with the run.
func (v *view) list(f *Findings) {
	v.Actions, v.MoreActs = worst(f.Spikes, listedRows)
	v.MoreActs += f.OtherSpikes
	v.Pods, v.MorePods = oddest(f.Backends, listedRows)
	v.Events = f.Timeline.Events[:min(len(f.Timeline.Events), listedEvents)]
	v.MoreEvent = uint64(len(f.Timeline.Events)-len(v.Events)) + f.Timeline.OtherEvents
}

// oddest keeps as many pods as that, in their order: those with most errors and
// with most of what a pod that ends should not take in or serve.
func oddest(all []Backend, most int) (listed []Backend, other uint64) {
	if len(all) <= most {
		return all, 0
	}
	odd := func(b Backend) uint64 {
		n := b.Errors + b.ServedWhileDraining
		for _, v := range []*uint64{b.AcceptedWhileDraining, b.ServedAfterGone} {
			if v != nil {
				n += *v
			}
		}
		return n
	}
	order := make([]int, len(all))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(x, y int) int { return cmp.Compare(odd(all[y]), odd(all[x])) })
	keep := order[:most]
	slices.Sort(keep)
	for _, i := range keep {
		listed = append(listed, all[i])
	}
	return listed, uint64(len(all) - most)
}
