package devcluster

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"time"
)

const (
	// dirPrefix begins the name of every cluster's directory.
	dirPrefix = "consulexec-devcluster-"

	// lockSuffix is appended to a directory's name for its lock file. The file
	// lies beside the directory, so that the lock is held while the directory
	// is removed.
	lockSuffix = ".lock"
)

// makeDir creates and locks a cluster's directory. The lock protects it from
// sweep.
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

// removeDir removes the directory, then unlocks and removes its lock file.
func removeDir(dir string, lock *fileLock) error {
	err := os.RemoveAll(dir)
	lock.unlock()
	return errors.Join(err, os.Remove(dir+lockSuffix))
}

// sweep cleans up after programs that died before they closed their clusters:
// it kills their commands and removes their directories. It ignores errors,
// since a later sweep tries again.
func sweep(parent string) {
	entries, err := os.ReadDir(parent)
	if err != nil {
		return
	}
	for _, e := range entries {
		// A new directory may not be locked yet.
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
