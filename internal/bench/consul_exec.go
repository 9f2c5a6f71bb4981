package main

import (
	"bufio"
	"io"
	"strconv"
	"strings"
	"time"
)

// consulExecArgs returns the arguments of `consul exec` for the work.
func consulExecArgs(w work) []string {
	if w.Real {
		return []string{"exec", w.command()}
	}
	return []string{"exec", "-node", "^" + simNodes, w.command()}
}

// readConsulExec reads the output of `consul exec` to its end and returns a
// report. It does not check the order of output and exit, which `consul exec`
// gets wrong by design. It cannot check acks, since `consul exec` prints none.
func readConsulExec(w work, from io.Reader) report {
	c := newChecker(w)
	scanConsulExec(from, func(name, text string) {
		if w.Real {
			c.Chunks++
			c.realOutput(name, text)
		} else {
			c.lineChunk(name, text)
		}
	}, func(name, status string) {
		c.Exits++
		c.LastExit = time.Now()
		if status != "0" {
			c.problem("%s: exit %s", name, status)
		}
	})
	c.Acks = c.Exits
	c.check()
	return c.report
}

// scanConsulExec reads the output of `consul exec` to its end. It calls output
// for each line of a node that is not empty, and exit for each node's status.
func scanConsulExec(from io.Reader, output, exit func(node, text string)) {
	lines := bufio.NewScanner(from)
	lines.Buffer(nil, 2<<20) // a chunk is one line
	for lines.Scan() {
		target, text, ok := strings.Cut(lines.Text(), ": ")
		node := strings.TrimLeft(target, " =>")
		switch status, exited := strings.CutPrefix(text, "finished with exit code "); {
		case exited:
			exit(node, status)
		case ok && strings.TrimSpace(text) != "":
			output(node, text)
		}
	}
}

// lineChunk records a line of a virtual node's output.
func (c *checker) lineChunk(name, text string) {
	number, isChunk := strings.CutPrefix(text, name+" ")
	if !isChunk {
		return
	}
	n := c.node(name)
	number, _, _ = strings.Cut(number, " ")
	if i, err := strconv.Atoi(number); err != nil || i != n.chunks {
		c.problem("%s: wrong chunk %d: %.40q", name, n.chunks, text)
	}
	n.chunks++
	c.Chunks++
}
