package main

import (
	"net/http"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/consulexec/consulexec"
)

// metrics is what GET /metrics reports to Prometheus, since the start.
type metrics struct {
	registry *prometheus.Registry
	requests *prometheus.CounterVec
	started  prometheus.Counter
	ended    *prometheus.CounterVec
	seconds  prometheus.Histogram
	nodes    *prometheus.CounterVec
	output   prometheus.Counter
	dropped  prometheus.Counter
}

// newMetrics returns metrics that ask running for how many runs are under way,
// and streams for how many readers are connected.
func newMetrics(running, streams func() int) *metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	}
	gauge := func(name, help string, value func() int) prometheus.GaugeFunc {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 { return float64(value()) })
	}
	started := counter("consulexec_runs_started_total", "Runs that were started.")
	output := counter("consulexec_output_bytes_total", "Bytes of output of the runs that have ended.")
	dropped := counter("consulexec_output_dropped_bytes_total", "Bytes of output that the service had dropped when the run ended.")
	m := &metrics{
		registry: prometheus.NewRegistry(),
		requests: counter("consulexec_http_requests_total", "Requests, by method and status of the answer.", "method", "code"),
		started:  started.WithLabelValues(),
		ended:    counter("consulexec_runs_ended_total", "Runs that have ended, by result.", "result"),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "consulexec_run_duration_seconds", Help: "How long the runs took that have ended.",
			Buckets: []float64{.1, .3, 1, 3, 10, 30, 100, 300, 1000, 3600},
		}),
		nodes:   counter("consulexec_nodes_total", "Nodes of the runs that have ended, by outcome. The outcome exited is exit status 0.", "outcome"),
		output:  output.WithLabelValues(),
		dropped: dropped.WithLabelValues(),
	}
	m.registry.MustRegister(m.requests, started, m.ended, m.seconds, m.nodes, output, dropped,
		gauge("consulexec_runs", "Runs that are under way.", running),
		gauge("consulexec_event_readers", "Readers of events that are connected.", streams),
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// count counts an ended run.
func (m *metrics) count(r *run) {
	result := "succeeded"
	if r.result.Err() != nil {
		result = "failed"
	}
	m.ended.WithLabelValues(result).Inc()
	m.seconds.Observe(r.ended.Sub(r.started).Seconds())
	for _, n := range r.result.Nodes {
		outcome := strings.ReplaceAll(n.State.String(), " ", "_")
		if n.State == consulexec.StateExited && n.Err != nil {
			outcome = "failed"
		}
		m.nodes.WithLabelValues(outcome).Inc()
	}
	output, dropped := r.record.bytes()
	m.output.Add(float64(output))
	m.dropped.Add(float64(dropped))
}

// handler answers GET /metrics.
func (m *metrics) handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
}

// counted counts the requests to next.
func (m *metrics) counted(next http.Handler) http.Handler {
	return promhttp.InstrumentHandlerCounter(m.requests, next)
}
