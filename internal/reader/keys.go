package reader

import (
	"fmt"
	"strings"
)

// A Kind says what a key under a job means.
type Kind uint8

const (
	Unknown Kind = iota
	Job          // the job itself
	Ack          // a node has read the job and is about to run it
	Output       // a chunk of output; an empty one is a heartbeat
	Exit         // the exit status, as decimal text
)

// String returns the last part of such a key, for the log.
func (k Kind) String() string {
	return [...]string{"unknown", "job", "ack", "out", "exit"}[k]
}

// A Key is a key under a run's folder.
type Key struct {
	// Dispatch is empty for the first dispatch, whose keys stand in the run's
	// folder itself. The keys of a later one stand in
	// <prefix>/<session>/<dispatch>/<session>/, as agents join a job's prefix and
	// its session.
	Dispatch string

	Node  string
	Kind  Kind
	Chunk int // the number of a chunk of Output, from 0
}

// ParseKey parses a key relative to <prefix>/<session>/. It knows a later
// dispatch by the session, which no node is called. The strings in the result
// share the memory of key.
func ParseKey(key, session string) Key {
	if dispatch, rest, ok := strings.Cut(key, "/"); ok && dispatch != "" {
		if path, ok := strings.CutPrefix(rest, session+"/"); ok && session != "" {
			k := parsePath(path)
			if k.Kind != Unknown {
				k.Dispatch = dispatch
			}
			return k
		}
	}
	return parsePath(key)
}

// parsePath parses a key relative to its dispatch's folder. It reads from the
// right: a node may be called "job" or "out", and its name may even have a
// slash.
func parsePath(key string) Key {
	if key == "job" {
		return Key{Kind: Job}
	}
	rest, last, ok := cutLast(key)
	if !ok {
		return Key{}
	}
	switch last {
	case "ack":
		return Key{Node: rest, Kind: Ack}
	case "exit":
		return Key{Node: rest, Kind: Exit}
	}
	node, dir, ok := cutLast(rest)
	if !ok || dir != "out" {
		return Key{}
	}
	chunk, ok := parseChunk(last)
	if !ok {
		return Key{}
	}
	return Key{Node: node, Kind: Output, Chunk: chunk}
}

// Path spells the key as agents do, relative to <prefix>/<session>/. It is the
// inverse of ParseKey, and empty for an Unknown key.
func (k Key) Path(session string) string {
	path := k.path()
	if path == "" || k.Dispatch == "" {
		return path
	}
	return k.Dispatch + "/" + session + "/" + path
}

func (k Key) path() string {
	switch k.Kind {
	case Job:
		return "job"
	case Ack:
		return k.Node + "/ack"
	case Output:
		return fmt.Sprintf("%s/out/%05x", k.Node, k.Chunk)
	case Exit:
		return k.Node + "/exit"
	}
	return ""
}

// cutLast cuts key at its last slash. Neither part may be empty.
func cutLast(key string) (before, last string, ok bool) {
	i := strings.LastIndexByte(key, '/')
	if i <= 0 {
		return "", "", false
	}
	return key[:i], key[i+1:], true
}

// parseChunk parses a chunk's number as the format %05x writes it: lower-case
// hex, at least five digits. It refuses any other spelling of a number, so that
// no chunk counts twice.
func parseChunk(digits string) (int, bool) {
	if len(digits) < 5 || (len(digits) > 5 && digits[0] == '0') || len(digits) > 7 {
		return 0, false
	}
	n := 0
	for i := range len(digits) {
		switch c := digits[i]; {
		case '0' <= c && c <= '9':
			n = n<<4 | int(c-'0')
		case 'a' <= c && c <= 'f':
			n = n<<4 | int(c-'a'+10)
		default:
			return 0, false
		}
	}
	return n, true
}
