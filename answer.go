package consulexec

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
)

// pair is what matters of a key in an answer.
type pair struct {
	Key string
	value
}

// value is what matters of a key's value.
type value struct {
	Value   []byte
	Session string
}

// Where there is much to read, decoding it is most of what a run costs. So answers
// in the form that Consul writes are read by a scanner that knows no other, in a
// tenth of the time that encoding/json takes (BenchmarkDecode). What it does not know
// is left to that.

// decodeNames decodes a list of names: ["…",…].
func decodeNames(answer []byte) ([]pair, error) {
	s := scanner{rest: answer}
	if pairs, ok := s.names(); ok {
		return pairs, nil
	}
	var names []string
	if err := json.Unmarshal(answer, &names); err != nil {
		return nil, err
	}
	return named(names), nil
}

// named returns pairs of which only the names are known.
func named(names []string) []pair {
	pairs := make([]pair, len(names))
	for i, name := range names {
		pairs[i].Key = name
	}
	return pairs
}

// decodePairs decodes a list of keys with their values: [{"Key":"…",…},…].
func decodePairs(answer []byte) (pairs []pair, err error) {
	s := scanner{rest: answer}
	if pairs, ok := s.pairs(); ok {
		return pairs, nil
	}
	err = json.Unmarshal(answer, &pairs)
	return pairs, err
}

// decodeResults decodes the answer to a transaction that reads:
// {"Results":[{"KV":{"Key":"…",…}},…],…}.
func decodeResults(answer []byte) ([]pair, error) {
	s := scanner{rest: answer}
	if pairs, ok := s.results(); ok {
		return pairs, nil
	}
	var decoded struct{ Results []struct{ KV *pair } }
	if err := json.Unmarshal(answer, &decoded); err != nil {
		return nil, err
	}
	pairs := make([]pair, len(decoded.Results))
	for i, result := range decoded.Results {
		if result.KV == nil {
			return nil, errors.New("a result of a transaction has no KV")
		}
		pairs[i] = *result.KV
	}
	return pairs, nil
}

// scanner reads JSON without spaces, escapes in its strings, or objects in its
// objects. Its methods return false at anything else.
type scanner struct {
	rest    []byte
	session string // the last one read: most are the same
}

// names reads a list of strings.
func (s *scanner) names() (pairs []pair, ok bool) {
	for next := s.skip("["); next; next = s.skip(",") {
		name, ok := s.text()
		if !ok || !isPlain(name) {
			return nil, false
		}
		pairs = append(pairs, pair{Key: string(name)})
	}
	return pairs, s.skip("]")
}

// pairs reads a list of objects.
func (s *scanner) pairs() ([]pair, bool) { return s.list("", "") }

// results reads the list of objects in an answer to a transaction, and no further.
func (s *scanner) results() ([]pair, bool) {
	if !s.skip(`{"Results":`) {
		return nil, false
	}
	return s.list(`{"KV":`, "}")
}

// list reads a list of objects, each of them between open and end.
func (s *scanner) list(open, end string) (pairs []pair, ok bool) {
	for next := s.skip("["); next; next = s.skip(",") {
		if !s.skip(open) {
			return nil, false
		}
		p, ok := s.pair()
		if !ok || !s.skip(end) {
			return nil, false
		}
		pairs = append(pairs, p)
	}
	return pairs, s.skip("]")
}

// pair reads an object.
func (s *scanner) pair() (p pair, ok bool) {
	for next := s.skip("{"); next; next = s.skip(",") {
		name, ok := s.text()
		if !ok || !s.skip(":") {
			return p, false
		}
		text, isText := s.text()
		switch {
		case !isText && !s.skipOther():
			return p, false
		case !isText:
		case string(name) == "Key":
			p.Key, ok = string(text), isPlain(text)
		case string(name) == "Session":
			if s.session != string(text) {
				s.session = string(text)
			}
			p.Session, ok = s.session, isPlain(text)
		case string(name) == "Value":
			p.Value, ok = decode64(text)
		}
		if !ok {
			return p, false
		}
	}
	return p, s.skip("}")
}

// skip skips a token, if it comes next.
func (s *scanner) skip(token string) bool {
	if !bytes.HasPrefix(s.rest, []byte(token)) {
		return false
	}
	s.rest = s.rest[len(token):]
	return true
}

// text reads a string.
func (s *scanner) text() (text []byte, ok bool) {
	if len(s.rest) == 0 || s.rest[0] != '"' {
		return nil, false
	}
	length := bytes.IndexByte(s.rest[1:], '"')
	if length < 0 {
		return nil, false
	}
	text = s.rest[1 : 1+length]
	if bytes.IndexByte(text, '\\') >= 0 {
		return nil, false
	}
	s.rest = s.rest[1+length+1:]
	return text, true
}

// skipOther skips a number, true, false or null in an object.
func (s *scanner) skipOther() bool {
	length := bytes.IndexAny(s.rest, ",}")
	if length <= 0 || bytes.IndexByte([]byte(`"{[ `), s.rest[0]) >= 0 {
		return false
	}
	s.rest = s.rest[length:]
	return true
}

// isPlain tells whether text has only characters that mean themselves in JSON.
func isPlain(text []byte) bool {
	for _, c := range text {
		if c < ' ' || c > '~' || c == '\\' {
			return false
		}
	}
	return true
}

func decode64(text []byte) ([]byte, bool) {
	decoded := make([]byte, base64.StdEncoding.DecodedLen(len(text)))
	n, err := base64.StdEncoding.Decode(decoded, text)
	return decoded[:n], err == nil
}
