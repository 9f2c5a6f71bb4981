package devcluster

import "context"

// TB is the part of *testing.T and *testing.B that [Start] uses. With it,
// programs that start a cluster do not link the testing package.
type TB interface {
	Helper()
	Context() context.Context
	Cleanup(func())
	Failed() bool
	Logf(format string, args ...any)
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
}

// Start calls [New] for a test and fails the test at once on an error. It
// closes the cluster when the test ends. If the test has failed, it first logs
// the agents' last log lines.
func Start(tb TB, cfg Config) *Cluster {
	tb.Helper()
	c, err := New(tb.Context(), cfg)
	if err != nil {
		tb.Fatalf("%v", err)
	}
	tb.Cleanup(func() {
		tb.Helper()
		if tb.Failed() {
			tb.Logf("the agents' last log lines:\n%s", c.Logs())
		}
		if err := c.Close(); err != nil {
			tb.Errorf("%v", err)
		}
	})
	return c
}
