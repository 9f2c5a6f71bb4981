package devcluster

import (
	"net"
	"testing"
)

func TestReservePorts(t *testing.T) {
	seen := map[int]bool{}
	for range 20 {
		b, err := reservePorts()
		if err != nil {
			t.Fatal(err)
		}
		defer b.release()
		for offset := range portsPerAgent {
			if p := b.port(offset); seen[p] || p < firstPort || p > lastPort {
				t.Errorf("port %d is a duplicate or out of range", p)
			}
			seen[b.port(offset)] = true
		}
	}
}

func TestBlockWithTakenPortIsNotFree(t *testing.T) {
	b, err := reservePorts()
	if err != nil {
		t.Fatal(err)
	}
	defer b.release()
	udp, err := net.ListenPacket("udp", b.addr(portSerfWAN))
	if err != nil {
		t.Fatal(err)
	}
	if b.free() {
		t.Error("block is free although a UDP port is taken")
	}
	udp.Close()
	tcp, err := net.Listen("tcp", b.addr(portHTTP))
	if err != nil {
		t.Fatal(err)
	}
	if b.free() {
		t.Error("block is free although a TCP port is taken")
	}
	tcp.Close()
	if !b.free() {
		t.Error("block is not free although all ports are")
	}
}
