// Package browser opens HTML reports in a headless Chromium and looks at what
// a reader would see. The tests and the program that makes the pictures of the
// documents use it; tablefull itself does not.
package browser

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"sync"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// ErrMissing says that this machine has no Chromium.
var ErrMissing = errors.New("no chromium on the PATH (Debian package chromium)")

// look.js is in each page before its own scripts: it takes note of what is
// written on canvases, and holds the checks.
//
//go:embed look.js
var look string

// A Browser is one Chromium process with a profile of its own.
type Browser struct {
	ctx context.Context
}

// Start starts a Chromium that keeps its files in dir, which must exist. It
// blocks until the browser answers. The browser ends when stop is called,
// which waits for it, or with ctx.
func Start(ctx context.Context, dir string) (b *Browser, stop func(), err error) {
	program, err := exec.LookPath("chromium")
	if err != nil {
		return nil, nil, ErrMissing
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(program), chromedp.NoSandbox, chromedp.DisableGPU, chromedp.UserDataDir(dir),
		// As an ordinary user without a home it would not start.
		chromedp.Env("HOME="+dir, "XDG_CONFIG_HOME="+dir, "XDG_CACHE_HOME="+dir),
		chromedp.Flag("hide-scrollbars", false),
	)
	ctx, endProcess := chromedp.NewExecAllocator(ctx, options...)
	ctx, endFirst := chromedp.NewContext(ctx)
	stop = func() {
		endFirst()
		endProcess()
	}
	if err := chromedp.Do(ctx); err != nil {
		stop()
		return nil, nil, fmt.Errorf("start chromium: %w", err)
	}
	return &Browser{ctx}, stop, nil
}

// A View is how a page is looked at.
type View struct {
	Width, Height int64   // CSS pixels
	Scale         float64 // device pixels per CSS pixel; 0 is 1
	Dark          bool
	Touch         bool // a phone
	NoScript      bool
}

// A Page is an open tab.
type Page struct {
	ctx      context.Context
	close    context.CancelFunc
	mu       sync.Mutex
	problems []string
}

// Open opens address in a new tab, and returns when it has loaded.
func (b *Browser) Open(address string, v View) (*Page, error) {
	ctx, cancel := chromedp.NewContext(b.ctx)
	p := &Page{ctx: ctx, close: cancel}
	scheme, _, _ := strings.Cut(address, ":")
	if err := chromedp.Listen(ctx, func(ev any) { p.note(ev, scheme) }); err != nil {
		cancel()
		return nil, fmt.Errorf("open tab: %w", err)
	}
	size := []chromedp.EmulateViewportOption{}
	if v.Scale > 0 {
		size = append(size, chromedp.EmulateScale(v.Scale))
	}
	if v.Touch {
		size = append(size, chromedp.EmulateMobile, chromedp.EmulateTouch)
	}
	err := chromedp.Do(
		ctx,
		command(network.Enable, network.EnableParams{}),
		command(page.AddScriptToEvaluateOnNewDocument, page.AddScriptToEvaluateOnNewDocumentParams{Source: look}),
		command(emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: v.NoScript}),
		media("", v.Dark),
		chromedp.EmulateViewport(v.Width, v.Height, size...),
		chromedp.Navigate(address),
	)
	if err != nil {
		cancel()
		return nil, fmt.Errorf("open %s: %w", address, err)
	}
	return p, nil
}

func command[P, R any](c cdp.Command[P, R], params P) chromedp.Action[chromedp.Void] {
	return chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		_, err := cdp.Call(ctx, t, c, params)
		return err
	})
}

func media(kind string, dark bool) chromedp.Action[chromedp.Void] {
	scheme := "light"
	if dark {
		scheme = "dark"
	}
	return command(emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
		Media:    kind,
		Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}},
	})
}

// note keeps what a page should not do: complain, or ask for more than what
// the scheme it was opened with gives.
func (p *Page) note(ev any, scheme string) {
	var what string
	switch ev := ev.(type) {
	case *runtime.EventExceptionThrown:
		what = "exception: " + ev.ExceptionDetails.Text
		if ev.ExceptionDetails.Exception != nil {
			what += " " + ev.ExceptionDetails.Exception.Description
		}
	case *runtime.EventConsoleAPICalled:
		what = "console: " + string(ev.Type)
	case *log.EventEntryAdded: // violations of the content security policy, too
		what = "log: " + ev.Entry.Text
	case *network.EventRequestWillBeSent:
		if !strings.HasPrefix(ev.Request.URL, scheme+":") {
			what = "request: " + ev.Request.URL
		}
	}
	if what != "" {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.problems = append(p.problems, what)
	}
}

// Problems are messages of the page's console and requests it should not make,
// up to now.
func (p *Page) Problems() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string{}, p.problems...)
}

// Close closes the tab.
func (p *Page) Close() { p.close() }

// Do runs actions of chromedp in the page.
func (p *Page) Do(steps ...chromedp.Action[chromedp.Void]) error {
	return chromedp.Do(p.ctx, steps...)
}

// Touch puts fingers on the screen, moves or lifts them.
func (p *Page) Touch(kind input.DispatchTouchEventType, at ...*input.TouchPoint) error {
	if at == nil {
		at = []*input.TouchPoint{} // null is refused
	}
	return p.Do(command(input.DispatchTouchEvent, input.DispatchTouchEventParams{Type: kind, TouchPoints: at}))
}

// Grant lets the page read the clipboard.
func (p *Page) Grant() error {
	_, err := chromedp.CallBrowser(p.ctx, grant, grantParams{Permissions: []string{"clipboardReadWrite", "clipboardSanitizedWrite"}})
	return err
}

type grantParams struct {
	Permissions []string `json:"permissions"`
}

var grant = cdp.Command[grantParams, cdp.Empty]{Method: "Browser.grantPermissions"}

// Eval returns the value of an expression, and waits for it where it is a
// promise.
func Eval[T any](p *Page, expression string) (T, error) {
	return chromedp.Run(p.ctx, chromedp.Evaluate[T](expression, chromedp.EvalAwaitPromise))
}

// Poll evaluates an expression until it is true, for at most 30 s, and returns
// its value.
func Poll(p *Page, expression string) (string, error) {
	return chromedp.Run(p.ctx, chromedp.Poll[string](expression, chromedp.WithPollingTimeout(30*time.Second), chromedp.WithPollingInterval(20*time.Millisecond)))
}

// Faults returns what is wrong with the layout of the page as it is now: text
// that is cut, covered or outside of the window, in the page and in its plots.
func (p *Page) Faults() ([]string, error) {
	return Eval[[]string](p, `lookAt.faults()`)
}

// Print returns the page as PDF on A4.
func (p *Page) Print() ([]byte, error) {
	return chromedp.Run(p.ctx, chromedp.PrintToPDF(chromedp.PDFPaper(chromedp.PaperA4), chromedp.PDFPreferCSSPageSize(), chromedp.PDFPrintBackground()))
}

// Screenshot returns what is in the window as PNG.
func (p *Page) Screenshot() ([]byte, error) {
	return chromedp.Run(p.ctx, chromedp.CaptureScreenshot())
}
