package test

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"testing"

	"github.com/consulexec/consulexec/internal/runtest"
)

func TestMain(m *testing.M) {
	// Most of the time, the tests wait for agents and commands. So more of them
	// run at once than there are processors, unless the command line has
	// -parallel. They begin in the order of their files. TestRecovery takes
	// longest, as it waits until nodes have forgotten its runs. So the name of its
	// file comes first.
	if err := flag.Set("test.parallel", fmt.Sprint(max(12, runtime.GOMAXPROCS(0)))); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	os.Exit(runtest.Main(m))
}

// needsConsul skips a test under -short. Otherwise the test runs in parallel
// with others.
func needsConsul(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("needs a real Consul, which -short leaves out")
	}
	t.Parallel()
}
