package main

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/consulexec/consulexec/exectest"
)

// TestPageManyNodes shows a run on 2,000 nodes, with more output than is kept.
func TestPageManyNodes(t *testing.T) {
	const nodes = 2000
	b := startBrowser(t)
	options := make([]exectest.Option, nodes)
	for i := range options {
		options[i] = exectest.Node(fmt.Sprintf("node-%04d", i), exectest.Run(exectest.Answer(strings.Repeat("\x1b[32mok\x1b[0m line of output\n", 40), i%2)))
	}
	s := start(t, options...)
	b.open(s.web.URL + "/")
	b.wait(focus("command"))
	b.write("anything")
	began := time.Now()
	b.enter()
	b.wait(text("ask-nodes", "now 2,000."))
	b.tab()
	b.enter()
	b.wait(text("summary", "Nodes: 2000 (") + " && " + text("summary", "1000 exited with 0") + " && " + text("summary", "1000 exited with 1"))
	b.wait(text("status", "Ended: anything") + " && " + text("status", "… and 990 lines more"))
	t.Logf("live: %v", time.Since(began))
	s.running.Wait()

	var address string
	b.eval("location.href", &address)
	b.open("about:blank")
	began = time.Now()
	b.open(address)
	b.wait(text("summary", "Nodes: 2000 (") + " && " + text("status", "Ended: anything"))
	t.Logf("again: %v", time.Since(began))
	var inOrder bool
	b.eval(`[...document.querySelectorAll("#rows th")].every((head, i) => head.textContent === "node-" + String(i).padStart(4, "0"))`, &inOrder)
	if !inOrder {
		t.Error("the rows are not in order")
	}
	b.wait(text("cut", "The service has dropped ") + ` && [...document.querySelectorAll("#rows pre")].every((pre) => pre.textContent.endsWith("ok line of output\n"))`)
	var longest float64
	b.eval(`new Promise((resolve) => requestAnimationFrame((one) => requestAnimationFrame((two) => resolve(two - one))))`, &longest)
	t.Logf("a frame: %.0f ms", longest)
	b.checkPage(s.web.URL)
}
