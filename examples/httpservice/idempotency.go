package main

import (
	"crypto/sha256"
	"encoding/json"
	"net/http"
	"time"
)

const (
	keepKeys     = time.Hour // how long a key is remembered after its run's end
	maxKeys      = 10_000    // keys that are remembered at once
	maxKeyLength = 255       // bytes of a key
)

// keys remembers the Idempotency-Key of each run, so that a request that a
// client repeats, as it got no answer, starts no second run. The server's mutex
// guards it.
//
// The service forgets the keys when it ends, as it forgets the runs.
type keys map[string]keyed

// keyed is what a key was used for.
type keyed struct {
	order [sha256.Size]byte
	run   string // the ID
}

// readKey returns the Idempotency-Key of a request, or "" if there is none. The
// keys of different users differ.
func readKey(req *http.Request) (string, error) {
	values := req.Header.Values("Idempotency-Key")
	switch {
	case len(values) == 0:
		return "", nil
	case len(values) > 1 || values[0] == "" || len(values[0]) > maxKeyLength:
		return "", refuse(http.StatusBadRequest, "the Idempotency-Key must be one value of 1 to %d bytes", maxKeyLength)
	}
	return userOf(req) + "\n" + values[0], nil
}

// find returns the ID of the run that this key has started, or "" if there is
// none. It is an error if that was another order.
func (k keys) find(key string, o order) (run string, err error) {
	used, ok := k[key]
	if ok && used.order != hash(o) {
		return "", refuse(http.StatusUnprocessableEntity, "this Idempotency-Key has started run %s, with another command or other nodes", used.run)
	}
	return used.run, nil
}

// add remembers a key, unless it is "".
func (k keys) add(key string, o order, run string) error {
	if key == "" {
		return nil
	}
	if len(k) >= maxKeys {
		return refuse(http.StatusTooManyRequests, "too many keys: %d are remembered", len(k))
	}
	k[key] = keyed{hash(o), run}
	return nil
}

func hash(o order) [sha256.Size]byte {
	data, err := json.Marshal(o)
	if err != nil {
		panic(err) // strings can be encoded
	}
	return sha256.Sum256(data)
}
