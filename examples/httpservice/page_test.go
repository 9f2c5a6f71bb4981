package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/consulexec/consulexec/exectest"
)

// row returns a JavaScript expression for the cells of a node's row, as an
// array of texts.
func row(node string) string {
	return fmt.Sprintf(`[...document.getElementById("rows").rows].map((row) => [...row.cells].map((cell) => cell.textContent)).find((cells) => cells[0] === %q)`, node)
}

// hasRow returns a condition: a node's row has exactly these texts.
func hasRow(node, state, code, output string) string {
	want, _ := json.Marshal([]string{node, state, code, output})
	return fmt.Sprintf(`JSON.stringify(%s) === JSON.stringify(%s)`, row(node), want)
}

func text(id, part string) string {
	return fmt.Sprintf(`document.getElementById(%q).textContent.includes(%q)`, id, part)
}

func focus(id string) string { return fmt.Sprintf(`document.activeElement.id === %q`, id) }

// checkPage fails the test if the page loaded something from elsewhere,
// violated its policy, or threw an exception.
func (b *browser) checkPage(base string) {
	b.t.Helper()
	b.eval("0", nil) // b.events now has everything that the page has done so far
	requests := 0
	for _, m := range b.events {
		switch m.Method {
		case "Network.requestWillBeSent":
			var p struct{ Request struct{ URL string } }
			if err := json.Unmarshal(m.Params, &p); err != nil {
				b.t.Fatal(err)
			}
			if requests++; !strings.HasPrefix(p.Request.URL, base+"/") {
				b.t.Errorf("the page loads %s", p.Request.URL)
			}
		case "Runtime.exceptionThrown":
			b.t.Errorf("%s: %s", m.Method, m.Params)
		case "Log.entryAdded":
			var p struct {
				Entry struct{ Level, Source, Text string }
			}
			if err := json.Unmarshal(m.Params, &p); err != nil {
				b.t.Fatal(err)
			}
			if p.Entry.Level == "error" && p.Entry.Source != "network" { // the network logs a status of 400 as an error
				b.t.Errorf("%s: %s", p.Entry.Source, p.Entry.Text)
			}
		}
	}
	if requests == 0 {
		b.t.Error("the browser has reported no request")
	}
}

// enterAll presses Enter in the form, and confirms that it means all nodes.
func (b *browser) enterAll() {
	b.t.Helper()
	b.enter()
	b.wait(`document.getElementById("ask").open`)
	b.tab()
	b.wait(focus("yes"))
	b.enter()
}

const hostile = `<img src=x onerror="document.title='taken'"><b>&amp;</b>`

