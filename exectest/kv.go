package exectest

import (
	"errors"
	"fmt"
	"net/http"
	"path"
	"slices"
	"strings"
	"time"
)

// A store holds a datacenter's keys, sorted, with tombstones: a listing's index
// is the highest index under its prefix, deletions included. Entries are
// replaced, never changed, since answers use them without the lock.
type store struct {
	entries []*entry
	index   uint64 // of the last write
}

// An entry is a key in the HTTP API's JSON form.
type entry struct {
	LockIndex   uint64
	Key         string
	Flags       uint64
	Value       []byte
	Session     string `json:",omitempty"`
	CreateIndex uint64
	ModifyIndex uint64

	deleted bool
}

func (s *store) find(key string) (int, bool) {
	return slices.BinarySearchFunc(s.entries, key, func(e *entry, key string) int { return strings.Compare(e.Key, key) })
}

// get returns the key's entry, or nil.
func (s *store) get(key string) *entry {
	if i, ok := s.find(key); ok && !s.entries[i].deleted {
		return s.entries[i]
	}
	return nil
}

// list returns the entries under a prefix and their highest index, tombstones
// included. The index is that of the whole store, but at least 1, if the prefix
// is empty or never had a key.
func (s *store) list(prefix string) ([]*entry, uint64) {
	var live []*entry
	var index uint64
	from, _ := s.find(prefix)
	for _, e := range s.entries[from:] {
		if !strings.HasPrefix(e.Key, prefix) {
			break
		}
		index = max(index, e.ModifyIndex)
		if !e.deleted {
			live = append(live, e)
		}
	}
	if index == 0 || prefix == "" {
		index = max(s.index, 1)
	}
	return live, index
}

// set stores an entry and returns the stored one. A write of the same content
// changes no index, as in Consul.
func (s *store) set(e entry, index uint64) *entry {
	if len(e.Value) == 0 {
		e.Value = nil
	}
	e.CreateIndex, e.ModifyIndex = index, index
	i, ok := s.find(e.Key)
	if !ok {
		s.entries = slices.Insert(s.entries, i, &e)
		s.index = index
		return &e
	}
	if old := s.entries[i]; !old.deleted {
		if old.LockIndex == e.LockIndex && old.Flags == e.Flags && old.Session == e.Session && string(old.Value) == string(e.Value) {
			return old
		}
		e.CreateIndex = old.CreateIndex
	}
	s.entries[i] = &e
	s.index = index
	return &e
}

// delete replaces the key's entry with a tombstone.
func (s *store) delete(key string, index uint64) {
	if i, ok := s.find(key); ok && !s.entries[i].deleted {
		s.entries[i] = &entry{Key: key, ModifyIndex: index, deleted: true}
		s.index = index
	}
}

func (s *store) deleteTree(prefix string, index uint64) {
	entries, _ := s.list(prefix)
	for _, e := range entries {
		s.delete(e.Key, index)
	}
}

// rewind drops the tombstones, renumbers the indexes from 1 in their order, and
// returns the last one.
func (s *store) rewind() uint64 {
	s.entries = slices.DeleteFunc(s.entries, func(e *entry) bool { return e.deleted })
	var indexes []uint64
	for _, e := range s.entries {
		indexes = append(indexes, e.CreateIndex, e.ModifyIndex)
	}
	slices.Sort(indexes)
	indexes = slices.Compact(indexes)
	rank := func(index uint64) uint64 {
		i, _ := slices.BinarySearch(indexes, index)
		return uint64(i + 1)
	}
	for i, e := range s.entries {
		clone := *e
		clone.CreateIndex, clone.ModifyIndex = rank(e.CreateIndex), rank(e.ModifyIndex)
		s.entries[i] = &clone
	}
	s.index = uint64(len(indexes))
	return s.index
}

// put sets a key. The key keeps its lock, but loses its lock index, as in
// Consul.
func (dc *datacenter) put(e entry, index uint64) *entry {
	e.Session, e.LockIndex = "", 0
	if old := dc.kv.get(e.Key); old != nil {
		e.Session = old.Session
	}
	return dc.kv.set(e, index)
}

// cas puts a key if it still has the expected index. 0 expects no key.
func (dc *datacenter) cas(e entry, expected, index uint64) (*entry, bool) {
	old := dc.kv.get(e.Key)
	if (old == nil) != (expected == 0) || old != nil && old.ModifyIndex != expected {
		return nil, false
	}
	return dc.put(e, index), true
}

// acquire sets a key and locks it for a session. It returns false without an
// error if another session holds the key, or if the lock delay of an ended
// session still runs.
func (dc *datacenter) acquire(e entry, index uint64) (*entry, bool, error) {
	if dc.lockDelayed(e.Key) {
		return nil, false, nil
	}
	if e.Session == "" {
		return nil, false, errors.New("missing session")
	}
	if dc.sessions[e.Session] == nil {
		return nil, false, fmt.Errorf("invalid session %q", e.Session)
	}
	e.LockIndex = 1
	if old := dc.kv.get(e.Key); old != nil {
		switch old.Session {
		case e.Session:
			e.LockIndex = old.LockIndex
		case "":
			e.LockIndex = old.LockIndex + 1
		default:
			return nil, false, nil
		}
	}
	return dc.kv.set(e, index), true, nil
}

