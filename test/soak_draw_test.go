package test

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/consulexec/consulexec"
	"github.com/consulexec/consulexec/exectest"
)

// drawn is all that is random in a run of TestSoak: its options, its nodes, and
// its accidents. It is drawn before the run begins, so that a seed repeats it.
type drawn struct {
	*rand.Rand
	names      []string
	nodes      map[string]soakNode
	mishaps    []mishap
	outages    []outage
	deletes    bool // an accident deletes keys
	options    []consulexec.Option
	withConfig bool
	patience   time.Duration // of the run's context; none if 0

	// The values of options, as far as the checks need them: zero if not given.
	wait, ackTimeout, lostTimeout time.Duration
	recovery, timeout             time.Duration
	kill, unknown                 bool
	maxOutput                     int // negative if not given
	limit, concurrency            int
}

// A soakNode is how a node is reached, and what its command does.
type soakNode struct {
	options  []exectest.NodeOption
	ackAfter time.Duration
	misses   int // how many events miss it
	repeats  int // how many more copies of each come
	disabled bool

	steps, size int           // how often the command prints, and how much
	pause       time.Duration // after each of them
	silentAt    int           // the step before which its agent is silent; none if negative
	code        int
	dies        bool // its agent, at the end
	endless     bool // the command does not end by itself
}

// A mishap is an accident: it happens some time after the run's begin.
type mishap struct {
	after time.Duration
	do    func(srv *exectest.Server)
}

// An outage is a time in which a node may be out of reach, since the run's begin.
// It has no node if all are, and no end if it is for good.
type outage struct {
	node       string
	begin, end time.Duration
	group      bool // its commands are killed
}

func draw(seed uint64) drawn {
	d := drawn{Rand: rand.New(rand.NewPCG(seed, 0)), nodes: make(map[string]soakNode), names: []string{"first"}}
	for i := range d.IntN(6) {
		d.names = append(d.names, fmt.Sprint("node-", i))
	}
	d.drawOptions()
	endless := false
	for _, name := range d.names {
		d.nodes[name] = d.drawNode(name)
		endless = endless || d.nodes[name].endless
	}
	if endless || d.one(4) {
		d.patience = d.upTo(40 * time.Second)
		if d.recovery > 0 {
			d.patience = d.upTo(4 * time.Minute)
		}
	}
	for range d.IntN(5) {
		d.drawFault()
	}
	d.drawAccidents()
	return d
}

// upTo draws a duration below most.
func (d *drawn) upTo(most time.Duration) time.Duration { return time.Duration(d.Int64N(int64(most))) }

// one draws true once in so many times.
func (d *drawn) one(in int) bool { return d.IntN(in) == 0 }

// drawNode draws a node. The first one holds the session and is always there.
func (d *drawn) drawNode(name string) soakNode {
	n := soakNode{steps: d.IntN(10), pause: d.upTo(5 * time.Second), size: 1 << d.IntN(14), silentAt: -1}
	if d.one(5) {
		n.steps, n.pause, n.size = d.IntN(300), d.upTo(200*time.Millisecond), 4096 // so much that the run deletes what it has read
	}
	if d.one(4) {
		n.code = d.IntN(256)
	}
	if d.one(10) {
		n.silentAt = n.steps
	}
	if d.recovery > 0 && d.one(4) {
		n.silentAt = d.IntN(n.steps + 1)
	}
	n.endless = d.one(20)
	if d.underRunner() && d.one(5) {
		n.repeats = 1 + d.IntN(2)
		n.options = append(n.options, exectest.RepeatEvents(n.repeats))
	}
	if name == "first" {
		return n
	}
	n.dies = d.one(10)
	switch {
	case d.one(5):
		n.ackAfter = d.upTo(8 * time.Second)
		n.options = append(n.options, exectest.AckAfter(n.ackAfter))
	case d.one(10):
		n.disabled = true
		n.options = append(n.options, exectest.ExecDisabled())
	case d.one(10):
		n.options = append(n.options, exectest.Down())
	case d.one(6):
		n.misses = 1 + d.IntN(3)
		n.options = append(n.options, exectest.MissEvents(n.misses))
	}
	if n.dies {
		d.outages = append(d.outages, outage{node: name})
	}
	return n
}

// underRunner reports whether the options need the runner, so that no node runs
// the command twice.
func (d *drawn) underRunner() bool {
	return d.recovery > 0 || d.timeout > 0 || d.kill || d.maxOutput >= 0
}