// TestPage uses the page with the keyboard only.
func TestPage(t *testing.T) {
	b := startBrowser(t)
	goOn := make(chan struct{})
	wait := func(ctx context.Context) {
		select {
		case <-goOn:
		case <-ctx.Done():
		}
	}
	s := start(t,
		exectest.Node("web-2", exectest.Run(exectest.Answer("failed\n", 3))),
		exectest.Node("web-1", exectest.Run(func(ctx context.Context, j *exectest.Job) int {
			io.WriteString(j.Output, hostile)
			wait(ctx)
			io.WriteString(j.Output, "!")
			return 0
		})),
		exectest.Node("web-3", exectest.Run(func(ctx context.Context, j *exectest.Job) int {
			wait(ctx)
			io.WriteString(j.Output, strings.Repeat("x", 10_000)+"end")
			return 0
		})),
		exectest.Node("db-1"))

	b.open(s.web.URL + "/")
	b.wait(focus("command"))
	b.write("the command")
	b.tab()
	b.write("web-(") // not a regular expression
	b.enter()
	b.wait(text("error", `node="web-(": error parsing regexp`))
	b.eval(`document.getElementById("node").select()`, nil)
	b.write("^web-")
	b.tab()
	b.write("web-1, web-2 web-3 db-1")
	b.enter()

	// While two nodes still run the command:
	b.wait(hasRow("web-1", "running", "", hostile))
	b.wait(hasRow("web-2", "exited", "3", "failed\n"))
	b.wait(hasRow("web-3", "running", "", ""))
	b.wait(text("status", "Running: the command"))
	b.wait(text("summary", "Nodes: 3 (2 running, 1 exited with 3)") + " || " + text("summary", "Nodes: 3 (1 exited with 3, 2 running)"))
	b.wait(`document.getElementById("error").textContent === ""`)
	var names []string
	b.eval(`[...document.querySelectorAll("#rows th")].map((head) => head.textContent)`, &names)
	if got := strings.Join(names, " "); got != "web-1 web-2 web-3" {
		t.Errorf("rows: %s", got)
	}
	close(goOn)
	b.wait(hasRow("web-1", "exited", "0", hostile+"!"))
	b.wait(hasRow("web-3", "exited", "0", "…"+strings.Repeat("x", 4000-1-3)+"end"))
	b.wait(text("status", "Ended: the command\nnode web-2: exit status 3"))
	b.wait(`document.getElementById("stop").disabled`)
	b.wait(`(() => { // the end of the output is in view
		const output = [...document.querySelectorAll("#rows pre")].at(-1);
		output.scrollIntoView();
		return output.scrollHeight > 2 * output.clientHeight && Math.abs(output.firstChild.getBoundingClientRect().bottom - output.getBoundingClientRect().bottom) < 2;
	})()`)

	// A reload shows the run again, from the service's memory.
	var address string
	b.eval("location.href", &address)
	b.open("about:blank")
	b.events = nil
	b.open(address)
	b.wait(hasRow("web-1", "exited", "0", hostile+"!"))
	b.wait(hasRow("web-2", "exited", "3", "failed\n"))
	b.wait(text("status", "Ended: ") + ` && document.getElementById("command").value === "the command" && document.getElementById("node").value === "^web-"`)
	var title string
	b.eval("document.title", &title)
	if strings.Contains(title, "taken") {
		t.Error("the page treats output as HTML")
	}
	b.checkPage(s.web.URL)

	b.open(s.web.URL + "/#nobody")
	b.wait(text("error", "no longer has this run"))
}

// TestPageWords has a node that does not respond, and output that is not UTF-8.
func TestPageWords(t *testing.T) {
	b := startBrowser(t)
	s := start(t, exectest.Node("binary", exectest.Run(exectest.Answer("a\xff", 3))), exectest.Node("mute", exectest.ExecDisabled()))
	b.open(s.web.URL + "/")
	b.wait(focus("command"))
	b.write("anything")
	b.enterAll()
	b.wait(hasRow("binary", "exited", "3", "a\uFFFD"))
	b.wait(hasRow("mute", "no response", "", ""))
	b.wait(text("status", "Ended: anything\nnode binary: exit status 3"))
	b.checkPage(s.web.URL)
}

// TestPageStop stops a run.
func TestPageStop(t *testing.T) {
	b := startBrowser(t)
	s := start(t, exectest.Node("a"))
	b.open(s.web.URL + "/")
	b.wait(focus("command"))
	b.write("echo here; exec sleep 1000")
	b.enterAll()
	b.wait(hasRow("a", "running", "", "here\n"))
	b.eval(`document.getElementById("stop").focus()`, nil)
	b.enter()
	b.wait(hasRow("a", "killed", "", "here\n"))
	b.wait(text("status", "context canceled"))
	b.checkPage(s.web.URL)
	s.checkClean(t)
}

// TestPageReconnects cuts the connections of the page. It must reconnect, miss
// no event, and not show output twice.
func TestPageReconnects(t *testing.T) {
	b := startBrowser(t)
	goOn := make(chan struct{})
	s := start(t, exectest.Node("a", exectest.Run(func(ctx context.Context, j *exectest.Job) int {
		io.WriteString(j.Output, "before,")
		select {
		case <-goOn:
		case <-ctx.Done():
		}
		io.WriteString(j.Output, "after")
		return 0
	})))
	b.open(s.web.URL + "/")
	b.wait(focus("command"))
	b.write("anything")
	b.enterAll()
	b.wait(hasRow("a", "running", "", "before,"))
	s.web.CloseClientConnections()
	close(goOn)
	b.wait(text("error", "Reconnecting"))
	b.wait(hasRow("a", "exited", "0", "before,after"))
	b.wait(text("status", "Ended: anything\nThe exit code of every node is 0.") + ` && document.getElementById("error").textContent === ""`)
}

