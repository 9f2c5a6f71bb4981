package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// checkFailedFile returns an error if the file of -failed-file can't be
// written at the end of the run.
func checkFailedFile(path string) error {
	if info, err := os.Lstat(path); err == nil && !info.Mode().IsRegular() {
		return fmt.Errorf("%s is not a regular file", path)
	}
	file, err := createBeside(path)
	if err != nil {
		return err
	}
	file.Close()
	return os.Remove(file.Name())
}

// createBeside creates a temporary file that can take the place of the one at
// path.
func createBeside(path string) (*os.File, error) {
	return os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
}

// writeFailedFile writes the names for -nodes-file, whole or not at all.
func writeFailedFile(path string, names []string) (err error) {
	file, err := createBeside(path)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			file.Close()
			os.Remove(file.Name())
		}
	}()
	var text strings.Builder
	for _, name := range names {
		text.WriteString(quote(name) + "\n")
	}
	if _, err := file.WriteString(text.String()); err != nil {
		return err
	}
	if info, err := os.Stat(path); err == nil {
		if err := file.Chmod(info.Mode().Perm()); err != nil {
			return err
		}
	}
	if err := file.Sync(); err != nil {
		return err
	}
	if err := file.Close(); err != nil {
		return err
	}
	return os.Rename(file.Name(), path)
}

// saveFailed writes the names of the nodes that have to be done again. An empty
// file says that all went well. So it writes none if the run was no success, no
// list of names was given, and no node can be named.
func (o outcome) saveFailed(path string, screen *screen) error {
	names := o.failed()
	if len(names) == 0 && len(o.names) == 0 && o.status() != 0 {
		screen.warn("-failed-file was not written: no node can be named")
		return nil
	}
	if err := writeFailedFile(path, names); err != nil {
		return fmt.Errorf("-failed-file: %w", err)
	}
	return nil
}
