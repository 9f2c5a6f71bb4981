package exectest

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"syscall"
)

// RunCommand is the [Handler] that runs the job on this machine, as an agent
// does. If Script is not empty, it first writes Script to an executable file
// rexec<digits>, which it removes after the command's end. It runs Args without
// a shell. Without Args, a shell runs the script's file, or else Command. The
// shell is $SHELL, by default /bin/sh, on Windows cmd. RunCommand returns the
// exit status: 255 if the command cannot start, -1 if a signal ended it. It
// waits until every process with the command's output has closed it. When ctx
// ends, it kills the command with its process group.
//
// Each node has a temporary directory of its own. TMPDIR names it in the
// command's environment, and the script's file is in it. [Server.Close] removes
// it.
func RunCommand(ctx context.Context, j *Job) int {
	dir, err := j.agent.srv.beginCommand(j.agent.node)
	if err != nil {
		return 255
	}
	defer j.agent.srv.wg.Done()
	cmd, remove, err := command(j, dir)
	if err != nil {
		return 255
	}
	defer remove()
	cmd.Env = append(os.Environ(), "TMPDIR="+dir)
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

// beginCommand returns the node's temporary directory and creates it if it does
// not exist yet. After that, Close waits for a call of wg.Done. After Close,
// beginCommand fails.
func (s *Server) beginCommand(n *node) (dir string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return "", http.ErrServerClosed
	}
	if s.tempDir == "" {
		if s.tempDir, err = os.MkdirTemp("", "exectest"); err != nil {
			return "", err
		}
	}
	if n.tempDir == "" {
		if n.tempDir, err = os.MkdirTemp(s.tempDir, "node"); err != nil {
			return "", err
		}
	}
	s.wg.Add(1)
	return n.tempDir, nil
}

// command returns the command to run, and a function that removes the script's
// file in dir.
func command(j *Job, dir string) (cmd *exec.Cmd, remove func(), err error) {
	script, remove := "", func() {}
	if len(j.Script) > 0 {
		if script, err = writeScript(j.Script, dir); err != nil {
			return nil, nil, err
		}
		remove = func() { os.Remove(script) }
	}
	switch {
	case len(j.Args) > 0:
		return exec.Command(j.Args[0], j.Args[1:]...), remove, nil
	case script != "":
		return shell(script), remove, nil
	default:
		return shell(j.Command), remove, nil
	}
}

// writeScript writes an executable file in dir. ForkLock keeps other processes
// from starting meanwhile: they would inherit the file, and a file that is open
// for writing cannot be executed.
func writeScript(script []byte, dir string) (name string, err error) {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	f, err := os.CreateTemp(dir, "rexec")
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
