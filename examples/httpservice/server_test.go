package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/consulexec/consulexec/exectest"
)

// A service is a server under test, on a cluster of exectest.
type service struct {
	*server
	cluster *exectest.Server
	web     *httptest.Server
}

// testSettings are those of the program without flags.
var testSettings = settings{maxRuns: 16}

func start(t *testing.T, options ...exectest.Option) *service {
	t.Helper()
	return startWith(t, testSettings, options...)
}

func startWith(t *testing.T, set settings, options ...exectest.Option) *service {
	t.Helper()
	s := &service{cluster: exectest.NewServer(options...)}
	s.server = newServer(s.cluster.Client(), set)
	s.web = httptest.NewServer(s.handler())
	t.Cleanup(func() {
		s.close() // first: web.Close waits for the streams of events
		s.web.Close()
		s.cluster.Close()
	})
	return s
}

// checkClean checks that the runs have left no key or session in Consul.
func (s *service) checkClean(t *testing.T) {
	t.Helper()
	if keys, sessions := s.cluster.Keys(""), s.cluster.Sessions(); len(keys)+len(sessions) > 0 {
		t.Errorf("left behind: %v %v", keys, sessions)
	}
}

// request sends a request and returns the status and body of the answer.
func request(t *testing.T, method, url, body string, header ...string) (status int, text string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		if header[i] == "Host" {
			req.Host = header[i+1]
		}
		req.Header.Set(header[i], header[i+1])
	}
	response, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	data, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(data)
}

var asJSON = []string{"Content-Type", "application/json"}

// begin starts a run and returns its URL.
func begin(t *testing.T, base string, o order) string {
	t.Helper()
	body, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	status, text := request(t, "POST", base+"/runs", string(body), asJSON...)
	var answer struct{ ID, Events string }
	if err := json.Unmarshal([]byte(text), &answer); status != http.StatusCreated || err != nil || answer.Events != "/runs/"+answer.ID+"/events" {
		t.Fatalf("status %d: %s", status, text)
	}
	return base + "/runs/" + answer.ID
}

// A received event has the fields of all messages that the tests look at.
type received struct {
	event
	Output, State string
	OutputBase64  []byte `json:"output_base64"`
	ExitCode      *int   `json:"exit_code"`
}

// A reader reads the events of a run.
type reader struct {
	t       *testing.T
	scanner *bufio.Scanner
	id      int // of the last event
	bytes   int // read so far
}

func read(t *testing.T, run string, lastEventID string) *reader {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), "GET", run+"/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	if lastEventID != "" {
		req.Header.Set("Last-Event-ID", lastEventID)
	}
	response, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	if kind := response.Header.Get("Content-Type"); response.StatusCode != http.StatusOK || kind != "text/event-stream" {
		t.Fatalf("status %d, type %s", response.StatusCode, kind)
	}
	t.Cleanup(func() { response.Body.Close() })
	return newReader(t, response.Body)
}

func newReader(t *testing.T, body io.Reader) *reader {
	scanner := bufio.NewScanner(body)
	scanner.Buffer(nil, 1<<20)
	return &reader{t: t, scanner: scanner}
}

// next returns the next event; ok is false at the end.
func (r *reader) next() (e received, ok bool) {
	r.t.Helper()
	for r.scanner.Scan() {
		line := r.scanner.Text()
		r.bytes += len(line)
		if id, ok := strings.CutPrefix(line, "id: "); ok {
			n, err := strconv.Atoi(id)
			if err != nil || n <= r.id {
				r.t.Errorf("event ID %s comes after %d", id, r.id)
			}
			r.id = n
		} else if data, ok := strings.CutPrefix(line, "data: "); ok {
			if err := json.Unmarshal([]byte(data), &e); err != nil {
				r.t.Fatal(err)
			}
			return e, true
		} else if line != "" {
			r.t.Errorf("unexpected line %q", line)
		}
	}
	if err := r.scanner.Err(); err != nil {
		r.t.Error(err)
	}
	return e, false
}

