package main

import (
	"context"
	"fmt"
	"io"
	"testing"

	"github.com/consulexec/consulexec/exectest"
)

// hasRuns returns a condition: the list of runs has this many.
func hasRuns(n int) string {
	return fmt.Sprintf(`document.getElementById("runs").rows.length === %d`, n)
}

// TestPageSelection types what may and may not mean all nodes.
func TestPageSelection(t *testing.T) {
	b := startBrowser(t)
	s := start(t, exectest.Node("a", exectest.Run(exectest.Answer("", 0))), exectest.Node("b", exectest.Run(exectest.Answer("", 0))))
	b.open(s.web.URL + "/")
	b.wait(focus("command"))
	b.write("anything")
	b.tab()
	b.tab()
	for _, names := range []string{",", " , ", "a,,b", ",a", "a,"} {
		b.eval(`document.getElementById("nodes").select()`, nil)
		b.write(names)
		b.enter()
		b.wait(text("error", "is empty") + ` && !document.getElementById("run").disabled`)
		b.eval(`document.getElementById("error").textContent = ""`, nil)
	}
	b.eval(`document.getElementById("nodes").value = "  "`, nil)
	b.enter()
	b.wait(`document.getElementById("ask").open && ` + text("ask-nodes", "On all nodes, now 2.") + " && " + text("ask-command", "anything"))
	b.enter() // answers nothing
	b.press("Escape", 27, "")
	b.wait(`!document.getElementById("ask").open && !document.getElementById("run").disabled`)
	b.enter()
	b.wait(`document.getElementById("ask").open`)
	b.tab()
	b.tab()
	b.wait(focus("no"))
	b.enter()
	b.wait(`!document.getElementById("ask").open && !document.getElementById("run").disabled`)
	for _, node := range []string{"a", "b"} {
		if n := s.cluster.Executions(node); n > 0 {
			t.Errorf("%s ran %d commands", node, n)
		}
	}
	b.eval(`document.getElementById("nodes").focus()`, nil)
	b.enterAll()
	b.wait(hasRow("a", "exited", "0", "") + " && " + hasRow("b", "exited", "0", ""))
	b.checkPage(s.web.URL)
}

// TestPageTwice presses Enter more than once: before the answer, during the run,
// and soon after its end. Later it is another run.
func TestPageTwice(t *testing.T) {
	b := startBrowser(t)
	goOn := make(chan struct{})
	s := start(t, exectest.Node("a", exectest.Run(func(ctx context.Context, _ *exectest.Job) int {
		select {
		case <-goOn:
		case <-ctx.Done():
		}
		return 0
	})))
	b.open(s.web.URL + "/")
	b.wait(focus("command"))
	b.write("anything")
	b.tab()
	b.tab()
	b.write("a")
	b.enter()
	b.enter()
	b.wait(hasRow("a", "running", "", ""))
	b.enter()
	b.eval(`new Promise((resolve) => setTimeout(resolve, 1100))`, nil) // more than repeatTime
	b.enter()
	b.wait(text("error", "under way already") + " && " + hasRuns(1))
	close(goOn)
	b.wait(hasRow("a", "exited", "0", ""))
	b.enter()
	b.wait(`!document.getElementById("run").disabled`)
	b.eval(`new Promise((resolve) => setTimeout(resolve, 1100))`, nil)
	if n := s.cluster.Executions("a"); n != 1 {
		t.Errorf("a ran %d commands, want 1", n)
	}
	b.enter()
	b.wait(hasRuns(2))
	b.wait(hasRow("a", "exited", "0", ""))
	if n := s.cluster.Executions("a"); n != 2 {
		t.Errorf("a ran %d commands, want 2", n)
	}
	b.checkPage(s.web.URL)
}

// TestPageLostAnswer cuts the answer to a POST. The next try gets the same run.
func TestPageLostAnswer(t *testing.T) {
	b := startBrowser(t)
	s := start(t, exectest.Node("a", exectest.Run(exectest.Answer("", 0))))
	b.open(s.web.URL + "/")
	b.wait(focus("command"))
	b.eval(`(() => {
		const real = window.fetch;
		window.fetch = async (path, options) => {
			const answer = await real(path, options);
			if (options?.method === "POST" && !window.lost) { window.lost = true; throw new TypeError("cut"); }
			return answer;
		};
	})()`, nil)
	b.write("anything")
	b.tab()
	b.tab()
	b.write("a")
	b.enter()
	b.wait(text("error", "does not answer: cut"))
	b.eval(`new Promise((resolve) => setTimeout(resolve, 1100))`, nil) // more than repeatTime
	b.enter()
	b.wait(hasRow("a", "exited", "0", ""))
	if n := s.cluster.Executions("a"); n != 1 {
		t.Errorf("a ran %d commands, want 1", n)
	}
}

// TestPageRuns has two runs, types a third command, and goes from one to the
// other. The status says what was run, not what stands in the form.
func TestPageRuns(t *testing.T) {
	b := startBrowser(t)
	goOn := make(chan struct{})
	s := start(t, exectest.Node("a", exectest.Run(func(ctx context.Context, j *exectest.Job) int {
		if j.Command == "second" {
			select {
			case <-goOn:
			case <-ctx.Done():
			}
		}
		io.WriteString(j.Output, j.Command)
		return 0
	})))
	first := begin(t, s.web.URL, order{Command: "first"})
	read(t, first, "").until("end")
	b.open(s.web.URL + "/")
	b.wait(hasRuns(1))
	b.write("second")
	b.tab()
	b.tab()
	b.write("a")
	b.eval(`document.getElementById("form").requestSubmit(); document.getElementById("command").value = "third"`, nil)
	b.wait(text("status", "Running: second"))
	close(goOn)
	b.wait(text("status", "Ended: second\n") + ` && document.getElementById("command").value === "third"`)
	b.wait(hasRuns(2) + " && " + text("runs-summary", "Runs: 0 under way, 2 ended lately"))
	var rows []string
	b.eval(`[...document.getElementById("runs").rows].map((row) => [...row.cells].slice(0, 3).map((cell) => cell.textContent).join("|") + row.getAttribute("aria-current"))`, &rows)
	if got, want := fmt.Sprint(rows), "[second|a|succeeded: 1 succeededtrue first|all nodes|succeeded: 1 succeededfalse]"; got != want {
		t.Errorf("the list: %s, want %s", got, want)
	}
	b.eval(`document.querySelectorAll("#runs a")[1].click()`, nil)
	b.wait(text("status", "Ended: first\n") + ` && document.getElementById("command").value === "first" && ` + hasRow("a", "exited", "0", "first"))
	b.checkPage(s.web.URL)
}
