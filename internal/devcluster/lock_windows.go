package devcluster

import (
	"errors"
	"os"
	"syscall"
)

// tryLock takes the lock on the file, or returns errLocked. The file is opened without sharing it: nobody else can open it
// until it is closed.
func tryLock(name string) (*fileLock, error) {
	const errorSharingViolation = syscall.Errno(32)
	path, err := syscall.UTF16PtrFromString(name)
	if err != nil {
		return nil, err
	}
	h, err := syscall.CreateFile(path, syscall.GENERIC_READ|syscall.GENERIC_WRITE, 0, nil, syscall.OPEN_ALWAYS, syscall.FILE_ATTRIBUTE_NORMAL, 0)
	if err != nil {
		if errors.Is(err, errorSharingViolation) {
			return nil, errLocked
		}
		return nil, &os.PathError{Op: "lock", Path: name, Err: err}
	}
	return &fileLock{os.NewFile(uintptr(h), name)}, nil
}
