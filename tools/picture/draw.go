package main

import (
	"bytes"
	"cmp"
	"encoding/xml"
	"fmt"
	"image/color"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	uv "github.com/charmbracelet/ultraviolet"
	"github.com/charmbracelet/x/ansi"
)

// hold is how long the last frame stays before the animation restarts.
const hold = 12 * time.Second

// The picture's measures in pixels. Every text element has an explicit width,
// so columns align in any font.
const (
	fontSize   = 14
	cellWidth  = 8.4
	lineHeight = 19
	baseline   = 14 // from the top of a line
	bar        = 34 // the height of the title bar
	margin     = 16
)

const (
	foreground = "#e6edf3"
	background = "#161b22"
	frameColor = "#444c56"
	fonts      = `ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono","Liberation Mono",monospace`
)

// palette has a terminal's 16 colours, adapted to the background.
var palette = [16]string{
	"#484f58", "#ff7b72", "#56d364", "#e3b341", "#79c0ff", "#d2a8ff", "#56d4dd", "#b1bac4",
	"#6e7681", "#ffa198", "#7ee787", "#f2cc60", "#a5d6ff", "#e2c5ff", "#b3f0ff", "#ffffff",
}

// A style is the appearance of a cell. Its colours are CSS colours, or empty
// for the terminal's default.
type style struct {
	fg, bg                                    string
	bold, faint, italic, underline, concealed bool
}

func styleOf(s uv.Style) style {
	st := style{
		fg:        hex(s.Fg),
		bg:        hex(s.Bg),
		bold:      s.Attrs&uv.AttrBold != 0,
		faint:     s.Attrs&uv.AttrFaint != 0,
		italic:    s.Attrs&uv.AttrItalic != 0,
		underline: s.Underline != 0,
		concealed: s.Attrs&uv.AttrConceal != 0,
	}
	if s.Attrs&uv.AttrReverse != 0 {
		st.fg, st.bg = cmp.Or(st.bg, background), cmp.Or(st.fg, foreground)
	}
	return st
}

func hex(c color.Color) string {
	switch c := c.(type) {
	case nil:
		return ""
	case ansi.BasicColor:
		return palette[c%16]
	case ansi.IndexedColor:
		if c < 16 {
			return palette[c]
		}
	}
	r, g, b, _ := c.RGBA()
	return fmt.Sprintf("#%02x%02x%02x", r>>8, g>>8, b>>8)
}

// css returns the style as CSS declarations, or "" for plain text.
func (s style) css() string {
	var b strings.Builder
	add := func(on bool, declaration string) {
		if on {
			b.WriteString(declaration + ";")
		}
	}
	add(s.fg != "", "fill:"+s.fg)
	add(s.bold, "font-weight:bold")
	add(s.faint, "fill-opacity:.6")
	add(s.italic, "font-style:italic")
	add(s.underline, "text-decoration:underline")
	add(s.concealed, "display:none")
	return b.String()
}

// A span is a range of frames: from is its first frame, to the first frame
// after it. At the end of the recording, to is the number of frames.
type span struct{ from, to int }

// A run is text in one style that is visible for a span.
type run struct {
	x, y, width int
	span        span
	style       style
	text        string
}

