package devcluster

import (
	"errors"
	"os"
	"syscall"
)

// tryLock locks the file, or returns errLocked. It opens the file without
// sharing, so no one else can open the file until it is closed.
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