// all returns the remaining events, each as one short text.
func (r *reader) all() (list []string) {
	r.t.Helper()
	for {
		e, ok := r.next()
		if !ok {
			return list
		}
		text := strings.TrimSpace(e.Node + " " + e.Type + " " + e.Output)
		if e.ExitCode != nil {
			text += fmt.Sprint(" ", *e.ExitCode)
		}
		list = append(list, text)
	}
}

// until reads up to an event of the type, or the result of a node with that
// state, and returns it.
func (r *reader) until(kind string) received {
	r.t.Helper()
	for {
		e, ok := r.next()
		if !ok {
			r.t.Fatalf("no event %q", kind)
		}
		if e.Type == kind || e.State == kind {
			return e
		}
	}
}

func TestEvents(t *testing.T) {
	s := start(t, exectest.Node("web-1", exectest.Run(exectest.Answer("fine\n", 0))),
		exectest.Node("web-2", exectest.Run(exectest.Answer("", 3))), exectest.Node("db-1"))
	run := begin(t, s.web.URL, order{Command: "anything", Node: "^web", Nodes: []string{"web-1", "web-2", "db-1"}})
	list := read(t, run, "").all()

	of := map[string][]string{} // by node
	for _, text := range list[2 : len(list)-1] {
		node, what, _ := strings.Cut(text, " ")
		of[node] = append(of[node], what)
	}
	if list[0] != "start" || list[1] != "submit" || list[len(list)-1] != "end" || len(of) != 2 ||
		!slices.Equal(of["web-1"], []string{"ack", "output fine", "exit 0"}) || !slices.Equal(of["web-2"], []string{"ack", "exit 3"}) {
		t.Errorf("events: %q", list)
	}
	if e := read(t, run, "").until("end"); !strings.Contains(e.Error, "web-2: exit status 3") || strings.Contains(e.Error, "web-1") {
		t.Errorf("end: %q", e.Error)
	}
	if e := read(t, run, "").until("start"); e.Order == nil || e.Order.Command != "anything" || e.Order.Node != "^web" || len(e.Order.Nodes) != 3 {
		t.Errorf("start: %+v", e.Order)
	}
	if again := read(t, run, "").all(); !slices.Equal(again, list) {
		t.Errorf("a second reader gets %q, but the first got %q", again, list)
	}
	if rest := read(t, run, "5").all(); !slices.Equal(rest, list[5:]) {
		t.Errorf("a reader that has seen 5 events of %q gets %q", list, rest)
	}
	for _, id := range []string{strconv.Itoa(len(list)), "9999"} {
		if status, text := request(t, "GET", run+"/events", "", "Last-Event-ID", id); status != http.StatusNoContent || text != "" {
			t.Errorf("a reader that has seen event %s: status %d, %q", id, status, text)
		}
	}
	s.checkClean(t)
}

// TestLive has a node that waits after each line of output until the reader has
// seen that line.
func TestLive(t *testing.T) {
	seen := make(chan struct{})
	s := start(t, exectest.Node("a", exectest.Run(func(ctx context.Context, j *exectest.Job) int {
		for range 3 {
			io.WriteString(j.Output, "step\n")
			select {
			case <-seen:
			case <-ctx.Done():
			}
		}
		return 0
	})))
	r := read(t, begin(t, s.web.URL, order{Command: "steps"}), "")
	for range 3 {
		r.until("output")
		seen <- struct{}{}
	}
	r.until("end")
	if _, ok := r.next(); ok {
		t.Error("an event after the end")
	}
}

// TestQuiet connects to a run that is silent. The answer must begin at once, so
// that readers and proxies do not give up.
func TestQuiet(t *testing.T) {
	end := make(chan struct{})
	s := start(t, exectest.Node("a", exectest.Run(func(context.Context, *exectest.Job) int {
		<-end
		return 0
	})))
	t.Cleanup(func() { close(end) })
	run := begin(t, s.web.URL, order{Command: "wait"})
	r := read(t, run, "")
	r.until("ack")
	began := time.Now()
	read(t, run, strconv.Itoa(r.id))
	if took := time.Since(began); took > heartbeat/2 {
		t.Errorf("the answer began after %v", took)
	}
}