// TestPageAccessible checks what can be computed: the names of controls, the
// contrast in both colour schemes, and the width on a small screen.
func TestPageAccessible(t *testing.T) {
	b := startBrowser(t)
	s := start(t, exectest.Node("good-node", exectest.Run(exectest.Answer(strings.Repeat("long", 200), 0))), exectest.Node("bad-node", exectest.Run(exectest.Answer("bad", 1))))
	b.open(s.web.URL + "/")
	b.wait(focus("command"))
	b.write("anything")
	b.enterAll()
	b.wait(text("status", "Ended: ") + " && " + text("summary", "Nodes: 2"))

	var tree struct {
		Nodes []struct {
			Ignored    bool
			Role, Name struct{ Value string }
		}
	}
	b.call("Accessibility.getFullAXTree", nil, &tree)
	found := map[string]bool{}
	for _, n := range tree.Nodes {
		if !n.Ignored {
			found[n.Role.Value+" "+n.Name.Value] = true
		}
	}
	for _, want := range []string{
		"heading Run a command on the cluster", "textbox Command", "textbox Nodes that match", "textbox Nodes by name", "button Run", "button Stop",
		"columnheader Exit code", "rowheader good-node", "region Output of bad-node",
	} {
		if !found[want] {
			t.Errorf("%q is not in the accessibility tree", want)
		}
	}

	backgrounds := map[string]bool{}
	for _, scheme := range []string{"light", "dark"} {
		b.call("Emulation.setEmulatedMedia", map[string]any{"features": []map[string]string{{"name": "prefers-color-scheme", "value": scheme}}}, nil)
		for _, selector := range []string{"h1", "label", "small", "#status", "#rows th", "#rows .good", "#rows .bad", "#rows pre", "#summary", "#runs a", "#runs .bad"} {
			var colour struct {
				Background string
				Contrast   float64
			}
			b.eval(contrast(selector), &colour)
			if backgrounds[colour.Background] = true; colour.Contrast < 4.5 {
				t.Errorf("%s, %s: contrast %.1f on %s", scheme, selector, colour.Contrast, colour.Background)
			}
		}
	}
	if len(backgrounds) != 2 {
		t.Errorf("backgrounds: %v", backgrounds)
	}

	b.call("Emulation.setDeviceMetricsOverride", map[string]any{"width": 360, "height": 640, "deviceScaleFactor": 1, "mobile": true}, nil)
	var widths []int
	b.eval("[document.documentElement.scrollWidth, innerWidth]", &widths)
	if widths[0] > 360 {
		t.Errorf("the page is %d wide on a screen of 360", widths[0])
	}
	b.checkPage(s.web.URL)
}

// contrast returns an expression for the contrast between an element's text and
// the page's background, as WCAG 2 defines it.
func contrast(selector string) string {
	return fmt.Sprintf(`(() => {
		const canvas = document.createElement("canvas").getContext("2d");
		const pixel = (colour) => { canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1); return canvas.getImageData(0, 0, 1, 1).data; };
		const luminance = (colour) => {
			const [r, g, b] = [...pixel(colour)].map((c) => c / 255).map((c) => c <= .04045 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4);
			return .2126 * r + .7152 * g + .0722 * b;
		};
		const probe = document.body.appendChild(document.createElement("i"));
		probe.style.color = "Canvas"; // the policy allows styles set through the DOM
		const background = getComputedStyle(probe).color;
		probe.remove();
		const [dark, light] = [getComputedStyle(document.querySelector(%q)).color, background].map(luminance).sort((a, b) => a - b);
		return {background, contrast: (light + .05) / (dark + .05)};
	})()`, selector)
}
