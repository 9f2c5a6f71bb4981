package consulexec_test

import (
	"os"
	"testing"

	"github.com/consulexec/consulexec/internal/runtest"
)

func TestMain(m *testing.M) { os.Exit(runtest.Main(m)) }