func TestCharacters(t *testing.T) {
	text := strings.Repeat("ä→😀", 2000) // agents cut it every 4096 bytes, also within a character
	s := start(t, exectest.Node("a", exectest.Run(exectest.Answer("x"+text, 0))), exectest.Node("b", exectest.Run(exectest.Answer("yes\xff\xe2\x82", 0))))
	r := read(t, begin(t, s.web.URL, order{Command: "print"}), "")
	output := map[string]string{}
	for {
		e, ok := r.next()
		if !ok {
			break
		}
		output[e.Node] += e.Output + string(e.OutputBase64)
	}
	if output["a"] != "x"+text {
		t.Error("the output of a is cut within a character, or incomplete")
	}
	if output["b"] != "yes\xff\xe2\x82" {
		t.Errorf("bytes that are not UTF-8: %q", output["b"])
	}
}

// TestStop ends a run whose command would go on.
func TestStop(t *testing.T) {
	skipOnWindows(t)
	s := start(t, exectest.Node("a"))
	run := begin(t, s.web.URL, order{Command: "echo $$; exec sleep 1000"})
	r := read(t, run, "")
	pid, err := strconv.Atoi(strings.TrimSpace(r.until("output").Output))
	if err != nil {
		t.Fatal(err)
	}
	if status, text := request(t, "DELETE", run, ""); status != http.StatusNoContent {
		t.Errorf("status %d: %s", status, text)
	}
	if alive(pid) {
		t.Error("the command still runs")
	}
	s.checkClean(t)
	if e := r.until("killed"); e.Node != "a" {
		t.Errorf("killed: %q", e.Node)
	}
	if e := r.until("end"); !strings.Contains(e.Error, "canceled") {
		t.Errorf("end: %q", e.Error)
	}
	if status, text := request(t, "DELETE", run, ""); status != http.StatusNoContent {
		t.Errorf("second DELETE: status %d: %s", status, text)
	}
}

// alive reports whether a process runs. One that has ended, but was not reaped
// yet, does not.
func alive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err == nil && strings.Contains(string(stat), ") Z ") {
		return false
	}
	p, err := os.FindProcess(pid)
	return err == nil && p.Signal(syscall.Signal(0)) == nil
}

// TestStopFails has a node on which the command can't be killed.
func TestStopFails(t *testing.T) {
	end := make(chan struct{})
	s := start(t, exectest.Node("a", exectest.Run(func(ctx context.Context, j *exectest.Job) int {
		io.WriteString(j.Output, "here\n")
		<-end
		return 0
	})))
	t.Cleanup(func() { close(end) })
	run := begin(t, s.web.URL, order{Command: "anything"})
	read(t, run, "").until("output")
	s.cluster.Kill("a")
	if status, text := request(t, "DELETE", run, ""); status != http.StatusInternalServerError || !strings.Contains(text, "may still run") || !strings.Contains(text, "node a") {
		t.Errorf("status %d: %s", status, text)
	}
	s.checkClean(t)
}

func TestCrossSite(t *testing.T) {
	s := start(t, exectest.Node("a", exectest.Run(exectest.Answer("", 0))))
	for _, header := range [][]string{
		{"Sec-Fetch-Site", "cross-site"},
		{"Sec-Fetch-Site", "same-site"},
		{"Origin", "http://evil.example"},
		{"Origin", "null"},
		{"Host", "evil.example"},
		{"Host", "evil.example:8080"},
		{"Host", "127.0.0.1.evil.example"},
	} {
		for _, r := range []struct{ method, path string }{{"POST", "/runs"}, {"DELETE", "/runs/x"}, {"GET", "/"}, {"GET", "/runs/x/events"}} {
			if header[0] != "Host" && r.method == "GET" {
				continue // a browser hides the answer from a page of another origin
			}
			if status, text := request(t, r.method, s.web.URL+r.path, `{"command": "x"}`, append(header, asJSON...)...); status != http.StatusForbidden {
				t.Errorf("%s %s with %q: status %d: %s", r.method, r.path, header, status, text)
			}
		}
	}
	s.checkNothingRan(t)

	port := s.web.URL[strings.LastIndex(s.web.URL, ":"):]
	for _, header := range [][]string{{"Sec-Fetch-Site", "same-origin"}, {"Origin", s.web.URL}, {"Host", "localhost" + port}, {"Host", "[::1]" + port}, {"Host", "127.0.0.1"}, {"Host", "[::1]"}} {
		if status, text := request(t, "POST", s.web.URL+"/runs", `{"command": "x"}`, append(header, asJSON...)...); status != http.StatusCreated {
			t.Errorf("%q: status %d: %s", header, status, text)
		}
	}
}

