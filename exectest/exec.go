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

// RunCommand is the [Handler] that runs the job on this machine, as an agent does: Args without a shell; otherwise Script,
// by way of a temporary file, or Command, with $SHELL or /bin/sh, on Windows with $SHELL or cmd. It returns 255 when the
// command does not start and -1 when a signal ends it, and waits until all that the command started have closed their
// output.
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
	// The process is waited for when its output has ended, so that its ID, which is the group's, stays taken until then.
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

// command returns what to execute, and a function that removes what it needed.
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

// writeScript writes an executable file. No process may start meanwhile: it would inherit the open file for a moment, and a
// file that is open for writing cannot be executed.
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

// keepGroup remembers the process group of a command that has ended, if processes of it are left, for Close to kill.
func (s *Server) keepGroup(pid int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.groups = slices.DeleteFunc(append(s.groups, pid), func(pid int) bool { return !groupAlive(pid) })
}

// killGroups kills what commands that have ended left running.
func (s *Server) killGroups() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, pid := range s.groups {
		killGroup(pid)
	}
	s.groups = nil
}
