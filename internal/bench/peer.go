package main

import (
	"bufio"
	"io"
	"strconv"
	"strings"
	"time"
)

// peerArgs are the arguments of `consul exec` for the work.
func peerArgs(w work) []string {
	if w.Real {
		return []string{"exec", "uptime"}
	}
	return []string{"exec", "-node", "^" + simNodes, "uptime"}
}

// readPeer makes a report of what `consul exec` prints, until that ends. It does
// not look at the order of output and exit, in which `consul exec` errs by
// design, nor at acks, which it does not print.
func readPeer(w work, from io.Reader) report {
	c := newChecker(w)
	lines := bufio.NewScanner(from)
	lines.Buffer(nil, 2<<20) // a chunk is one line
	for lines.Scan() {
		target, text, ok := strings.Cut(lines.Text(), ": ")
		name := strings.TrimLeft(target, " =>")
		switch status, exited := strings.CutPrefix(text, "finished with exit code "); {
		case !ok:
		case exited:
			c.Exits++
			c.LastExit = time.Now()
			if status != "0" {
				c.problem("%s: exit %s", name, status)
			}
		case w.Real && strings.TrimSpace(text) != "":
			c.Chunks++
		default:
			c.peerChunk(name, text)
		}
	}
	c.Acks = c.Exits
	c.check()
	return c.report
}

// peerChunk takes in a line of a virtual node's output.
func (c *checker) peerChunk(name, text string) {
	number, isChunk := strings.CutPrefix(text, name+" ")
	if !isChunk {
		return
	}
	n := c.node(name)
	number, _, _ = strings.Cut(number, " ")
	if i, err := strconv.Atoi(number); err != nil || i != n.chunks {
		c.problem("%s: chunk %d is %.40q", name, n.chunks, text)
	}
	n.chunks++
	c.Chunks++
}