// draw returns an SVG of the recording, animated by CSS alone. Viewers without
// animation, or with reduced motion, show the last frame.
func draw(frames []frame, title string) []byte {
	last := frames[len(frames)-1].screen
	columns, rows := len(last.cells[0]), usedRows(frames)
	width := 2*margin + float64(columns)*cellWidth
	height := bar + margin + rows*lineHeight
	end := frames[len(frames)-1].at + hold
	d := drawing{frames: frames, end: end, spans: make(map[span]string), styles: make(map[style]string)}

	var body bytes.Buffer
	for _, r := range runsOf(frames, rows) {
		d.run(&body, r)
	}

	var b bytes.Buffer
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" xml:space="preserve" width="%s" height="%d" viewBox="0 0 %[1]s %d" role="img" aria-labelledby="title desc">`+"\n",
		number(width), height, height)
	fmt.Fprintf(&b, "<title id=\"title\">%s</title>\n<desc id=\"desc\">%s</desc>\n", escape(title), escape(last.text()))
	fmt.Fprintf(&b, "<style>\ntext{font:%dpx %s;fill:%s;white-space:pre}\n", fontSize, fonts, foreground)
	for _, s := range slices.SortedFunc(maps.Keys(d.styles), func(s, t style) int { return cmp.Compare(d.styles[s], d.styles[t]) }) {
		fmt.Fprintf(&b, ".%s{%s}\n", d.styles[s], s.css())
	}
	fmt.Fprintf(&b, ".a,.z,#cursor{animation:%ss step-end infinite}\n.a{opacity:0}\n", seconds(end))
	for _, s := range slices.SortedFunc(maps.Keys(d.spans), func(s, t span) int { return cmp.Or(s.from-t.from, s.to-t.to) }) {
		name := d.spans[s]
		fmt.Fprintf(&b, ".%s{animation-name:%[1]s}@keyframes %[1]s{%s}\n", name, d.keyframes(s))
	}
	fmt.Fprintf(&b, "#cursor{animation-name:cursor;%s}\n@keyframes cursor{%s}\n", position(last), d.cursor())
	b.WriteString("@media (prefers-reduced-motion:reduce){.a,.z,#cursor{animation:none}}\n</style>\n")

	fmt.Fprintf(&b, `<rect x=".5" y=".5" width="%s" height="%d" rx="8" fill="%s" stroke="%s"/>`+"\n", number(width-1), height-1, background, frameColor)
	for i, c := range []string{"#ff5f57", "#febc2e", "#28c840"} {
		fmt.Fprintf(&b, `<circle cx="%d" cy="18" r="5.5" fill="%s"/>`, 20+18*i, c)
	}
	fmt.Fprintf(&b, "\n<g transform=\"translate(%d %d)\">\n", margin, bar)
	b.Write(body.Bytes())
	fmt.Fprintf(&b, `<rect id="cursor" width="%s" height="%d" fill="%s" fill-opacity=".6"/>`+"\n", number(cellWidth), lineHeight-2, foreground)
	b.WriteString("</g>\n</svg>\n")
	return b.Bytes()
}

// usedRows returns the number of rows up to the last that ever had text or the
// cursor.
func usedRows(frames []frame) int {
	used := 0
	for _, f := range frames {
		for y := range f.screen.cells {
			if y >= used && (f.screen.line(y) != "" || y == f.screen.y) {
				used = y + 1
			}
		}
	}
	return used
}

// runsOf returns the runs of the recording in reading order.
func runsOf(frames []frame, rows int) []run {
	var runs []run
	for y := range rows {
		type look struct {
			span  span
			style style
		}
		open := make(map[look]*run) // the latest run, which may continue to the right
		var row []*run
		for x := range frames[0].screen.cells[y] {
			for from := 0; from < len(frames); {
				c := frames[from].screen.cells[y][x]
				to := from + 1
				for to < len(frames) && frames[to].screen.cells[y][x] == c {
					to++
				}
				s := span{from, to}
				from = to
				if c.text == "" || blank(c) {
					continue
				}
				r := open[look{s, c.style}]
				if r == nil || !blankBetween(frames, s, y, r.x+r.width, x) {
					r = &run{x: x, y: y, span: s, style: c.style}
					open[look{s, c.style}] = r
					row = append(row, r)
				}
				r.text += strings.Repeat(" ", x-r.x-r.width) + c.text
				r.width = x - r.x + 1
				for next := x + 1; next < len(frames[s.from].screen.cells[y]) && frames[s.from].screen.cells[y][next].text == ""; next++ {
					r.width++
				}
			}
		}
		for _, r := range row {
			runs = append(runs, *r)
		}
	}
	return runs
}

func blank(c cell) bool {
	return c.text == " " && c.style.bg == "" && !c.style.underline
}

