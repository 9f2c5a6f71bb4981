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
		for place := range portsPerAgent {
			if p := b.port(place); seen[p] || p < firstPort || p > lastPort {
				t.Errorf("port %d is there twice or out of range", p)
			}
			seen[b.port(place)] = true
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
		t.Error("free with a UDP port taken")
	}
	udp.Close()
	tcp, err := net.Listen("tcp", b.addr(portHTTP))
	if err != nil {
		t.Fatal(err)
	}
	if b.free() {
		t.Error("free with a TCP port taken")
	}
	tcp.Close()
	if !b.free() {
		t.Error("not free with nothing taken")
	}
}
