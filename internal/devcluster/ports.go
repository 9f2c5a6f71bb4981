package devcluster

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
)

// loopback is the address of all agents, which differ by port. Other addresses
// of 127.0.0.0/8 would do on Linux and Windows, but not on macOS.
const loopback = "127.0.0.1"

// Offsets of an agent's ports in its block.
const (
	portReserved = iota // the cluster listens here to reserve the block
	portHTTP
	portServer
	portSerfLAN
	portSerfWAN
	portsPerAgent
)

const (
	// firstPort and lastPort bound the blocks. They avoid the ports of
	// well-known servers and those for outgoing connections (from 32768 on
	// Linux, from 49152 elsewhere).
	firstPort = 20000
	lastPort  = 31999

	portBlocks = (lastPort - firstPort + 1) / portsPerAgent
)

// portBlock is the port range of one agent. A listener on its first port
// reserves it across processes: a process that cannot listen there tries
// another block.
type portBlock struct {
	base     int
	reserved net.Listener
}

func reservePorts() (portBlock, error) {
	start := rand.IntN(portBlocks) // processes seldom compete for the same block
	for i := range portBlocks {
		base := firstPort + (start+i)%portBlocks*portsPerAgent
		reserved, err := net.Listen("tcp", net.JoinHostPort(loopback, strconv.Itoa(base)))
		if err != nil {
			continue
		}
		b := portBlock{base, reserved}
		if b.free() {
			return b, nil
		}
		b.release()
	}
	return portBlock{}, errors.New("no free ports from " + strconv.Itoa(firstPort) + " to " + strconv.Itoa(lastPort))
}

// free reports whether the agent's ports are free. Another program may still
// take a port before the agent binds it. Then the agent ends, and New starts
// the cluster on other ports.
func (b portBlock) free() bool {
	for offset := portReserved + 1; offset < portsPerAgent; offset++ {
		l, err := net.Listen("tcp", b.addr(offset))
		if err != nil {
			return false
		}
		l.Close()
		if offset == portSerfLAN || offset == portSerfWAN { // gossip goes over UDP
			p, err := net.ListenPacket("udp", b.addr(offset))
			if err != nil {
				return false
			}
			p.Close()
		}
	}
	return true
}

func (b portBlock) port(offset int) int { return b.base + offset }

func (b portBlock) addr(offset int) string { return fmt.Sprintf("%s:%d", loopback, b.port(offset)) }

func (b portBlock) release() { b.reserved.Close() }
