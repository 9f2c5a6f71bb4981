package main

import (
	"bytes"
	"compress/gzip"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestMain(m *testing.M) {
	if runsAsClient() {
		clientMain()
	}
	os.Exit(m.Run())
}

// TestMeasure measures all clients with small workloads on a real server.
func TestMeasure(t *testing.T) {
	if testing.Short() {
		t.Skip("starts real Consul agents")
	}
	for _, w := range []work{
		{Name: "discovered", Nodes: 20, Chunks: 2, Size: 300, Over: 500 * time.Millisecond},
		{Name: "undiscovered", Nodes: 20, Chunks: 2, Size: 300, Over: 500 * time.Millisecond, Undiscovered: true},
	} {
		t.Run(w.Name, func(t *testing.T) {
			t.Parallel()
			o := options{clients: []string{ownClient, withClient, consulExec}, runs: 1}
			r, err := measureWork(t.Context(), w, o)
			if err != nil {
				t.Fatal(err)
			}
			for _, client := range o.clients {
				if len(r[client]) != 1 {
					t.Fatalf("%s: %d runs, want 1", client, len(r[client]))
				}
				checkMeasurement(t, client, w, r[client][0])
			}
			if rows := makeRows(w, r); len(rows) != 5 {
				t.Errorf("%d rows, want the writes alone, three clients and a ratio", len(rows))
			}
		})
	}
}

// checkMeasurement reports impossible figures.
func checkMeasurement(t *testing.T, client string, w work, m measurement) {
	t.Helper()
	for _, p := range m.problems {
		t.Errorf("%s: %s", client, p)
	}
	discoveries := int64(1)
	if w.Undiscovered && client != consulExec {
		discoveries = 0
	}
	for k, least := range [kinds]int64{listKeys: 1, readValues: 1, sessions: 2, events: 1, catalogs: discoveries, others: 1} {
		if m.requests[k] < least {
			t.Errorf("%s: %d requests of kind %q, want at least %d", client, m.requests[k], kindNames[k], least)
		}
	}
	output := int64(w.Nodes * w.Chunks * w.Size)
	switch {
	case m.writing < w.Over/2:
		t.Errorf("%s: the writes took %v, want at least %v", client, m.writing, w.Over/2)
	case m.behind <= 0 || m.behind > time.Minute || m.seen > m.behind:
		t.Errorf("%s: last exit reported %v, and run ended %v, after it was written", client, m.seen, m.behind)
	case m.clientCPU <= 0:
		t.Errorf("%s: CPU time is not positive", client)
	case m.plain < output:
		t.Errorf("%s: %d bytes before compression, but %d bytes of output", client, m.plain, output)
	case m.listed <= 0 || m.listed >= m.plain:
		t.Errorf("%s: lists have %d of %d bytes", client, m.listed, m.plain)
	case m.wire <= 0:
		t.Errorf("%s: nothing received", client)
	}
}

func TestChooseWorks(t *testing.T) {
	for _, test := range []struct {
		names    string
		override work
		want     string // the titles, or a prefix of the error
	}{
		{"1000x1", work{}, "1000 × 1 × 200 B over 2s"},
		{"3nodes,1x2560", work{Over: time.Second}, "3 real nodes, `uptime`; 1 × 2560 × 4096 B over 1s"},
		{"", work{Nodes: 7, Size: 9}, "7 × 1 × 9 B over 2s"},
		{"20000x1,custom", work{}, "20000 × 1 × 200 B over 20s, 16 writes per transaction; 100 × 1 × 200 B over 2s"},
		{"250runs", work{Nodes: 7}, "250 runs at once on 3 real nodes, `sleep 3`"},
		{"2000x2", work{}, `-work: unknown workload "2000x2"`},
		{"custom", work{Nodes: -1}, "-nodes -1: must be from"},
		{"custom", work{Life: time.Minute}, "-life 1m0s: must be from"},
	} {
		works, err := chooseWorks(test.names, test.override)
		var titles []string
		for _, w := range works {
			titles = append(titles, w.title())
		}
		got := strings.Join(titles, "; ")
		if err != nil {
			got = err.Error()
		}
		if got != test.want && (err == nil || !strings.HasPrefix(got, test.want)) {
			t.Errorf("chooseWorks(%q, %+v) = %s, want %s", test.names, test.override, got, test.want)
		}
	}
	if works, err := chooseWorks("", work{}); err != nil || len(works) != len(presets)-1 {
		t.Errorf("%d workloads, %v, want all %d but the accidents", len(works), err, len(presets))
	}
}

func TestSchedule(t *testing.T) {
	w := work{Nodes: 50, Chunks: 3, Over: 10 * time.Second, Life: 2 * time.Second}
	for i := range w.Nodes {
		times := w.schedule(i)
		first, last := times[0], times[len(times)-1]
		if len(times) != w.Chunks+2 || !slices.IsSorted(times) || first < 0 || last > w.Over || last-first > w.Life {
			t.Errorf("node %d writes at %v", i, times)
		}
	}
}

func TestAppendChunk(t *testing.T) {
	for _, size := range []int{1, 10, 200, 4096, 512 << 10} {
		w := work{Size: size}
		chunk := w.appendChunk([]byte("kept"), "sim-00007", 12)[len("kept"):]
		prefix := "sim-00007 0000012 "
		if len(chunk) != size || chunk[size-1] != '\n' || bytes.Count(chunk, []byte("\n")) != 1 {
			t.Errorf("want %d bytes: got %d, ending in %q", size, len(chunk), chunk[size-1:])
		}
		if size > len(prefix) && !bytes.HasPrefix(chunk, []byte(prefix)) {
			t.Errorf("a chunk begins with %.20q, want %q", chunk, prefix)
		}
	}
}

func TestKindOf(t *testing.T) {
	for _, test := range []struct {
		method, url string
		want        kind
	}{
		{"GET", "/v1/kv/_rexec/1/?keys=&separator=&index=7", listKeys},
		{"GET", "/v1/kv/_rexec/1/sim-00001/out?recurse", listValues},
		{"GET", "/v1/kv/_rexec/1/sim-00001/exit", readValues},
		{"PUT", "/v1/txn", readValues},
		{"PUT", "/v1/kv/_rexec/1/job?acquire=1", others},
		{"DELETE", "/v1/kv/_rexec/1?recurse", others},
		{"PUT", "/v1/session/create", sessions},
		{"PUT", "/v1/event/fire/_rexec", events},
		{"GET", "/v1/health/state/passing", catalogs},
		{"GET", "/v1/agent/self", catalogs},
	} {
		if got := kindOf(httptest.NewRequest(test.method, test.url, nil)); got != test.want {
			t.Errorf("%s %s is %q, want %q", test.method, test.url, kindNames[got], kindNames[test.want])
		}
	}
}

// TestProxyCounts checks the counts of compressed and plain bodies, and the job
// of an event.
func TestProxyCounts(t *testing.T) {
	const plain = 100_000
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body := strings.Repeat("x", plain)
		if r.Header.Get("Accept-Encoding") == "gzip" {
			w.Header().Set("Content-Encoding", "gzip")
			z := gzip.NewWriter(w)
			io.WriteString(z, body)
			z.Close()
			return
		}
		io.WriteString(w, body)
	}))
	defer srv.Close()
	p, err := newProxy(strings.TrimPrefix(srv.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()
	for _, compressed := range []bool{true, false} {
		transport := &http.Transport{DisableCompression: !compressed}
		client := &http.Client{Transport: transport}
		response, err := client.Post("http://"+p.addr+"/v1/event/fire/_rexec", "", strings.NewReader(`{"Prefix":"p","Session":"s"}`))
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(response.Body)
		response.Body.Close()
		transport.CloseIdleConnections()
		if err != nil || len(body) != plain {
			t.Fatalf("%d bytes, %v", len(body), err)
		}
		if j := <-p.jobs; j != (job{"p", "s"}) {
			t.Errorf("the job is %+v", j)
		}
		counts := p.meter.reset()
		wire := counts.wire.Load()
		if counts.plain.Load() != plain || counts.requests[events].Load() != 1 || compressed != (wire < plain) {
			t.Errorf("compressed %t: %d bytes of %d, %d requests", compressed, wire, counts.plain.Load(), counts.requests[events].Load())
		}
	}
}

func TestReadConsulExec(t *testing.T) {
	const printed = `    sim-00000: sim-00000 0000000 some words
    sim-00001: sim-00001 0000000 some words
    sim-00001:
==> sim-00001: finished with exit code 0
    sim-00000: sim-00000 0000001 some words
==> sim-00000: finished with exit code 0
2 / 2 node(s) completed / acknowledged
`
	w := work{Nodes: 2, Chunks: 2, Size: 29}
	r := readConsulExec(w, strings.NewReader(printed))
	if r.Chunks != 3 || r.Exits != 2 || len(r.Problems) != 1 || !strings.HasPrefix(r.Problems[0], "2 acks, 3 chunks, 2 exits") {
		t.Errorf("report is %+v", r)
	}
}

func TestMedian(t *testing.T) {
	value := func(m measurement) float64 { return known(float64(m.total)) }
	for _, test := range []struct {
		totals []int64
		want   string
	}{
		{nil, ""},
		{[]int64{0}, ""},
		{[]int64{3, 1, 2}, "2"},
		{[]int64{1, 0, 3}, "2"},
	} {
		var runs []measurement
		for _, n := range test.totals {
			runs = append(runs, measurement{total: n})
		}
		if got := cell(median(runs, value), integer); got != test.want {
			t.Errorf("the median of %v is %q, want %q", test.totals, got, test.want)
		}
	}
}