func TestTooMuch(t *testing.T) {
	end := make(chan struct{})
	s := start(t, exectest.Node("a", exectest.Run(func(context.Context, *exectest.Job) int {
		<-end
		return 0
	})))
	t.Cleanup(func() { close(end) })
	var run string
	for range testSettings.maxRuns {
		run = begin(t, s.web.URL, order{Command: "wait"})
	}
	w := httptest.NewRecorder()
	post := httptest.NewRequestWithContext(t.Context(), "POST", "http://localhost/runs", strings.NewReader(`{"command": "x"}`))
	post.Header.Set("Content-Type", "application/json")
	s.handler().ServeHTTP(w, post)
	if w.Code != http.StatusTooManyRequests || w.Header().Get("Retry-After") != "10" || !strings.Contains(w.Body.String(), "16 are under way") {
		t.Errorf("one run too many: status %d, header %v: %s", w.Code, w.Header(), w.Body)
	}
	for range maxStreams {
		s.streams <- struct{}{}
	}
	if status, text := request(t, "GET", run+"/events", ""); status != http.StatusTooManyRequests {
		t.Errorf("one reader too many: status %d: %s", status, text)
	}
	for range maxStreams {
		<-s.streams
	}
}

// TestTime checks the heartbeats of a long run, and how long ended runs are
// kept.
func TestTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		end := make(chan struct{})
		cluster := exectest.NewServer(exectest.Node("a", exectest.Run(func(_ context.Context, j *exectest.Job) int {
			if j.Command == "wait" {
				<-end
			}
			return 0
		})))
		defer cluster.Close()
		s := newServer(cluster.Client(), testSettings)
		defer s.close()
		handler := s.handler()
		send := func(method, path, body string) *httptest.ResponseRecorder {
			req := httptest.NewRequestWithContext(t.Context(), method, "http://localhost"+path, strings.NewReader(body))
			req.Header.Set("Content-Type", "application/json")
			w := httptest.NewRecorder()
			handler.ServeHTTP(w, req)
			return w
		}
		first := send("POST", "/runs", `{"command": "wait"}`).Header().Get("Location")
		go func() {
			time.Sleep(100 * time.Second)
			close(end)
		}()
		if events := send("GET", first+"/events", "").Body.String(); strings.Count(events, "\n: ") != 6 || !strings.Contains(events, `"type":"end"`) {
			t.Errorf("events of a run of 100 s, want 6 heartbeats:\n%s", events)
		}
		time.Sleep(keepEnded - time.Second)
		if status := send("DELETE", first, "").Code; status != http.StatusNoContent {
			t.Errorf("shortly before keepEnded: status %d", status)
		}
		time.Sleep(2 * time.Second)
		if status := send("DELETE", first, "").Code; status != http.StatusNotFound {
			t.Errorf("after keepEnded: status %d", status)
		}

		var runs []string
		for range maxEnded + 2 {
			run := send("POST", "/runs", `{"command": "x"}`).Header().Get("Location")
			send("GET", run+"/events", "") // to its end
			synctest.Wait()
			time.Sleep(time.Second)
			runs = append(runs, run)
		}
		for i, run := range runs {
			want := http.StatusNoContent
			if i < 2 {
				want = http.StatusNotFound
			}
			if status := send("DELETE", run, "").Code; status != want {
				t.Errorf("run %d of %d: status %d", i+1, len(runs), status)
			}
		}
	})
}

// A shortWriter is a reader of events that leaves after 64 KiB.
type shortWriter struct{ *httptest.ResponseRecorder }

func (w shortWriter) FlushError() error {
	if w.Body.Len() > 64<<10 {
		return io.ErrShortWrite
	}
	return nil
}

