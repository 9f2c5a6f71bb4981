package devcluster

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
)

// loopback is where all agents listen. The other addresses of 127.0.0.0/8 exist on Linux and Windows but not on macOS, so
// agents differ by port instead.
const loopback = "127.0.0.1"

// The ports of an agent, by their place in its block.
const (
	portReserved = iota // the cluster itself listens here as long as the agent may use the block
	portHTTP
	portServer
	portSerfLAN
	portSerfWAN
	portsPerAgent
)

const (
	// firstPort and lastPort bound the blocks: below the ports that systems give to outgoing connections (32768 and up on
	// Linux, 49152 and up elsewhere), and above those of well-known servers.
	firstPort = 20000
	lastPort  = 31999

	portBlocks = (lastPort - firstPort + 1) / portsPerAgent
)

// portBlock is the range of ports of one agent. It is reserved across processes by the listener on its first port: who
// cannot listen there takes another block.
type portBlock struct {
	base     int
	reserved net.Listener
}

func reservePorts() (portBlock, error) {
	start := rand.IntN(portBlocks) // so that processes seldom compete for one block
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

// free tells whether nothing listens on the ports that the agent will. A program that does not know of the reservation may
// still take one before the agent does; then the agent ends, and the cluster is started on other ports.
func (b portBlock) free() bool {
	for place := portReserved + 1; place < portsPerAgent; place++ {
		l, err := net.Listen("tcp", b.addr(place))
		if err != nil {
			return false
		}
		l.Close()
		if place == portSerfLAN || place == portSerfWAN { // gossip goes over UDP
			p, err := net.ListenPacket("udp", b.addr(place))
			if err != nil {
				return false
			}
			p.Close()
		}
	}
	return true
}

func (b portBlock) port(place int) int { return b.base + place }

func (b portBlock) addr(place int) string { return fmt.Sprintf("%s:%d", loopback, b.port(place)) }

func (b portBlock) release() { b.reserved.Close() }