// blankBetween reports whether a row is blank in the columns [from, to) during
// a span.
func blankBetween(frames []frame, s span, y, from, to int) bool {
	for _, f := range frames[s.from:s.to] {
		for _, c := range f.screen.cells[y][from:to] {
			if !blank(c) {
				return false
			}
		}
	}
	return true
}

// A drawing is the state shared by a picture's runs.
type drawing struct {
	frames []frame
	end    time.Duration
	spans  map[span]string  // CSS classes
	styles map[style]string // CSS classes
}

func (d *drawing) run(b *bytes.Buffer, r run) {
	var classes []string
	if r.span != (span{0, len(d.frames)}) {
		name := d.spans[r.span]
		if name == "" {
			name = fmt.Sprintf("k%d", len(d.spans))
			d.spans[r.span] = name
		}
		// Without animation, class z is visible and class a is not.
		group := "a"
		if r.span.to == len(d.frames) {
			group = "z"
		}
		classes = append(classes, group, name)
	}
	if r.style.bg != "" {
		fmt.Fprintf(b, `<rect x="%s" y="%d" width="%s" height="%d" fill="%s"%s/>`+"\n",
			number(float64(r.x)*cellWidth), r.y*lineHeight, number(float64(r.width)*cellWidth), lineHeight, r.style.bg, attribute("class", classes))
	}
	if r.style.css() != "" {
		name := d.styles[r.style]
		if name == "" {
			name = fmt.Sprintf("s%d", len(d.styles))
			d.styles[r.style] = name
		}
		classes = append(classes, name)
	}
	length := ""
	if utf8.RuneCountInString(r.text) > 1 {
		length = fmt.Sprintf(` textLength="%s" lengthAdjust="spacingAndGlyphs"`, number(float64(r.width)*cellWidth))
	}
	fmt.Fprintf(b, `<text x="%s" y="%d"%s%s>%s</text>`+"\n",
		number(float64(r.x)*cellWidth), r.y*lineHeight+baseline, length, attribute("class", classes), escape(r.text))
}

// keyframes returns CSS keyframes that show an element for a span. Each
// keyframe lasts until the next.
func (d *drawing) keyframes(s span) string {
	text := ""
	if s.from > 0 {
		text = "0%{opacity:0}"
	}
	text += d.percent(s.from) + "{opacity:1}"
	if s.to < len(d.frames) {
		text += d.percent(s.to) + "{opacity:0}"
	}
	return text
}

// cursor returns CSS keyframes that move the cursor.
func (d *drawing) cursor() string {
	var b strings.Builder
	for i, f := range d.frames {
		if i == 0 || position(f.screen) != position(d.frames[i-1].screen) {
			fmt.Fprintf(&b, "%s{%s}", d.percent(i), position(f.screen))
		}
	}
	return b.String()
}

// position returns the cursor's position and visibility in CSS.
func position(s screen) string {
	opacity := 1
	if s.hidden {
		opacity = 0
	}
	return fmt.Sprintf("transform:translate(%spx,%dpx);opacity:%d", number(float64(s.x)*cellWidth), s.y*lineHeight, opacity)
}

// percent returns a frame's start as a percentage of the animation.
func (d *drawing) percent(frame int) string {
	return strconv.FormatFloat(100*float64(d.frames[frame].at)/float64(d.end), 'f', 3, 64) + "%"
}

func seconds(d time.Duration) string { return number(d.Seconds()) }

// number formats f with at most two decimals.
func number(f float64) string {
	return strings.TrimRight(strings.TrimRight(strconv.FormatFloat(f, 'f', 2, 64), "0"), ".")
}

func attribute(name string, values []string) string {
	if len(values) == 0 {
		return ""
	}
	return fmt.Sprintf(` %s="%s"`, name, strings.Join(values, " "))
}

func escape(text string) string {
	var b strings.Builder
	xml.EscapeText(&b, []byte(text)) // writes to a Builder never fail
	return b.String()
}
