package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"testing"
)

// browserNames are the names and paths of Chromium and Chrome. Those without a
// window come first, as they are the smallest.
var browserNames = []string{
	"chromium-headless-shell", "chrome-headless-shell", "chromium", "chromium-browser", "google-chrome", "google-chrome-stable",
	"/Applications/Google Chrome.app/Contents/MacOS/Google Chrome", "/Applications/Chromium.app/Contents/MacOS/Chromium",
}

// findBrowser returns the path in $CHROMIUM, which .ci/run sets, or else the
// path of an installed Chromium. If there is none, it skips the test.
func findBrowser(t *testing.T) string {
	t.Helper()
	if testing.Short() {
		t.Skip("-short leaves the browser out")
	}
	if runtime.GOOS == "windows" {
		t.Skip("os/exec can't pass pipes to a process on Windows")
	}
	if path := os.Getenv("CHROMIUM"); path != "" {
		return path
	}
	for _, name := range browserNames {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	t.Skip("no Chromium on the PATH, and CHROMIUM is not set")
	return ""
}

// A browser is a headless Chromium with one page. The test drives it by the
// DevTools protocol over two pipes: JSON messages, each followed by a zero
// byte.
type browser struct {
	t       *testing.T
	in      *os.File
	out     *bufio.Reader
	session string // of the page
	calls   int
	events  []devtoolsMessage // those that the page has sent so far
}

// A devtoolsMessage is the answer to a call, or an event.
type devtoolsMessage struct {
	ID     int             `json:"id"`
	Result json.RawMessage `json:"result"`
	Error  *struct {
		Message string `json:"message"`
	} `json:"error"`
	Method string          `json:"method"`
	Params json.RawMessage `json:"params"`
}

// startBrowser starts a browser that ends with the test.
func startBrowser(t *testing.T) *browser {
	t.Helper()
	path := findBrowser(t)
	browserIn, in, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	out, browserOut, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	// Chromium's sandbox does not work as root or in many containers. The page
	// is ours, so it is safe to do without.
	command := exec.Command(path, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
		"--no-first-run", "--disable-background-networking", "--remote-debugging-pipe", "--user-data-dir="+t.TempDir())
	var log bytes.Buffer
	command.Stderr = &log                                  // shared by all its processes: Wait waits for the last one
	command.ExtraFiles = []*os.File{browserIn, browserOut} // file descriptors 3 and 4
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	browserIn.Close()
	browserOut.Close()
	b := &browser{t: t, in: in, out: bufio.NewReader(out)}
	t.Cleanup(func() {
		in.Close() // ends the browser, as does the death of this process
		io.Copy(io.Discard, b.out)
		out.Close()
		if err := command.Wait(); err != nil {
			t.Errorf("%v\n%s", err, &log)
		}
	})
	var target struct{ TargetID, SessionID string }
	b.call("Target.createTarget", map[string]any{"url": "about:blank"}, &target)
	b.call("Target.attachToTarget", map[string]any{"targetId": target.TargetID, "flatten": true}, &target)
	b.session = target.SessionID
	for _, domain := range []string{"Page", "Runtime", "Network", "Log"} {
		b.call(domain+".enable", nil, nil)
	}
	return b
}

// call calls a method and decodes its result into result, if that is not nil.
func (b *browser) call(method string, params map[string]any, result any) {
	b.t.Helper()
	b.calls++
	call := map[string]any{"id": b.calls, "method": method}
	if params != nil {
		call["params"] = params
	}
	if b.session != "" {
		call["sessionId"] = b.session
	}
	data, err := json.Marshal(call)
	if err != nil {
		b.t.Fatal(err)
	}
	if _, err := b.in.Write(append(data, 0)); err != nil {
		b.t.Fatalf("%s: %v", method, err)
	}
	for {
		data, err := b.out.ReadBytes(0)
		if err != nil {
			b.t.Fatalf("%s: %v", method, err)
		}
		var m devtoolsMessage
		if err := json.Unmarshal(data[:len(data)-1], &m); err != nil {
			b.t.Fatalf("%s: %v", method, err)
		}
		switch {
		case m.Method != "":
			b.events = append(b.events, m)
		case m.ID != b.calls:
		case m.Error != nil:
			b.t.Fatalf("%s: %s", method, m.Error.Message)
		default:
			if result != nil {
				if err := json.Unmarshal(m.Result, result); err != nil {
					b.t.Fatalf("%s: %v", method, err)
				}
			}
			return
		}
	}
}

// eval evaluates JavaScript in the page, awaits the result and decodes it into
// value, if that is not nil.
func (b *browser) eval(expression string, value any) {
	b.t.Helper()
	var answer struct {
		Result           struct{ Value json.RawMessage }
		ExceptionDetails *struct{ Exception struct{ Description string } }
	}
	b.call("Runtime.evaluate", map[string]any{"expression": expression, "awaitPromise": true, "returnByValue": true}, &answer)
	if e := answer.ExceptionDetails; e != nil {
		b.t.Fatalf("%s: %s", expression, e.Exception.Description)
	}
	if value != nil {
		if err := json.Unmarshal(answer.Result.Value, value); err != nil {
			b.t.Fatalf("%s: %v in %s", expression, err, answer.Result.Value)
		}
	}
}

// wait waits until a JavaScript condition holds. After a minute it fails the
// test and shows the page's text.
func (b *browser) wait(condition string) {
	b.t.Helper()
	var text string
	b.eval(fmt.Sprintf(`new Promise((resolve) => {
		const end = performance.now() + 60000;
		const check = () => {
			if (%s) resolve("");
			else if (performance.now() > end) resolve("the page:\n" + document.body.innerText);
			else requestAnimationFrame(check);
		};
		check();
	})`, condition), &text)
	if text != "" {
		b.t.Fatalf("still false after a minute: %s; %s", condition, text)
	}
}

// open opens an address and waits until the page has loaded.
func (b *browser) open(url string) {
	b.t.Helper()
	var answer struct{ ErrorText string }
	b.call("Page.navigate", map[string]any{"url": url}, &answer)
	if answer.ErrorText != "" {
		b.t.Fatal(answer.ErrorText)
	}
	b.eval(`new Promise((resolve) => document.readyState === "complete" ? resolve() : addEventListener("load", () => resolve()))`, nil)
}

// write types a text into the focused element.
func (b *browser) write(text string) {
	b.t.Helper()
	b.call("Input.insertText", map[string]any{"text": text}, nil)
}

// press presses a key that types text.
func (b *browser) press(key string, code int, text string) {
	b.t.Helper()
	for _, kind := range []string{"keyDown", "keyUp"} {
		params := map[string]any{"type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code}
		if kind == "keyDown" && text != "" {
			params["text"] = text
		}
		b.call("Input.dispatchKeyEvent", params, nil)
	}
}

func (b *browser) tab()   { b.t.Helper(); b.press("Tab", 9, "") }
func (b *browser) enter() { b.t.Helper(); b.press("Enter", 13, "\r") }
