package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"
)

const (
	// simConns is the number of connections that virtual nodes share. It keeps
	// the server busy and stays below Consul's default limit of 200 for one
	// client address.
	simConns = 100

	// maxBatch is the number of operations that every Consul version accepts in
	// a transaction.
	maxBatch = 64

	// batchDelay is how long a batch waits for more writes.
	batchDelay = 5 * time.Millisecond
)

// job is the payload of a job's event.
type job struct {
	Prefix  string
	Session string
}

// A writer writes keys under a session, as an agent does. It is safe for
// concurrent use.
type writer interface {
	write(ctx context.Context, session, key string, value []byte) error
	close()
}

// simulate runs the virtual nodes and returns the time when the last exit was
// written. Each node waits for the answer to a write before the next.
func simulate(ctx context.Context, w work, to writer, j job) (lastExit time.Time, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var (
		group sync.WaitGroup
		mu    sync.Mutex // guards lastExit
		start = time.Now()
	)
	for i := range w.Nodes {
		group.Go(func() {
			if err := simulateNode(ctx, w, i, to, j, start); err != nil {
				cancel(err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			if now := time.Now(); now.After(lastExit) {
				lastExit = now
			}
		})
	}
	group.Wait()
	return lastExit, context.Cause(ctx)
}

// simulateNode runs one virtual node.
func simulateNode(ctx context.Context, w work, i int, to writer, j job, start time.Time) error {
	name := nodeName(i)
	times := w.schedule(i)
	exit := len(times) - 1
	var value []byte
	for step, at := range times {
		key := "ack"
		value = value[:0]
		switch step {
		case 0:
		case exit:
			key, value = "exit", append(value, '0')
		default:
			key, value = fmt.Sprintf("out/%05x", step-1), w.appendChunk(value, name, step-1)
		}
		if err := sleepUntil(ctx, start.Add(at)); err != nil {
			return err
		}
		if err := to.write(ctx, j.Session, j.Prefix+"/"+j.Session+"/"+name+"/"+key, value); err != nil {
			return fmt.Errorf("%s: write %s: %w", name, key, err)
		}
	}
	return nil
}

func sleepUntil(ctx context.Context, at time.Time) error {
	timer := time.NewTimer(time.Until(at))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// errRefused is the error of a write that did not get the lock, usually because
// its session has ended.
var errRefused = errors.New("refused: the session has ended")

// singleWriter writes each key in a separate request.
type singleWriter struct {
	client *http.Client
	addr   string
}

func newSingleWriter(addr string) *singleWriter {
	transport := &http.Transport{MaxConnsPerHost: simConns, MaxIdleConnsPerHost: simConns, DisableCompression: true}
	return &singleWriter{client: &http.Client{Transport: transport}, addr: addr}
}

func (s *singleWriter) write(ctx context.Context, session, key string, value []byte) error {
	url := "http://" + s.addr + "/v1/kv/" + key + "?acquire=" + session
	request, err := http.NewRequestWithContext(ctx, http.MethodPut, url, bytes.NewReader(value))
	if err != nil {
		return err
	}
	response, err := s.client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	switch text := strings.TrimSpace(string(answer)); text {
	case "true":
		return nil
	case "false":
		return errRefused
	default:
		return fmt.Errorf("%s: %s", response.Status, text)
	}
}

// close closes the idle connections.
func (s *singleWriter) close() { s.client.CloseIdleConnections() }

// batchWriter writes the keys of several nodes in one transaction. A node waits
// for each write, so a transaction has at most one key of a node.
type batchWriter struct {
	*singleWriter
	size  int
	queue chan pending
	slots chan struct{} // bounds the concurrent transactions
}

// pending is a write that waits for the result of its transaction.
type pending struct {
	session, key string
	value        []byte
	answer       chan error // has capacity 1
}

func newBatchWriter(addr string, size int) *batchWriter {
	return &batchWriter{
		singleWriter: newSingleWriter(addr),
		size:         size,
		queue:        make(chan pending),
		slots:        make(chan struct{}, 8),
	}
}

func (b *batchWriter) write(ctx context.Context, session, key string, value []byte) error {
	p := pending{session, key, value, make(chan error, 1)}
	select {
	case b.queue <- p:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	select {
	case err := <-p.answer:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// run commits pending writes in batches until ctx ends.
func (b *batchWriter) run(ctx context.Context) {
	for {
		var batch []pending
		var timeout <-chan time.Time
		for len(batch) < b.size {
			select {
			case p := <-b.queue:
				batch = append(batch, p)
				if timeout == nil {
					timeout = time.After(batchDelay)
				}
				continue
			case <-timeout:
			case <-ctx.Done():
				return
			}
			break
		}
		b.slots <- struct{}{}
		go func() {
			defer func() { <-b.slots }()
			err := b.commit(ctx, batch)
			for _, p := range batch {
				p.answer <- err
			}
		}()
	}
}

// commit writes a batch in one transaction.
func (b *batchWriter) commit(ctx context.Context, batch []pending) error {
	type kv struct {
		Verb, Key, Session string
		Value              []byte
	}
	ops := make([]map[string]kv, len(batch))
	for i, p := range batch {
		ops[i] = map[string]kv{"KV": {Verb: "lock", Key: p.key, Session: p.session, Value: p.value}}
	}
	body, err := json.Marshal(ops)
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPut, "http://"+b.addr+"/v1/txn", bytes.NewReader(body))
	if err != nil {
		return err
	}
	response, err := b.client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %.200s", response.Status, answer)
	}
	return nil
}
