//go:build linux

package main

import (
	"bytes"
	"cmp"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"maps"
	"os"
	"slices"
)

// largest is how many bytes a picture may have: each clone pays for it.
const largest = 150_000

// write writes a picture with a palette, which is a quarter of the size and
// looks the same: most of a report is of few colours.
func write(file string, img image.Image) error {
	var b bytes.Buffer
	if err := (&png.Encoder{CompressionLevel: png.BestCompression}).Encode(&b, reduced(img)); err != nil {
		return fmt.Errorf("encode %s: %w", file, err)
	}
	if b.Len() > largest {
		return fmt.Errorf("write %s: it has %d bytes, more than %d", file, b.Len(), largest)
	}
	if err := os.WriteFile(file, b.Bytes(), 0o644); err != nil {
		return fmt.Errorf("write %s: %w", file, err)
	}
	return nil
}

func reduced(img image.Image) *image.Paletted {
	box := img.Bounds()
	count := map[color.RGBA]int{}
	at := func(x, y int) color.RGBA {
		r, g, b, _ := img.At(x, y).RGBA()
		return color.RGBA{uint8(r >> 8), uint8(g >> 8), uint8(b >> 8), 255}
	}
	for y := box.Min.Y; y < box.Max.Y; y++ {
		for x := box.Min.X; x < box.Max.X; x++ {
			count[at(x, y)]++
		}
	}
	often := slices.SortedFunc(maps.Keys(count), func(a, b color.RGBA) int {
		return cmp.Or(cmp.Compare(count[b], count[a]), cmp.Compare(a.R, b.R), cmp.Compare(a.G, b.G), cmp.Compare(a.B, b.B))
	})
	palette := paletteOf(often)
	out := image.NewPaletted(image.Rect(0, 0, box.Dx(), box.Dy()), palette)
	index := map[color.RGBA]uint8{}
	for y := range box.Dy() {
		for x := range box.Dx() {
			c := at(box.Min.X+x, box.Min.Y+y)
			i, ok := index[c]
			if !ok {
				i = uint8(palette.Index(c))
				index[c] = i
			}
			out.SetColorIndex(x, y, i)
		}
	}
	return out
}

// paletteOf takes as few as 256 of the colours, so that each of them has one
// as near to it as can be: rare colours are not lost to frequent ones.
func paletteOf(colors []color.RGBA) color.Palette {
	for apart := 0; ; apart += 2 {
		var out color.Palette
		for _, c := range colors {
			near := slices.ContainsFunc(out, func(o color.Color) bool { return distance(c, o.(color.RGBA)) <= apart })
			if !near {
				out = append(out, c)
			}
			if len(out) > 256 {
				break
			}
		}
		if len(out) <= 256 {
			return out
		}
	}
}

// distance is the largest difference of one channel.
func distance(a, b color.RGBA) int {
	of := func(x, y uint8) int { return max(int(x)-int(y), int(y)-int(x)) }
	return max(of(a.R, b.R), of(a.G, b.G), of(a.B, b.B))
}
