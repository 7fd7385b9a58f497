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

// write writes a picture with the 256 colours it uses most, which is a quarter
// of the size and looks the same: most of a report is of few colours.
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
	palette := make(color.Palette, 0, 256)
	for _, c := range often[:min(len(often), 256)] {
		palette = append(palette, c)
	}
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
