package devcluster

import (
	"context"
	"errors"
	"os"
	"time"
)

// errLocked is the error if another holder has the lock.
var errLocked = errors.New("locked")

// fileLock is a lock between processes. The system releases it when the holder
// dies.
type fileLock struct{ file *os.File }

func (l *fileLock) unlock() { l.file.Close() }

// lock waits for the lock on the file and creates the file if necessary. If
// another holder has the lock, it calls wait once; wait may be nil. It returns
// the cause of ctx if ctx ends first.
func lock(ctx context.Context, name string, wait func()) (*fileLock, error) {
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	for {
		l, err := tryLock(name)
		if !errors.Is(err, errLocked) {
			return l, err
		}
		if wait != nil {
			wait()
			wait = nil
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-ticker.C:
		}
	}
}