// lockDelayed reports whether the lock delay of an ended session still keeps
// every session from the key.
func (dc *datacenter) lockDelayed(key string) bool { return time.Now().Before(dc.lockDelay[key]) }

// release sets and unlocks a key if the session holds its lock.
func (dc *datacenter) release(e entry, index uint64) (*entry, bool, error) {
	if e.Session == "" {
		return nil, false, errors.New("missing session")
	}
	old := dc.kv.get(e.Key)
	if old == nil || old.Session != e.Session {
		return nil, false, nil
	}
	e.Session, e.LockIndex = "", old.LockIndex
	return dc.kv.set(e, index), true, nil
}

// deleteCAS deletes a key if it still has the expected index. A missing key
// counts as deleted.
func (dc *datacenter) deleteCAS(key string, expected, index uint64) bool {
	old := dc.kv.get(key)
	if old == nil {
		return true
	}
	if old.ModifyIndex != expected {
		return false
	}
	dc.kv.delete(key, index)
	return true
}

func kv(c *call) (any, error) {
	if c.id != "" {
		slash := strings.HasSuffix(c.id, "/")
		c.id = path.Clean(c.id)
		if slash {
			c.id += "/"
		}
	}
	switch {
	case c.Method == "PUT":
		return kvPut(c)
	case c.Method == "DELETE":
		return kvDelete(c)
	case c.params.Has("keys"):
		return kvKeys(c)
	default:
		return kvGet(c)
	}
}

var errNoKey = &httpError{http.StatusNotFound, ""}

func kvGet(c *call) (any, error) {
	recurse := c.params.Has("recurse")
	if !recurse {
		if err := c.needID("key name"); err != nil {
			return nil, err
		}
	}
	var entries []*entry
	c.read(&c.dc.changed, func() (index uint64) {
		if recurse {
			entries, index = c.dc.kv.list(c.id)
			return index
		}
		e := c.dc.kv.get(c.id)
		if c.missing = e == nil; c.missing {
			entries = nil
			return max(c.dc.kv.index, 1)
		}
		entries = []*entry{e}
		return e.ModifyIndex
	})
	if len(entries) == 0 {
		return nil, errNoKey
	}
	if c.params.Has("raw") && !recurse {
		c.header.Set("Content-Type", "text/plain; charset=utf-8")
		c.header.Set("X-Content-Type-Options", "nosniff")
		c.header.Set("Content-Security-Policy", "sandbox")
		return entries[0].Value, nil
	}
	return entries, nil
}

func kvKeys(c *call) (any, error) {
	var entries []*entry
	c.read(&c.dc.changed, func() (index uint64) {
		entries, index = c.dc.kv.list(c.id)
		return index
	})
	if len(entries) == 0 && c.id != "" {
		return nil, errNoKey
	}
	separator := c.params.Get("separator")
	keys := make([]string, 0, len(entries))
	for _, e := range entries {
		key := e.Key
		if separator != "" {
			if i := strings.Index(key[len(c.id):], separator); i >= 0 {
				key = key[:len(c.id)+i+len(separator)]
			}
		}
		if len(keys) == 0 || keys[len(keys)-1] != key {
			keys = append(keys, key)
		}
	}
	return keys, nil
}

func kvPut(c *call) (any, error) {
	if err := c.needID("key name"); err != nil {
		return nil, err
	}
	if err := c.conflict("cas", "acquire", "release"); err != nil {
		return nil, err
	}
	flags, err := c.number("flags")
	if err != nil {
		return nil, err
	}
	cas, err := c.number("cas")
	if err != nil {
		return nil, err
	}
	if len(c.body) > maxValue {
		return nil, &httpError{http.StatusRequestEntityTooLarge,
			fmt.Sprintf("Request body(%d bytes) too large, max size: %d bytes.", len(c.body), maxValue)}
	}
	e := entry{Key: c.id, Flags: flags, Value: c.body}
	ok := true
	c.write(func(index uint64) {
		switch {
		case c.params.Has("cas"):
			_, ok = c.dc.cas(e, cas, index)
		case c.params.Has("acquire"):
			e.Session = c.params.Get("acquire")
			_, ok, err = c.dc.acquire(e, index)
		case c.params.Has("release"):
			e.Session = c.params.Get("release")
			_, ok, err = c.dc.release(e, index)
		default:
			c.dc.put(e, index)
		}
	})
	if err != nil {
		return nil, fmt.Errorf("raft apply failed: %w", err)
	}
	return ok, nil
}

func kvDelete(c *call) (any, error) {
	if err := c.conflict("recurse", "cas"); err != nil {
		return nil, err
	}
	if !c.params.Has("recurse") {
		if err := c.needID("key name"); err != nil {
			return nil, err
		}
	}
	cas, err := c.number("cas")
	if err != nil {
		return nil, err
	}
	ok := true
	c.write(func(index uint64) {
		switch {
		case c.params.Has("recurse"):
			c.dc.kv.deleteTree(c.id, index)
		case c.params.Has("cas"):
			ok = c.dc.deleteCAS(c.id, cas, index)
		default:
			c.dc.kv.delete(c.id, index)
		}
	})
	return ok, nil
}
