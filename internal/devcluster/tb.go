package devcluster

import "context"

// TB is what [Start] needs of a *testing.T or *testing.B, so that a program that starts a cluster does not link the
// testing package.
type TB interface {
	Helper()
	Context() context.Context
	Cleanup(func())
	Failed() bool
	Logf(format string, args ...any)
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
}

// Start is [New] for a test. An error fails the test at once. The cluster is closed when the test ends; when it has
// failed, the agents' last log lines are logged before.
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
