package devcluster

import (
	"context"
	"errors"
	"os"
	"time"
)

// errLocked reports that another holder has the lock.
var errLocked = errors.New("locked")

// fileLock is a lock between processes. The system releases it when its holder dies, so none is ever left behind.
type fileLock struct{ file *os.File }

func (l *fileLock) unlock() { l.file.Close() }

// lock waits for the lock on the file, which it creates if need be. wait is called once if the lock is not free.
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
