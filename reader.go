package consulexec

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"
)

const (
	// pollWait is how long Consul may hold a listing while nothing changes. It
	// is also about what it takes to notice a connection that has fallen silent.
	pollWait = 10 * time.Second

	// A listing brings the values along, which saves the requests for them, where no
	// more than fewBytes were read before, and no more than manyBytes of new values are
	// to be expected.
	fewBytes  = 16 << 10
	manyBytes = 4 << 20

	// keySize is about what a key takes in such a listing besides its value.
	keySize = 200

	// What is to be expected is what the last listing had new, and more in proportion
	// where more time has passed since. But nobody knows once that is more than
	// minGap and several times as much, or more than maxGap, as when a callback took
	// long.
	minGap = 50 * time.Millisecond
	maxGap = time.Second
)

// A record is one thing that a node reported.
type record struct {
	node  string
	kind  keyKind // keyAck, keyOutput or keyExit
	value []byte  // of keyOutput, where none is a heartbeat, and of keyExit
}

// A batch is what the reader hands over: records of several nodes, in the order
// in which each node wrote them.
type batch struct {
	records []record

	// listed is set in the last batch of a listing, to when the listing was
	// asked for: what is not in it had not been reported then.
	listed time.Time

	// outage is set beside listed to how long before it nothing could be read.
	outage time.Duration

	// jobGone says that the job is no longer there, as when the session is gone.
	jobGone bool

	// err is why the reader ended.
	err error
}

// reader lists the keys under a job, again whenever they change, and hands each
// value over once.
type reader struct {
	*consul
	session string
	base    string // <prefix>/<session>/
	out     chan batch

	nodes  map[string]*progress
	odd    map[string]time.Time // keys that don't belong and were logged, and when they were read
	txnOps int                  // how many operations Consul takes in a transaction
	body   bytes.Buffer         // of the last answer
	pacer  pacer

	listed time.Time     // when the last listing came; at first, when this began
	every  time.Duration // how long what it had new took to come
	came   int           // how many bytes of values that was
	again  int           // how many bytes of another one with values would not be new
	others int           // how many of them were not for what was read, in the last with values

	gone    int       // about how many deletions Consul has a record of
	reaped  time.Time // since when they are counted
	failing time.Time // when a deletion failed last, or zero

	asked  time.Time // when the last request was made
	unsure time.Time // since when it is not certain that everything was seen, or zero
	failed bool      // whether a request has failed since then

	mu        sync.Mutex         // guards the two below
	interrupt context.CancelFunc // ends the listing that waits
	urgent    bool               // the next listing is not to wait
}

func newReader(c *consul, session, base string) *reader {
	return &reader{
		consul:  c,
		session: session,
		base:    base,
		out:     make(chan batch),
		nodes:   make(map[string]*progress),
		odd:     make(map[string]time.Time),
		txnOps:  txnOps,
		listed:  time.Now(),
	}
}

// run reads until ctx ends or reading fails for good, which is the last batch.
func (r *reader) run(ctx context.Context) {
	r.send(ctx, batch{err: r.read(ctx)})
}

// A listing is what there is under the job.
type listing struct {
	pairs  []pair
	values bool // whether the values came along
	index  uint64
}

// read lists and delivers for ever. It returns why it could not.
func (r *reader) read(ctx context.Context) error {
	for index := uint64(0); ; {
		found, err := r.list(ctx, index)
		if errors.Is(err, errInterrupted) {
			index = 0
			continue
		}
		if err != nil {
			return err
		}
		if found.index < index {
			found.index = 0 // after a restore, or a change of leader: the old index means nothing now
		}
		index = found.index
		if err := r.deliver(ctx, found); err != nil {
			return err
		}
		r.forget(ctx, found)
		if !sleep(ctx, r.pacer.pause(time.Now(), len(found.pairs)+r.gone)) {
			return ctx.Err()
		}
	}
}

// refresh makes the reader list again, now.
func (r *reader) refresh() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.urgent = true
	if r.interrupt != nil {
		r.interrupt()
	}
}

// arm says how refresh interrupts the listing, if at all. It tells whether there
// was a refresh before.
func (r *reader) arm(interrupt context.CancelFunc) (urgent bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	urgent = r.urgent
	r.urgent, r.interrupt = false, interrupt
	return urgent
}

// errInterrupted is the error of a listing that refresh has ended.
var errInterrupted = errors.New("interrupted")

// list returns what is under the job when its index is no longer the given one.
// Once a try has failed it no longer waits for a change.
func (r *reader) list(ctx context.Context, index uint64) (found listing, err error) {
	waiting, cancel := context.WithCancel(ctx)
	defer cancel()
	if r.arm(cancel) {
		index = 0
	}
	op := operation{
		doing:    "list keys under " + r.base,
		need:     "key:list on " + r.base,
		timeout:  pollWait + pollWait/16 + requestTimeout, // Consul adds up to a sixteenth
		patience: sessionLife,
	}
	err = r.look(waiting, op, func(ctx context.Context) error {
		q := r.query(ctx)
		q.WaitIndex, q.WaitTime = index, pollWait
		found, err = r.ask(q)
		if err != nil && waiting.Err() == nil {
			r.arm(nil)
			index = 0
		}
		return err
	})
	r.arm(nil)
	if err != nil && waiting.Err() != nil && ctx.Err() == nil {
		return listing{}, errInterrupted
	}
	return found, err
}

