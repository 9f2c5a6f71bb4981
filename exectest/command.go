package exectest

import (
	"context"
	"errors"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"syscall"

	"github.com/consulexec/consulexec/internal/runner"
)

// RunCommand is the [Handler] that runs the job on this machine, as an agent
// does. If Script is not empty, it first writes Script to an executable file
// rexec<digits>, which it removes after the command's end. It runs Args without
// a shell. Without Args, a shell runs the script's file, or else Command. The
// shell is $SHELL, by default /bin/sh, on Windows cmd. RunCommand returns the
// exit status: 255 if the command cannot start, -1 if a signal ended it. It
// waits until every process with the command's output has closed it.
//
// Each node has a temporary directory of its own. TMPDIR names it in the
// command's environment, and the script's file is in it. [Server.Close] removes
// it.
//
// When ctx ends, RunCommand kills the command. On Unix it also kills the
// command's process group and all descendants of the group's processes, on
// Windows all descendants of the command. Processes of other commands stay
// alive. So does a daemon: a process that left the group and whose parent has
// ended. When the server closes, it also kills the rest of the groups of
// earlier commands. On Linux it then kills every process that started with the
// TMPDIR or the EXECTEST_NODE of one of its nodes. The command has both.
func RunCommand(ctx context.Context, j *Job) int {
	if j.guard != nil {
		j.guard.stepOut()
	}
	s := j.agent.srv
	dir, err := s.beginCommand(j.agent.node)
	if err != nil {
		return 255
	}
	defer s.wg.Done()
	cmd, remove, err := command(j, dir)
	if err != nil {
		return 255
	}
	defer remove()
	cmd.Env = append(os.Environ(), "TMPDIR="+dir, "EXECTEST_NODE="+dir)
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
	pid := cmd.Process.Pid
	s.addGroup(pid)
	// Wait only after the output ends: until then the process ID, which is also
	// the group's, cannot be reused.
	killed := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(killed)
		s.killGroup(pid)
		r.Close()
	})
	io.Copy(j.Output, r)
	err = cmd.Wait()
	if !stop() {
		<-killed
	}
	s.endGroup(pid)
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
	job := runner.Job{Command: j.Command, Args: j.Args, Script: j.Script}
	if j.guard != nil {
		job = j.raw
	}
	script, remove := "", func() {}
	if len(job.Script) > 0 {
		if script, err = writeScript(job.Script, dir); err != nil {
			return nil, nil, err
		}
		remove = func() { os.Remove(script) }
	}
	switch {
	case len(job.Args) > 0:
		return exec.Command(job.Args[0], job.Args[1:]...), remove, nil
	case script != "":
		return shell(script), remove, nil
	default:
		return shell(job.Command), remove, nil
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

// addGroup records the process group of a command that has started.
func (s *Server) addGroup(pid int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.groups[pid] = true
}

// endGroup records that a command has ended. It forgets the groups of ended
// commands that have no process left.
func (s *Server) endGroup(pid int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.groups[pid] = false
	maps.DeleteFunc(s.groups, func(pid int, running bool) bool { return !running && !groupAlive(pid) })
}

// killGroup kills a command's group, unless Close has done so with all of them.
func (s *Server) killGroup(pid int) {
	s.mu.Lock()
	running := s.groups[pid]
	s.mu.Unlock()
	if running {
		killTrees([]int{pid})
	}
}

// killGroups kills the groups of all commands, and forgets them.
func (s *Server) killGroups() {
	s.mu.Lock()
	groups := slices.Collect(maps.Keys(s.groups))
	clear(s.groups)
	s.mu.Unlock()
	killTrees(groups)
}
