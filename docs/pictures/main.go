//go:build linux

// Command pictures makes the pictures of README.md and docs/ from real runs:
// `make pictures`. It needs Chromium and what a lab needs. Look at what it
// made before it is committed: a busy machine makes other runs.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"image"
	"image/color"
	"image/draw"
	"image/png"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/chromedp/chromedp"

	"github.com/tablefull/tablefull/report/browser"
)

func main() {
	program := flag.String("program", "bin/tablefull", "the tablefull to run")
	out := flag.String("out", "docs", "folder for the pictures")
	flag.Parse()
	if err := pictures(context.Background(), *program, *out); err != nil {
		fmt.Fprintln(os.Stderr, "pictures:", err)
		os.Exit(1)
	}
}

// pictures takes about a minute.
func pictures(ctx context.Context, program, out string) error {
	dir, err := os.MkdirTemp("", "tablefull-pictures-")
	if err != nil {
		return fmt.Errorf("make folder: %w", err)
	}
	defer os.RemoveAll(dir)
	profile := filepath.Join(dir, "profile")
	if err := os.Mkdir(profile, 0o700); err != nil {
		return fmt.Errorf("make folder: %w", err)
	}
	short, rollout := filepath.Join(dir, "short-lived"), filepath.Join(dir, "rollout")
	// The runs come before the browser, which would be load beside them. The
	// table is full after 4.3 s: the view is taken after that, in mid-run.
	live, err := watch(ctx, 9*time.Second, 100, 34, program, "run", "short-lived", "--out", short)
	if err != nil {
		return err
	}
	if err := run(ctx, program, "run", "rollout-termination-race", "--quiet", "--out", rollout); err != nil {
		return err
	}
	b, stop, err := browser.Start(ctx, profile)
	if err != nil {
		return err
	}
	defer stop()

	report := "file://" + filepath.Join(short, "report.html")
	steps := []struct {
		name string
		make func() (image.Image, error)
	}{
		{"report.png", func() (image.Image, error) {
			return shot(b, report, browser.View{Width: 1280, Height: 770}, "")
		}},
		{"report-narrow.png", func() (image.Image, error) {
			return besideEachOther(b, report)
		}},
		{"report-rollout.png", func() (image.Image, error) {
			return shot(b, "file://"+filepath.Join(rollout, "report.html"), browser.View{Width: 1280, Height: 800}, "")
		}},
		{"report-time.png", func() (image.Image, error) {
			return shot(b, report, browser.View{Width: 1280, Height: 900}, "#time")
		}},
		{"live.png", func() (image.Image, error) { return terminalPicture(b, dir, live) }},
		{"plot.png", func() (image.Image, error) {
			data, err := exec.CommandContext(ctx, program, "report", short, "--format", "png").Output()
			if err != nil && len(data) == 0 {
				return nil, fmt.Errorf("draw plot: %w", err)
			}
			img, err := png.Decode(bytes.NewReader(data))
			if err != nil {
				return nil, fmt.Errorf("read plot: %w", err)
			}
			return withoutFooter(img), nil
		}},
	}
	for _, s := range steps {
		img, err := s.make()
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		if err := write(filepath.Join(out, s.name), img); err != nil {
			return err
		}
	}
	return nil
}

// run runs the program. Verdicts are no errors.
func run(ctx context.Context, program string, args ...string) error {
	text, err := exec.CommandContext(ctx, program, args...).CombinedOutput()
	var exit *exec.ExitError
	if errors.As(err, &exit) && (exit.ExitCode() == 3 || exit.ExitCode() == 4) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("run %v: %w\n%s", args, err, text)
	}
	return nil
}

// shot is what a window shows of a page, scrolled to what a selector finds.
func shot(b *browser.Browser, address string, v browser.View, to string) (image.Image, error) {
	p, err := b.Open(address, v)
	if err != nil {
		return nil, err
	}
	defer p.Close()
	if to != "" {
		if err := p.Do(chromedp.Evaluate[chromedp.Void](fmt.Sprintf("document.querySelector(%q).scrollIntoView()", to))); err != nil {
			return nil, err
		}
	}
	data, err := p.Screenshot()
	if err != nil {
		return nil, err
	}
	return png.Decode(bytes.NewReader(data))
}

// withoutFooter leaves out the line that names the machine of the run.
func withoutFooter(img image.Image) image.Image {
	const footer = 65
	box := img.Bounds()
	out := image.NewRGBA(image.Rect(0, 0, box.Dx(), box.Dy()-footer))
	draw.Draw(out, out.Bounds(), img, box.Min, draw.Src)
	return out
}

// besideEachOther is the report on a dark screen and on a phone.
func besideEachOther(b *browser.Browser, address string) (image.Image, error) {
	const height, gap = 800, 24
	wide, err := shot(b, address, browser.View{Width: 1180, Height: height, Dark: true}, "")
	if err != nil {
		return nil, err
	}
	narrow, err := shot(b, address, browser.View{Width: 390, Height: height, Touch: true}, "")
	if err != nil {
		return nil, err
	}
	w := wide.Bounds().Dx()
	both := image.NewRGBA(image.Rect(0, 0, w+gap+narrow.Bounds().Dx(), height))
	draw.Draw(both, both.Bounds(), image.NewUniform(color.Gray{Y: 128}), image.Point{}, draw.Src)
	draw.Draw(both, wide.Bounds(), wide, image.Point{}, draw.Src)
	draw.Draw(both, narrow.Bounds().Add(image.Pt(w+gap, 0)), narrow, image.Point{}, draw.Src)
	return both, nil
}
