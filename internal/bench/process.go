package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/hashicorp/consul/api"
)

// peakInterval is how often a client's peak memory is read. The system keeps
// the peak, so only growth after the last reading is missed.
const peakInterval = 20 * time.Millisecond

// process is a client's process, with a report of each of its runs. The fields
// below ended are valid after ended is closed.
type process struct {
	cmd   *exec.Cmd
	ended chan struct{}

	stderr  bytes.Buffer
	reports []report
	peak    int64 // peak memory in bytes; 0 if unknown
	cpu     time.Duration
	started time.Time
	exited  time.Time
	failure error // of the process, or of its output
}

// startProcess starts a client that reaches Consul at addr.
func (b *bench) startProcess(client, addr string) (*process, error) {
	p := &process{ended: make(chan struct{})}
	read := func(from io.Reader) ([]report, error) { return []report{readConsulExec(b.work, from)}, nil }
	if client == consulExec {
		p.cmd = exec.Command(b.binary, consulExecArgs(b.work)...)
		p.cmd.Env = os.Environ()
	} else {
		var err error
		if p.cmd, err = b.ownCommand(client); err != nil {
			return nil, err
		}
		read = func(from io.Reader) (r []report, err error) {
			err = json.NewDecoder(from).Decode(&r)
			return r, err
		}
	}
	p.cmd.Env = append(p.cmd.Env, api.HTTPAddrEnvName+"="+addr)
	p.cmd.Stderr = &p.stderr
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.started = time.Now()
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go p.follow(stdout, read)
	return p, nil
}

// ownCommand returns a command that runs consulexec in this binary.
func (b *bench) ownCommand(client string) (*exec.Cmd, error) {
	binary, err := os.Executable()
	if err != nil {
		return nil, err
	}
	j := clientJob{Work: b.work, WithClient: client == withClient}
	if b.options.profile != "" {
		j.Profile = b.options.profile + "." + b.work.Name
	}
	encoded, err := json.Marshal(j)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(binary)
	cmd.Env = append(os.Environ(), clientEnv+"="+string(encoded))
	return cmd, nil
}

// follow reads the process's output and peak memory until the process ends.
func (p *process) follow(stdout io.Reader, read func(io.Reader) ([]report, error)) {
	defer close(p.ended)
	outputDone := make(chan struct{})
	var readErr error
	go func() {
		defer close(outputDone)
		p.reports, readErr = read(stdout)
		io.Copy(io.Discard, stdout)
	}()
	ticker := time.NewTicker(peakInterval)
	defer ticker.Stop()
	for reading := true; reading; {
		select {
		case <-outputDone:
			reading = false
		case <-ticker.C:
			if peak, ok := peakMemory(p.cmd.Process.Pid); ok {
				p.peak = peak
			}
		}
	}
	err := p.cmd.Wait()
	p.exited = time.Now()
	p.cpu = p.cmd.ProcessState.UserTime() + p.cmd.ProcessState.SystemTime()
	switch {
	case err != nil:
		p.failure = fmt.Errorf("%w: %s", err, strings.TrimSpace(p.stderr.String()))
	case readErr != nil:
		p.failure = fmt.Errorf("read the report: %w", readErr)
	}
}

// wait waits for the process or ctx to end.
func (p *process) wait(ctx context.Context) {
	select {
	case <-p.ended:
	case <-ctx.Done():
	}
}

// kill kills the process if it still runs, and waits for its end.
func (p *process) kill() {
	p.cmd.Process.Kill()
	<-p.ended
}
