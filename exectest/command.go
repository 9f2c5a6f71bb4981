package exectest

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"slices"
	"syscall"
)

// RunCommand is the [Handler] that runs the job on this machine, as an agent
// does. It runs Args without a shell. Without Args, a shell runs Script from a
// temporary file, or else Command. The shell is $SHELL, by default /bin/sh, on
// Windows cmd. RunCommand returns the exit status: 255 if the command cannot
// start, -1 if a signal ended it. It waits until every process with the
// command's output has closed it. When ctx ends, it kills the command with its
// process group.
func RunCommand(ctx context.Context, j *Job) int {
	cmd, remove, err := command(j)
	if err != nil {
		return 255
	}
	defer remove()
	r, w, err := os.Pipe()
	if err != nil {
		return 255
	}
	defer r.Close()
	cmd.Stdout, cmd.Stderr = w, w
	ownGroup(cmd)
	err = cmd.Start()
	w.Close()
	if err != nil {
		return 255
	}
	// Wait only after the output ends: until then the process ID, which is also
	// the group's, cannot be reused.
	killed := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(killed)
		killGroup(cmd.Process.Pid)
		r.Close()
	})
	io.Copy(j.Output, r)
	err = cmd.Wait()
	if stop() {
		j.agent.srv.keepGroup(cmd.Process.Pid)
	} else {
		<-killed
	}
	if err != nil && cmd.ProcessState == nil {
		return 1
	}
	return cmd.ProcessState.ExitCode()
}

// command returns the command to run, and a function that removes its script
// file.
func command(j *Job) (cmd *exec.Cmd, remove func(), err error) {
	switch {
	case len(j.Args) > 0:
		return exec.Command(j.Args[0], j.Args[1:]...), func() {}, nil
	case len(j.Script) > 0:
		name, err := writeScript(j.Script)
		if err != nil {
			return nil, nil, err
		}
		return shell(name), func() { os.Remove(name) }, nil
	default:
		return shell(j.Command), func() {}, nil
	}
}

// writeScript writes an executable file. ForkLock keeps other processes from
// starting meanwhile: they would inherit the file, and a file that is open for
// writing cannot be executed.
func writeScript(script []byte) (name string, err error) {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	f, err := os.CreateTemp("", "rexec")
	if err != nil {
		return "", err
	}
	_, err = f.Write(script)
	err = errors.Join(err, f.Chmod(0o750), f.Close())
	if err != nil {
		os.Remove(f.Name())
	}
	return f.Name(), err
}

// keepGroup records the process group of an ended command if it still has
// processes. Close kills them.
func (s *Server) keepGroup(pid int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.groups = slices.DeleteFunc(append(s.groups, pid), func(pid int) bool { return !groupAlive(pid) })
}

// killGroups kills the processes left by ended commands.
func (s *Server) killGroups() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, pid := range s.groups {
		killGroup(pid)
	}
	s.groups = nil
}
