package devcluster

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"time"
)

const (
	dirPrefix = "consulexec-devcluster-"

	// lockSuffix makes a directory's name that of its lock, which lies beside it so that the directory can be removed while
	// the lock is held.
	lockSuffix = ".lock"
)

// makeDir makes the directory of a cluster and locks it, so that sweep leaves it alone.
func makeDir(parent string) (string, *fileLock, error) {
	dir, err := os.MkdirTemp(parent, dirPrefix)
	if err != nil {
		return "", nil, err
	}
	lock, err := tryLock(dir + lockSuffix)
	if err != nil {
		return "", nil, errors.Join(err, os.RemoveAll(dir))
	}
	return dir, lock, nil
}

// removeDir removes the directory and its lock, which it unlocks.
func removeDir(dir string, lock *fileLock) error {
	err := os.RemoveAll(dir)
	lock.unlock()
	return errors.Join(err, os.Remove(dir+lockSuffix))
}

// sweep removes the directories of clusters whose process has died before it could close them, and ends the commands that
// their agents have left. It is a courtesy: what fails is left for the next time.
func sweep(parent string) {
	entries, err := os.ReadDir(parent)
	if err != nil {
		return
	}
	for _, e := range entries {
		// A directory that was made just now may not be locked yet.
		info, err := e.Info()
		if err != nil || !e.IsDir() || !strings.HasPrefix(e.Name(), dirPrefix) || time.Since(info.ModTime()) < time.Minute {
			continue
		}
		dir := filepath.Join(parent, e.Name())
		lock, err := tryLock(dir + lockSuffix)
		if err != nil {
			continue
		}
		killProcesses(dir)
		removeDir(dir, lock)
	}
}
