package main

import (
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

// outcome lists texts of the picture's last frame, in this order.
var outcome = []string{
	prompt + typed[0],
	"==> db-1: finished with exit code 0",
	"unexpected end of file",
	"==> db-3: finished with exit code 1",
	"==> db-5: no response",
	"4 / 4 node(s) completed / acknowledged",
	prompt + typed[1] + "\n3\n$",
}

// check checks an SVG. It must be small XML, animated by CSS alone. Its
// description and its view without animation must contain the lines in order.
func check(t *testing.T, svg []byte, lines ...string) {
	t.Helper()
	if len(svg) > 150_000 {
		t.Errorf("the SVG has %d bytes, want at most 150000", len(svg))
	}
	var description, visible strings.Builder
	var into *strings.Builder
	titles, elements := 0, 0
	top, width := "", "" // of the previous text
	decoder := xml.NewDecoder(bytes.NewReader(svg))
	for {
		token, err := decoder.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		switch token := token.(type) {
		case xml.StartElement:
			elements++
			attributes := map[string]string{}
			for _, a := range token.Attr {
				attributes[a.Name.Local] = a.Value
			}
			into = nil
			switch token.Name.Local {
			case "title":
				titles++
			case "desc":
				into = &description
			case "text":
				if slices.Contains(strings.Fields(attributes["class"]), "a") {
					break // hidden at the end
				}
				into = &visible
				if y := attributes["y"]; y != top {
					top, width = y, ""
					visible.WriteString("\n")
				}
				// A gap between two texts stands for spaces.
				if width != "" && attributes["x"] != width {
					visible.WriteString(" ")
				}
				width = " "
			case "svg", "style", "g", "rect", "circle":
			default:
				t.Errorf("unexpected element %s", token.Name.Local)
			}
		case xml.EndElement:
			into = nil
		case xml.CharData:
			if into != nil {
				into.Write(token)
			}
		}
	}
	if titles != 1 || elements == 0 {
		t.Errorf("%d titles, want 1; %d elements, want some", titles, elements)
	}
	squeeze := func(text string) string { return strings.Join(strings.Fields(text), "") }
	for what, text := range map[string]string{"the description": description.String(), "the picture": squeeze(visible.String())} {
		rest := text
		for _, line := range lines {
			if what == "the picture" {
				line = squeeze(line)
			}
			_, after, found := strings.Cut(rest, line)
			if !found {
				t.Errorf("%s lacks %q at this place:\n%s", what, line, text)
				break
			}
			rest = after
		}
	}
}

// TestCommitted checks the picture in the repository.
func TestCommitted(t *testing.T) {
	svg, err := os.ReadFile("../../docs/run.svg")
	if err != nil {
		t.Fatal(err)
	}
	check(t, svg, outcome...)
}

// TestPicture makes a picture. It tries up to three times, since gossip
// sometimes misses a node in so small a cluster.
func TestPicture(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a cluster")
	}
	for tries := 1; ; tries++ {
		output := filepath.Join(t.TempDir(), "run.svg")
		if err := picture(t.Context(), "../..", output); err != nil {
			t.Fatal(err)
		}
		svg, err := os.ReadFile(output)
		if err != nil {
			t.Fatal(err)
		}
		if tries == 3 || strings.Contains(string(svg), "4 / 4 node(s)") {
			check(t, svg, outcome...)
			return
		}
	}
}

// recorded returns the frames of a 20 by 5 terminal for outputs 100
// milliseconds apart.
func recorded(output ...string) []frame {
	r := newRecorder(20, 5)
	for i, o := range output {
		r.write(time.Duration(i)*100*time.Millisecond, []byte(o))
	}
	return r.frames
}