// TestStrangeEventID has readers with an ID that the run has not had. They get the
// events that follow, or all, each once, and are disconnected at the end.
func TestStrangeEventID(t *testing.T) {
	for id, want := range map[string]string{
		"9999":                 "id: 4\n",
		"99999999999999999999": "id: 4\n",
		"-9999999999999999999": "id: 1\n",
		"-1":                   "id: 1\n",
		"three":                "id: 1\n",
	} {
		synctest.Test(t, func(t *testing.T) {
			end := make(chan struct{})
			cluster := exectest.NewServer(exectest.Node("a", exectest.Run(func(context.Context, *exectest.Job) int {
				<-end
				return 0
			})))
			defer cluster.Close()
			s := newServer(cluster.Client(), testSettings)
			defer s.close()
			req := httptest.NewRequestWithContext(t.Context(), "POST", "http://localhost/runs", strings.NewReader(`{"command": "wait"}`))
			req.Header.Set("Content-Type", "application/json")
			w := httptest.NewRecorder()
			s.handler().ServeHTTP(w, req)
			time.Sleep(time.Second) // the node has acknowledged: event 3

			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			req = httptest.NewRequestWithContext(ctx, "GET", "http://localhost"+w.Header().Get("Location")+"/events", nil)
			req.Header.Set("Last-Event-ID", id)
			w = httptest.NewRecorder()
			time.AfterFunc(time.Second, func() { close(end) })
			s.handler().ServeHTTP(shortWriter{w}, req)
			if got := w.Body.String(); ctx.Err() != nil || !strings.HasPrefix(got, want) || strings.Count(got, "id: 4\n") != 1 || strings.Count(got, `"type":"end"`) != 1 {
				t.Errorf("%s: %v, %.500s", id, ctx.Err(), got)
			}
		})
	}
}

func TestPageHeaders(t *testing.T) {
	s := start(t, exectest.Node("a"))
	for _, path := range []string{"/", "/page.js", "/page.css"} {
		response, err := http.Get(s.web.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if h := response.Header; response.StatusCode != 200 || h.Get("Content-Security-Policy") != policy || h.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: %s, %v", path, response.Status, h)
		}
	}
}

// TestConsulAway takes Consul away from the running service and gives it back.
func TestConsulAway(t *testing.T) {
	for name, do := range map[string]exectest.Action{
		"refused":   exectest.Refuse,
		"no leader": exectest.Respond(http.StatusOK, `""`),
		"error":     exectest.Respond(http.StatusInternalServerError, "No known Consul servers"),
		"no answer": exectest.Hang,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cluster := exectest.NewServer(exectest.Node("a", exectest.Run(exectest.Answer("fine\n", 0))))
				defer cluster.Close()
				s := newServer(cluster.Client(), testSettings)
				defer s.close()
				handler := s.handler()
				send := func(method, path string) *httptest.ResponseRecorder {
					req := httptest.NewRequestWithContext(t.Context(), method, "http://localhost"+path, strings.NewReader(`{"command": "x"}`))
					req.Header.Set("Content-Type", "application/json")
					w := httptest.NewRecorder()
					handler.ServeHTTP(w, req)
					return w
				}
				restore := cluster.Fault(exectest.Fault{Match: exectest.Path("", "/v1/"), Do: do})
				w := send("POST", "/runs")
				if w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" || !strings.Contains(w.Body.String(), "no usable Consul agent: ") {
					t.Errorf("without Consul: status %d, header %v: %s", w.Code, w.Header(), w.Body)
				}
				if w := send("POST", "/targets"); w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" {
					t.Errorf("the targets without Consul: status %d: %s", w.Code, w.Body)
				}
				if w := send("GET", "/"); w.Code != http.StatusOK {
					t.Errorf("the page without Consul: status %d", w.Code)
				}
				if n := cluster.Executions("a"); n > 0 {
					t.Errorf("without Consul, the command ran %d times", n)
				}
				restore()
				w = send("POST", "/runs")
				if w.Code != http.StatusCreated {
					t.Fatalf("with Consul again: status %d: %s", w.Code, w.Body)
				}
				if events := send("GET", w.Header().Get("Location")+"/events").Body.String(); !strings.Contains(events, `"output":"fine\n"`) {
					t.Errorf("with Consul again: events\n%s", events)
				}
			})
		})
	}
}