// drawOptions draws the run's options.
func (d *drawn) drawOptions() {
	d.withConfig = d.one(2)
	d.wait, d.ackTimeout, d.maxOutput = 200*time.Millisecond+d.upTo(3*time.Second), 5*time.Second, -1
	d.lostTimeout = max(5*d.wait, 15*time.Second)
	add := func(o consulexec.Option) { d.options = append(d.options, o) }
	add(consulexec.WithCapture(1 << 22))
	add(consulexec.WithWait(d.wait))
	if d.one(2) {
		d.recovery = time.Second + d.upTo(4<<d.IntN(8)*time.Second)
		add(consulexec.WithRecovery(d.recovery))
	}
	if d.one(3) {
		d.lostTimeout = 3*d.wait + d.upTo(20*time.Second)
		add(consulexec.WithLostTimeout(d.lostTimeout))
	}
	if d.one(3) {
		d.ackTimeout = time.Second + d.upTo(10*time.Second)
		add(consulexec.WithAckTimeout(d.ackTimeout))
	}
	if d.one(5) {
		d.timeout = time.Duration(1+d.IntN(60)) * time.Second
		add(consulexec.WithTimeout(d.timeout))
	}
	if d.one(5) {
		d.kill = true
		add(consulexec.WithKillOnCancel())
	}
	if d.one(5) {
		d.maxOutput = d.IntN(1 << d.IntN(18))
		add(consulexec.WithMaxOutput(int64(d.maxOutput)))
	}
	named := d.one(3)
	if named {
		names := append([]string{"nobody"}, d.names...)
		d.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
		add(consulexec.WithNodes(names[:1+d.IntN(len(names))]...))
	}
	if d.one(5) {
		d.unknown = !named
		add(consulexec.WithoutDiscovery())
	}
	if !d.unknown {
		d.drawRolling(add)
	}
	if d.limit == 0 && d.one(5) {
		add(consulexec.WithMinNodes(d.IntN(8)))
	}
}

// drawRolling draws options that need to know the nodes.
func (d *drawn) drawRolling(add func(consulexec.Option)) {
	if d.one(4) {
		d.concurrency = 1 + d.IntN(4)
		add(consulexec.WithConcurrency(d.concurrency))
	}
	if d.one(5) {
		add(consulexec.WithMaxFailures(1 + d.IntN(3)))
	}
	if d.one(4) {
		d.limit = 1 + d.IntN(4)
		add(consulexec.WithLimit(d.limit))
		if d.one(3) {
			add(consulexec.WithMinNodes(d.IntN(d.limit + 1)))
		}
	}
}

// waysToTrouble are the ways in which a request can fail, in a fixed order.
var waysToTrouble = []exectest.Action{
	exectest.Refuse, exectest.Drop, exectest.Hang, doThenFail,
	exectest.Respond(500, "No cluster leader"), exectest.Respond(500, "rpc error making call: EOF"), exectest.Respond(429, "slow down"),
}

// drawFault draws a time in which some requests fail. With recovery it may be all
// of them, for minutes.
func (d *drawn) drawFault() {
	way, share := waysToTrouble[d.IntN(len(waysToTrouble))], d.Float64()
	begin, length := d.upTo(20*time.Second), d.upTo(12*time.Second)
	if d.recovery > 0 && d.one(8) {
		share, length = 1, time.Minute+d.upTo(2*time.Minute)
	}
	d.outages = append(d.outages, outage{begin: begin, end: begin + length})
	dice := rand.New(rand.NewPCG(d.Uint64(), 0))
	d.mishaps = append(d.mishaps, mishap{begin, func(srv *exectest.Server) {
		ends := time.Now().Add(length)
		srv.Fault(exectest.Fault{Do: way, Match: func(*http.Request) bool { return time.Now().Before(ends) && dice.Float64() < share }})
	}})
}

// drawAccidents draws the other accidents. With recovery there are more of them.
func (d *drawn) drawAccidents() {
	often := func(without, with int) bool {
		if d.recovery > 0 {
			return d.one(with)
		}
		return d.one(without)
	}
	at := func(do func(srv *exectest.Server)) {
		d.mishaps = append(d.mishaps, mishap{d.upTo(20 * time.Second), do})
	}
	for _, name := range d.names[1:] {
		if often(15, 5) {
			d.drawDeath(name)
		}
	}
	if often(20, 4) {
		for range 1 + d.IntN(3) {
			at(func(srv *exectest.Server) {
				for _, id := range srv.Sessions() {
					srv.DestroySession(id)
				}
			})
		}
	}
	if d.one(10) {
		at((*exectest.Server).RewindIndex)
	}
	if often(20, 6) {
		d.deletes = true
		at(func(srv *exectest.Server) {
			for _, key := range srv.Keys("_rexec/") {
				srv.Delete(key)
			}
		})
	}
	if d.one(5) {
		at(func(srv *exectest.Server) {
			for _, id := range srv.Sessions() {
				for _, key := range []string{"stranger/ack", "stranger/exit", "first/out/fffff", "first/out/x", "job/job", "x"} {
					srv.Put("_rexec/"+id+"/"+key, []byte("0"))
				}
			}
		})
	}
}

// drawDeath draws how a node's agent is killed: with its commands or without, and
// for good or for a while.
func (d *drawn) drawDeath(name string) {
	o := outage{node: name, begin: d.upTo(20 * time.Second), group: d.one(4)}
	kill := (*exectest.Server).Kill
	if o.group {
		kill = (*exectest.Server).KillControlGroup
	}
	d.mishaps = append(d.mishaps, mishap{o.begin, func(srv *exectest.Server) { kill(srv, name) }})
	if d.one(3) {
		d.outages = append(d.outages, o)
		return
	}
	o.end = o.begin + d.upTo(1<<d.IntN(7)*time.Second)
	d.outages = append(d.outages, o)
	d.mishaps = append(d.mishaps, mishap{o.end, func(srv *exectest.Server) { srv.Start(name) }})
}

// haveAccidents begins the time of the accidents. End is its end.
func (d *drawn) haveAccidents(srv *exectest.Server) (end func()) {
	var timers []*time.Timer
	for _, a := range d.mishaps {
		timers = append(timers, time.AfterFunc(a.after, func() { a.do(srv) }))
	}
	return func() {
		for _, timer := range timers {
			timer.Stop()
		}
	}
}