func TestDraw(t *testing.T) {
	frames := recorded("$ ", "l", "s\r\n", "\x1b[31mred <&>\x1b[m plain\r\n", "50%", "", "\r\x1b[K\x1b[7mdone\x1b[m", "\x1b[?25l")
	if len(frames) != 7 { // empty output makes no frame
		t.Errorf("%d frames, want 7", len(frames))
	}
	svg := draw(frames, "a <title>")
	check(t, svg, "$ ls\n", "red <&> plain\n", "done")
	if second := draw(frames, "a <title>"); !bytes.Equal(svg, second) {
		t.Error("a second drawing differs")
	}
	for _, want := range []string{
		"<title id=\"title\">a &lt;title&gt;</title>",
		`height="107"`, // only three lines are used
		"animation:12.7s step-end infinite",
		`>$</text>`, // always visible, so without a class
		`class="z k0">l</text>`,
		".k0{animation-name:k0}@keyframes k0{0%{opacity:0}0.787%{opacity:1}}", // visible to the end
		`class="a k3">50%</text>`, // replaced by "done"
		"@keyframes k3{0%{opacity:0}3.150%{opacity:1}4.724%{opacity:0}}",                       // hidden before the end
		`textLength="58.8" lengthAdjust="spacingAndGlyphs" class="z k2 s0">red &lt;&amp;&gt;<`, // one run, including the space
		".s0{fill:" + palette[1] + ";}",
		".s1{fill:" + background + ";}", // "done", in reverse
		`fill="` + foreground + `" class="z k4"/>`,
		"5.512%{transform:translate(33.6px,38px);opacity:0}}", // the cursor is hidden at the end
		"prefers-reduced-motion",
	} {
		if !bytes.Contains(svg, []byte(want)) {
			t.Errorf("the SVG lacks %s", want)
		}
	}
	if t.Failed() {
		t.Logf("%s", svg)
	}
}

// TestScroll writes more lines than the terminal has.
func TestScroll(t *testing.T) {
	frames := recorded("1\r\n2\r\n3\r\n4\r\n5", "\r\n6\r\n7")
	if got := frames[len(frames)-1].screen.text(); got != "3\n4\n5\n6\n7" {
		t.Errorf("the screen has %q, want the last five lines", got)
	}
	check(t, draw(frames, "scrolled"), "3\n4\n5\n6\n7")
}

// TestBlend makes a change too soon after another for a frame of its own.
func TestBlend(t *testing.T) {
	r := newRecorder(20, 5)
	r.write(0, []byte("$ "))
	r.write(time.Second, []byte("half"))
	r.write(time.Second+blend/2, []byte("\r\x1b[Kwhole"))
	if len(r.frames) != 2 || r.frames[1].at != time.Second || r.frames[1].screen.text() != "whole" {
		t.Errorf("frames are %v, want two; the second at 1s with \"whole\"", r.frames)
	}
}

func TestRecord(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("record needs a Unix pseudo-terminal")
	}
	t.Setenv("CONSUL_HTTP_TOKEN", "secret")
	bin := t.TempDir()
	if err := os.WriteFile(filepath.Join(bin, "tool"), []byte("#!/bin/sh\nexit 7\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	frames, err := record(t.Context(), shell(bin, t.TempDir(), "WHERE=here"), 60, 10,
		[]string{"tool", `echo $? $WHERE "${CONSUL_HTTP_TOKEN-none}"`})
	if err != nil {
		t.Fatal(err)
	}
	want := "$ tool\n$ echo $? $WHERE \"${CONSUL_HTTP_TOKEN-none}\"\n7 here none\n$"
	if got := frames[len(frames)-1].screen.text(); got != want {
		t.Errorf("the terminal shows\n%s\nwant\n%s", got, want)
	}
	if got := frames[0].screen.text(); got != "$" || frames[0].at != 0 {
		t.Errorf("the first frame is %q at %v, want a prompt at 0", got, frames[0].at)
	}
	if len(frames) < len("tool") {
		t.Errorf("%d frames, want at least one for each key", len(frames))
	}
}

// TestRecordStops cancels a recording, and ends the shell of another.
func TestRecordStops(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("record needs a Unix pseudo-terminal")
	}
	errTimeout := errors.New("test timeout")
	ctx, cancel := context.WithTimeoutCause(t.Context(), 2*time.Second, errTimeout)
	defer cancel()
	if _, err := record(ctx, shell("", t.TempDir()), 60, 10, []string{"sleep 60"}); !errors.Is(err, errTimeout) {
		t.Errorf("cancelled: error %v, want its cause", err)
	}
	if _, err := record(t.Context(), shell("", t.TempDir()), 60, 10, []string{"exit"}); err == nil {
		t.Error("the shell ended: no error")
	}
}

func TestBackup(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("Windows has no gzip")
	}
	for _, damaged := range []bool{false, true} {
		var backup bytes.Buffer
		if err := writeBackup(t.Context(), &backup, 1, damaged); err != nil {
			t.Fatal(err)
		}
		gzip := exec.CommandContext(t.Context(), "gzip", "-t")
		gzip.Stdin = &backup
		output, err := gzip.CombinedOutput()
		if (err != nil) != damaged || damaged != bytes.Contains(output, []byte("unexpected end of file")) {
			t.Errorf("damaged %v: error %v, output %s", damaged, err, output)
		}
	}
}
