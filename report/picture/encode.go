package picture

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"html"
	"image"
	"image/color"
	"image/draw"
	"image/png"
	"io"
	"slices"

	"gonum.org/v1/plot/vg"
	vgdraw "gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgimg"
	"gonum.org/v1/plot/vg/vgsvg"
)

// dpi makes 1600 pixels of the width.
const dpi = 120

// PNG writes the picture 1600 pixels wide and at least 900 high.
func (p *Picture) PNG(w io.Writer) error {
	l := p.layout()
	c := vgimg.NewWith(vgimg.UseWH(width, vg.Length(l.height)), vgimg.UseDPI(dpi))
	l.draw(&sheet{c: vgdraw.New(c), height: l.height})
	e := png.Encoder{CompressionLevel: png.BestCompression}
	if err := e.Encode(w, paletted(c.Image())); err != nil {
		return fmt.Errorf("write png: %w", err)
	}
	return nil
}

// SVG writes the picture as one file. Its text stays text: in Liberation Sans
// where that is installed, otherwise in a font of the same widths.
func (p *Picture) SVG(w io.Writer) error {
	l := p.layout()
	c := vgsvg.New(width, vg.Length(l.height))
	l.draw(&sheet{c: vgdraw.New(c), height: l.height})
	var b bytes.Buffer
	if _, err := c.WriteTo(&b); err != nil {
		return fmt.Errorf("draw svg: %w", err)
	}
	_, body, ok := bytes.Cut(b.Bytes(), []byte("<svg "))
	if ok {
		_, body, ok = bytes.Cut(body, []byte(">\n"))
	}
	if !ok {
		return errors.New("draw svg: the canvas wrote no svg element")
	}
	// The canvas names one font, and measures in points; text is escaped, so
	// that this finds attributes only.
	body = bytes.ReplaceAll(body, []byte(`style="font-family:Liberation Sans;`), []byte(`style="font-family:Liberation Sans,Arial,Helvetica,sans-serif;`))
	head := fmt.Sprintf("<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%g\" height=\"%g\" viewBox=\"0 0 %g %g\" role=\"img\">\n<title>%s</title>\n<desc>%s</desc>\n",
		width, l.height, width, l.height, html.EscapeString(printable(p.Headline)), html.EscapeString(p.Description()))
	if _, err := io.WriteString(w, head); err != nil {
		return fmt.Errorf("write svg: %w", err)
	}
	if _, err := w.Write(body); err != nil {
		return fmt.Errorf("write svg: %w", err)
	}
	return nil
}

// paletted keeps the 256 colours a picture has most of, which is all but some
// shades on the edges of signs. It makes the file a third of its size.
func paletted(in image.Image) image.Image {
	area := in.Bounds()
	count := map[color.RGBA]int{}
	pixels := image.NewRGBA(area)
	draw.Draw(pixels, area, in, area.Min, draw.Src)
	for y := area.Min.Y; y < area.Max.Y; y++ {
		for x := area.Min.X; x < area.Max.X; x++ {
			count[pixels.RGBAAt(x, y)]++
		}
	}
	var colours []color.RGBA
	for c := range count {
		colours = append(colours, c)
	}
	slices.SortFunc(colours, func(a, b color.RGBA) int {
		return cmp.Or(count[b]-count[a], int(a.R)-int(b.R), int(a.G)-int(b.G), int(a.B)-int(b.B), int(a.A)-int(b.A))
	})
	var palette color.Palette
	for _, c := range colours[:min(len(colours), 256)] {
		palette = append(palette, c)
	}
	index := map[color.RGBA]uint8{}
	for _, c := range colours {
		index[c] = uint8(palette.Index(c))
	}
	out := image.NewPaletted(area, palette)
	for y := area.Min.Y; y < area.Max.Y; y++ {
		for x := area.Min.X; x < area.Max.X; x++ {
			out.SetColorIndex(x, y, index[pixels.RGBAAt(x, y)])
		}
	}
	return out
}
