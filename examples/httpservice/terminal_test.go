package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/consulexec/consulexec/exectest"
)

// TestTerminal writes output to a Screen of the page, whole and in pieces of one
// character, and looks at what it shows: text, and the styles of each part.
func TestTerminal(t *testing.T) {
	b := startBrowser(t)
	s := start(t, exectest.Node("a"))
	b.open(s.web.URL + "/")
	b.eval(`import("/terminal.js").then(({Screen}) => { window.shown = (output, size) => {
		const screen = new Screen(), place = document.createElement("pre");
		for (let i = 0; i < output.length; i += size) screen.write(output.slice(i, i + size));
		screen.show(place);
		return [...place.childNodes].filter((node) => node.textContent).map((node) => (node.className ? "<" + node.className + ">" : "|") + node.textContent).join("");
	}; })`, nil)
	for _, test := range []struct{ output, want string }{
		{"plain\ntext", "|plain\n|text"},
		{"\x1b[31mred\x1b[0m \x1b[1;32mbold\x1b[m end", "<text1>red| <bold text2>bold| end"},
		{"\x1b[91mbright\x1b[90mgrey\x1b[39m.", "<text1>bright<text7>grey|."},
		{"\x1b[41;37mon red\x1b[49mwhite", "<text7 back1>on red<text7>white"},
		{"\x1b[38;5;196mred\x1b[38;5;21mblue\x1b[38;5;240mgrey\x1b[38;5;10mgreen", "<text1>red<text4>blue<text7>grey<text2>green"},
		{"\x1b[38;2;0;200;200mcyan\x1b[48:2::250:250:0mon yellow", "<text6>cyan<text6 back3>on yellow"},
		{"\x1b[4mline\x1b[24m\x1b[7mback\x1b[27m\x1b[4:3mcurl\x1b[4:0mno", "<underline>line<inverse>back<underline>curl|no"},
		{"\x1b[31mtwo\nlines", "<text1>two|\n<text1>lines"},
		{" 10%\r 50%\r100%\nnext", "|100%\n|next"},
		{"longer\rab", "|abnger"},
		{"longer\rab\x1b[K", "|ab"},
		{"longer\x1b[2K\rab", "|ab"},
		{"line\r\nline", "|line\n|line"},
		{"spin |\b/\b-\bx", "|spin x"},
		{"\x1b]0;title\x07a\x1b]8;;http://x\x1b\\b\x1b]8;;\x1b\\", "|ab"},
		{"\x1b[2J\x1b[1;1H\x1b(B\x1b=\x1b[?25lclear", "|clear"},
		{"bell\a null\x00 del\x7f c1\u009b", "|bell␇ null␀ del␡ c1\uFFFD"},
		{"\x1b]0;never ended\nfollows", "|␛]0;never ended\n|follows"},
		{"\x1b[1;31", ""},
		{"longer\x1b[2Kx\b\b\b\b\x1b[1Kab", "|   ab x"},
		{strings.Repeat("x", 3998) + "😀", "|" + strings.Repeat("x", 3998) + "😀"},
		{strings.Repeat("😀", 3000), "|…|" + strings.Repeat("😀", 1999)},
		{strings.Repeat("line\n", 1000), "|…|ine\n" + strings.Repeat("|line\n", 799)},
		{strings.Repeat("x", 20_000) + "end", "|…|" + strings.Repeat("x", 3996) + "end"},
		{strings.Repeat("\r\x1b[32m50%\x1b[0m", 5000), "<text2>50%"},
	} {
		output, _ := json.Marshal(test.output)
		for _, size := range []int{1, 1 << 20} {
			var got string
			b.eval(fmt.Sprintf("shown(%s, %d)", output, size), &got)
			if got != test.want {
				t.Errorf("%.60q in pieces of %d: %.200q, want %.200q", test.output, size, got, test.want)
			}
		}
	}
}

// TestColours has output with each colour, and checks that it can be read in
// both colour schemes, also on a coloured background.
func TestColours(t *testing.T) {
	b := startBrowser(t)
	var output strings.Builder
	for n := range 8 {
		fmt.Fprintf(&output, "\x1b[0;%dm text \x1b[0;%dm back \x1b[0;2;%dm dim \x1b[0;7;%dm inverse \n", 30+n, 40+n, 30+n, 30+n)
	}
	s := start(t, exectest.Node("a", exectest.Run(exectest.Answer(output.String(), 0))))
	b.open(s.web.URL + "/#" + beginAll(t, s))
	b.wait(`document.querySelectorAll("#rows pre span").length === 8 * 4`)
	for _, scheme := range []string{"light", "dark"} {
		b.call("Emulation.setEmulatedMedia", map[string]any{"features": []map[string]string{{"name": "prefers-color-scheme", "value": scheme}}}, nil)
		var poor []string
		b.eval(`(() => {
			const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
			const luminance = (page, ...colours) => {
				for (const colour of [page, ...colours]) { canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1); }
				const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].map((c) => c / 255).map((c) => c <= .04045 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4);
				return .2126 * r + .7152 * g + .0722 * b;
			};
			const probe = document.body.appendChild(document.createElement("i"));
			probe.style.color = "Canvas";
			const page = getComputedStyle(probe).color;
			probe.remove();
			return [...document.querySelectorAll("#rows pre span")].map((span) => {
				const style = getComputedStyle(span);
				const text = style.color.replace(/^rgb\((.*)\)$/, "rgba($1, " + style.opacity + ")");
				const [dark, light] = [luminance(page, style.backgroundColor), luminance(page, style.backgroundColor, text)].sort((a, b) => a - b);
				return [span.className, (light + .05) / (dark + .05)];
			}).filter(([, contrast]) => !(contrast >= 4.5)).map(([name, contrast]) => name + " " + contrast.toFixed(1));
		})()`, &poor)
		if len(poor) > 0 {
			t.Errorf("%s: contrast below 4.5: %q", scheme, poor)
		}
	}
	b.checkPage(s.web.URL)
}

// beginAll starts a run on all nodes and returns its ID.
func beginAll(t *testing.T, s *service) string {
	t.Helper()
	url := begin(t, s.web.URL, order{Command: "anything"})
	return url[strings.LastIndex(url, "/")+1:]
}