// ask makes the request of a listing.
func (r *reader) ask(q *api.QueryOptions) (found listing, err error) {
	var meta *api.QueryMeta
	q = q.WithContext(r.takeBody(q.Context()))
	if found.values = r.expectsFew(); found.values {
		found.pairs, meta, err = r.askValues(q)
	} else {
		found.pairs, meta, err = r.askNames(q)
	}
	if err != nil {
		return listing{}, err
	}
	now := time.Now()
	// A listing that waits is answered at the first change.
	r.every = min(now.Sub(r.listed), r.asked.Sub(r.listed)+minGap)
	r.came, r.listed = 0, now
	found.index = max(meta.LastIndex, 1) // 0 would not wait
	return found, nil
}

// expectsFew tells whether there will be few enough bytes in a listing with values.
func (r *reader) expectsFew() bool {
	gap := time.Since(r.listed)
	known := gap <= min(max(minGap, 4*r.every), maxGap)
	return known && r.again <= fewBytes && float64(r.came)*float64(gap) <= manyBytes*float64(r.every)
}

// takeBody has a request leave its answer's body in r.body, which does not stay large
// for the sake of one that was.
func (r *reader) takeBody(ctx context.Context) context.Context {
	if r.body.Cap() > 2*manyBytes {
		r.body = bytes.Buffer{}
	}
	return takeBody(ctx, &r.body)
}

func (r *reader) askValues(q *api.QueryOptions) ([]pair, *api.QueryMeta, error) {
	decoded, meta, err := r.client.KV().List(r.base, q)
	if err == nil && r.body.Len() > 0 {
		pairs, err := decodePairs(r.body.Bytes())
		return pairs, meta, err
	}
	pairs := make([]pair, len(decoded))
	for i, p := range decoded {
		pairs[i] = pair{p.Key, value{p.Value, p.Session}}
	}
	return pairs, meta, err
}

func (r *reader) askNames(q *api.QueryOptions) ([]pair, *api.QueryMeta, error) {
	names, meta, err := r.client.KV().Keys(r.base, "", q)
	if err == nil && r.body.Len() > 0 {
		pairs, err := decodeNames(r.body.Bytes())
		return pairs, meta, err
	}
	return named(names), meta, err
}

// look makes a request, and takes note of when it was made and since when
// nothing was seen.
func (r *reader) look(ctx context.Context, op operation, send func(ctx context.Context) error) error {
	return r.do(ctx, op, func(try context.Context) error {
		r.asked = time.Now()
		err := send(try)
		if err != nil {
			since := time.Now()
			if try.Err() != nil {
				since = r.asked // interrupted, or silent: nobody knows since when
			}
			if r.unsure.IsZero() {
				r.unsure = since
			}
			r.failed = r.failed || ctx.Err() == nil
		}
		return err
	})
}

// outage returns for how long nothing could be read before the listing that was
// asked for last, and that succeeded.
func (r *reader) outage() time.Duration {
	defer func() { r.unsure, r.failed = time.Time{}, false }()
	if !r.failed {
		return 0
	}
	return r.asked.Sub(r.unsure)
}

// deliver sends what is new in a listing.
func (r *reader) deliver(ctx context.Context, found listing) error {
	last := batch{listed: r.asked, outage: r.outage(), jobGone: true}
	var fresh []unread
	for i := range found.pairs {
		p := &found.pairs[i]
		k := r.parse(p.Key)
		switch {
		case k.kind == keyJob:
			last.jobGone = false
		case k.kind == keyUnknown:
			r.logOdd(p.Key, "unknown key")
		case !r.isFresh(k):
		case found.values:
			fresh = append(fresh, unread{k, &p.value})
		default:
			fresh = append(fresh, unread{jobKey: k})
		}
	}
	slices.SortFunc(fresh, inOrder)
	fresh, left := r.withoutAcks(fresh)
	for len(fresh) > 0 {
		group := fresh[:min(len(fresh), r.txnOps)]
		records, err := r.fetch(ctx, group)
		if errors.Is(err, errTooMany) {
			continue
		}
		if err != nil {
			return err
		}
		if !r.send(ctx, batch{records: records}) {
			return ctx.Err()
		}
		clear(group) // its values, while those of the rest of the names are read
		fresh = fresh[len(group):]
	}
	if !r.send(ctx, last) {
		return ctx.Err()
	}
	if r.unconfirmed(left) {
		r.refresh()
	}
	return nil
}

func (r *reader) parse(key string) jobKey { return parseKey(strings.TrimPrefix(key, r.base)) }

// send hands b over, and tells whether ctx let it.
func (r *reader) send(ctx context.Context, b batch) bool {
	select {
	case r.out <- b:
		return true
	case <-ctx.Done():
		return false
	}
}
