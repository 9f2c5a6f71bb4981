package reader

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
)

// If there is much to read, decoding it is most of what a run costs. So a
// scanner reads answers in the form that Consul writes, and knows no other. It
// takes a tenth of the time of encoding/json (BenchmarkDecode), which decodes
// the rest.

// decodeNames decodes a list of names: ["…",…].
func decodeNames(answer []byte) ([]entry, error) {
	s := scanner{rest: answer}
	if entries, ok := s.names(); ok {
		return entries, nil
	}
	var names []string
	if err := json.Unmarshal(answer, &names); err != nil {
		return nil, err
	}
	return named(names), nil
}

// named returns entries without values.
func named(names []string) []entry {
	entries := make([]entry, len(names))
	for i, name := range names {
		entries[i].Key = name
	}
	return entries
}

// decodeValues decodes a list of keys with their values: [{"Key":"…",…},…].
func decodeValues(answer []byte) (entries []entry, err error) {
	s := scanner{rest: answer}
	if entries, ok := s.values(); ok {
		return entries, nil
	}
	err = json.Unmarshal(answer, &entries)
	return entries, err
}

// decodeResults decodes the answer to a transaction that reads:
// {"Results":[{"KV":{"Key":"…",…}},…],…}.
func decodeResults(answer []byte) ([]entry, error) {
	s := scanner{rest: answer}
	if entries, ok := s.results(); ok {
		return entries, nil
	}
	var decoded struct{ Results []struct{ KV *entry } }
	if err := json.Unmarshal(answer, &decoded); err != nil {
		return nil, err
	}
	entries := make([]entry, len(decoded.Results))
	for i, result := range decoded.Results {
		if result.KV == nil {
			return nil, errors.New("a result of a transaction has no KV")
		}
		entries[i] = *result.KV
	}
	return entries, nil
}

// scanner reads JSON that has no spaces, no escapes in strings and no objects
// in objects. Its methods return false at anything else.
type scanner struct {
	rest    []byte
	session string // the last one read; most are the same
}

// names reads a list of strings.
func (s *scanner) names() (entries []entry, ok bool) {
	for next := s.skip("["); next; next = s.skip(",") {
		name, ok := s.text()
		if !ok || !isPlain(name) {
			return nil, false
		}
		entries = append(entries, entry{Key: string(name)})
	}
	return entries, s.skip("]")
}

// values reads a list of objects.
func (s *scanner) values() ([]entry, bool) { return s.list("", "") }

// results reads the list of objects in the answer to a transaction. It reads no
// further.
func (s *scanner) results() ([]entry, bool) {
	if !s.skip(`{"Results":`) {
		return nil, false
	}
	return s.list(`{"KV":`, "}")
}

// list reads a list of objects, each of them between open and end.
func (s *scanner) list(open, end string) (entries []entry, ok bool) {
	for next := s.skip("["); next; next = s.skip(",") {
		if !s.skip(open) {
			return nil, false
		}
		e, ok := s.entry()
		if !ok || !s.skip(end) {
			return nil, false
		}
		entries = append(entries, e)
	}
	return entries, s.skip("]")
}

// entry reads an object.
func (s *scanner) entry() (e entry, ok bool) {
	for next := s.skip("{"); next; next = s.skip(",") {
		name, ok := s.text()
		if !ok || !s.skip(":") {
			return e, false
		}
		text, isText := s.text()
		switch {
		case string(name) == "CreateIndex":
			e.CreateIndex, ok = s.number()
		case string(name) == "ModifyIndex":
			e.ModifyIndex, ok = s.number()
		case !isText && !s.skipOther():
			return e, false
		case !isText:
		case string(name) == "Key":
			e.Key, ok = string(text), isPlain(text)
		case string(name) == "Session":
			if s.session != string(text) {
				s.session = string(text)
			}
			e.Session, ok = s.session, isPlain(text)
		case string(name) == "Value":
			e.Value, ok = decode64(text)
		}
		if !ok {
			return e, false
		}
	}
	return e, s.skip("}")
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

// number reads a whole number.
func (s *scanner) number() (n uint64, ok bool) {
	digits := 0
	for digits < len(s.rest) && '0' <= s.rest[digits] && s.rest[digits] <= '9' {
		n = n*10 + uint64(s.rest[digits]-'0')
		digits++
	}
	s.rest = s.rest[digits:]
	return n, 0 < digits && digits < maxDigits
}

// maxDigits is one more than surely fit into a uint64.
const maxDigits = 20

// skipOther skips a number, true, false or null in an object.
func (s *scanner) skipOther() bool {
	length := bytes.IndexAny(s.rest, ",}")
	if length <= 0 || bytes.IndexByte([]byte(`"{[ `), s.rest[0]) >= 0 {
		return false
	}
	s.rest = s.rest[length:]
	return true
}

// isPlain reports whether text has only characters that mean themselves in
// JSON.
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
