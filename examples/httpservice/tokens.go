package main

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
)

// tokens authenticates users by secret tokens. A browser asks for the token as a
// password, with any name; other clients send it as a bearer token. It has the
// user's name by the SHA-256 hash of the token.
//
// A token is long and random, so that a plain hash is enough. Passwords that
// people choose need a slow one, such as bcrypt.
type tokens map[[sha256.Size]byte]string

// readTokens reads a file that has the name of a user and the hash of a token
// in each line. Empty lines and those that begin with # don't count.
func readTokens(file string) (tokens, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read the users: %w", err)
	}
	t := tokens{}
	for i, line := range strings.Split(string(data), "\n") {
		fields := strings.Fields(line)
		if len(fields) == 0 || strings.HasPrefix(fields[0], "#") {
			continue
		}
		var hash [sha256.Size]byte
		if len(fields) != 2 || hex.DecodedLen(len(fields[1])) != len(hash) {
			return nil, fmt.Errorf("%s:%d: want a name and a SHA-256 hash in hexadecimal", file, i+1)
		}
		if _, err := hex.Decode(hash[:], []byte(fields[1])); err != nil {
			return nil, fmt.Errorf("%s:%d: %w", file, i+1, err)
		}
		switch {
		case hash == sha256.Sum256(nil):
			return nil, fmt.Errorf("%s:%d: the hash of %s is that of an empty token", file, i+1, fields[0])
		case t[hash] != "":
			return nil, fmt.Errorf("%s:%d: %s and %s have the same token", file, i+1, t[hash], fields[0])
		}
		t[hash] = fields[0]
	}
	if len(t) == 0 {
		return nil, fmt.Errorf("%s has no user", file)
	}
	return t, nil
}

func (t tokens) authenticate(req *http.Request) (string, error) {
	_, token, ok := req.BasicAuth()
	if !ok {
		var scheme string
		scheme, token, ok = strings.Cut(req.Header.Get("Authorization"), " ")
		ok = ok && strings.EqualFold(scheme, "Bearer")
	}
	if user := t[sha256.Sum256([]byte(token))]; ok && user != "" {
		return user, nil
	}
	return "", errors.New("this needs the token of a user")
}

func (t tokens) challenge() string { return `Basic realm="httpservice", charset="UTF-8"` }
