package reader

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/hashicorp/consul/api"
)

// someAnswers returns a list of names, one with values, and the answer to a
// transaction, for keys of a node.
func someAnswers(t *testing.T, indent bool, name string) (names, pairs, results []byte) {
	t.Helper()
	type result struct{ KV *api.KVPair }
	var (
		keys []string
		kvs  api.KVPairs
		txn  struct {
			Results []result
			Errors  api.TxnErrors
		}
	)
	for i, value := range [][]byte{nil, []byte("0"), []byte("some output\n"), bytes.Repeat([]byte{0, 0xff}, 2048)} {
		kv := &api.KVPair{Key: fmt.Sprintf("%s/out/%05x", name, i), Value: value, LockIndex: 1, CreateIndex: 7, ModifyIndex: 1e9}
		if i != 1 {
			kv.Session = "5e55-" + name
		}
		keys = append(keys, kv.Key)
		kvs = append(kvs, kv)
		txn.Results = append(txn.Results, result{kv})
	}
	marshal := func(v any) []byte {
		data, err := json.Marshal(v)
		if indent && err == nil {
			data, err = json.MarshalIndent(v, "", "  ")
		}
		if err != nil {
			t.Fatal(err)
		}
		return append(data, '\n')
	}
	return marshal(keys), marshal(kvs), marshal(txn)
}

// TestDecode compares what is decoded with what encoding/json makes of it, and
// looks whether the scanner reads what Consul writes.
func TestDecode(t *testing.T) {
	for _, test := range []struct {
		name   string
		indent bool
		plain  bool // whether the scanner can read it
	}{
		{name: "web-1", plain: true},
		{name: "web 1 & co"}, // & is escaped
		{name: "wéb"},
		{name: `w"e\b`},
		{name: "web-1", indent: true},
	} {
		names, pairs, results := someAnswers(t, test.indent, test.name)
		var wantNames []string
		var wantPairs api.KVPairs
		if err := json.Unmarshal(names, &wantNames); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(pairs, &wantPairs); err != nil {
			t.Fatal(err)
		}
		got, err := decodeNames(names)
		if err != nil || !reflect.DeepEqual(got, named(wantNames)) {
			t.Errorf("%q: names %v, error %v", test.name, got, err)
		}
		for form, decode := range map[string]func() ([]entry, error){
			"pairs":   func() ([]entry, error) { return decodeValues(pairs) },
			"results": func() ([]entry, error) { return decodeResults(results) },
		} {
			got, err := decode()
			if err != nil || len(got) != len(wantPairs) {
				t.Errorf("%q: %d %s, want %d; error %v", test.name, len(got), form, len(wantPairs), err)
				continue
			}
			for i, want := range wantPairs {
				if got := got[i]; got.Key != want.Key || got.Session != want.Session || !bytes.Equal(got.Value, want.Value) {
					t.Errorf("%q: %s: %s with %d bytes by %q, want %s with %d by %q", test.name, form,
						got.Key, len(got.Value), got.Session, want.Key, len(want.Value), want.Session)
				}
			}
		}
		n, p, r := scanner{rest: names}, scanner{rest: pairs}, scanner{rest: results}
		_, readsNames := n.names()
		_, readsPairs := p.values()
		_, readsResults := r.results()
		if readsNames != test.plain || readsPairs != test.plain || readsResults != test.plain {
			t.Errorf("%q: the scanner reads names %v, pairs %v, results %v", test.name, readsNames, readsPairs, readsResults)
		}
	}
}

// TestDecodeOther decodes what is not an answer, or not in the form that is
// expected.
func TestDecodeOther(t *testing.T) {
	const kv = `{"Key":"k","Value":"YQ==","Session":"s"}`
	for _, test := range []struct{ form, answer, want string }{
		{"names", `[]`, "[]"},
		{"names", `null`, "[]"},
		{"names", `["a",7]`, "error"},
		{"names", `["a"`, "error"},
		{"names", `["a",]`, "error"},
		{"names", "", "error"},
		{"names", `{"a":1}`, "error"},
		{"pairs", `[]`, "[]"},
		{"pairs", `null`, "[]"},
		{"pairs", `[` + kv + `]`, "[k=a by s]"},
		{"pairs", `[` + kv + `,` + kv + `]`, "[k=a by s k=a by s]"},
		{"pairs", `[{"Session":"s","New":{"x":[1]},"Key":"k","Value":"YQ=="}]`, "[k=a by s]"},
		{"pairs", `[{"Key":"k","New":[1,"]"],"Value":null}]`, "[k= by ]"},
		{"pairs", `[{"Key":"k","Value":""}]`, "[k= by ]"},
		{"pairs", `[{"Key":null,"Value":"YQ=="}]`, "[=a by ]"},
		{"pairs", `[{}]`, "[= by ]"},
		{"pairs", `[{"Key":"k","Value":"?"}]`, "error"},
		{"pairs", `[{"Key":"k","Value":"YQ=="`, "error"},
		{"pairs", `[{"Key":"k" "Value":"YQ=="}]`, "error"},
		{"pairs", `[` + kv + ` x`, "error"},
		{"pairs", `["k"]`, "error"},
		{"results", `{"Results":[{"KV":` + kv + `}],"Errors":null,"Index":1}`, "[k=a by s]"},
		{"results", `{"Errors":null,"Results":[{"KV":` + kv + `}]}`, "[k=a by s]"},
		{"results", `{"Results":[],"Errors":null}`, "[]"},
		{"results", `{"Results":null}`, "[]"},
		{"results", `{"Results":[{"Node":{"ID":"x"}}]}`, "error"},
		{"results", `{"Results":[{"KV":null}]}`, "error"},
		{"results", `{"Results":[{"KV":` + kv + `}`, "error"},
	} {
		decode := map[string]func([]byte) ([]entry, error){"names": decodeNames, "pairs": decodeValues, "results": decodeResults}[test.form]
		pairs, err := decode([]byte(test.answer))
		texts := []string{}
		for _, p := range pairs {
			texts = append(texts, fmt.Sprintf("%s=%s by %s", p.Key, p.Value, p.Session))
		}
		got := fmt.Sprint(texts)
		if err != nil {
			got = "error"
		}
		if got != test.want {
			t.Errorf("%s %s: %s (%v), want %s", test.form, test.answer, got, err, test.want)
		}
	}
}

// BenchmarkDecode decodes 128 chunks of 1,000 bytes.
func BenchmarkDecode(b *testing.B) {
	var answer strings.Builder
	value := base64.StdEncoding.EncodeToString(bytes.Repeat([]byte("some words"), 100))
	separator := "["
	for i := range newMaxOps {
		fmt.Fprintf(&answer, `%s{"LockIndex":1,"Key":"_rexec/%036d/web-%05d/out/00000","Flags":0,"Value":"%s","Session":"%036d","CreateIndex":123456,"ModifyIndex":123456}`,
			separator, 7, i, value, 7)
		separator = ","
	}
	answer.WriteString("]")
	doc := []byte(answer.String())
	for name, decode := range map[string]func([]byte) ([]entry, error){
		"scanner": decodeValues,
		"json": func(answer []byte) (pairs []entry, err error) {
			err = json.NewDecoder(bytes.NewReader(answer)).Decode(&pairs) // as consul/api does
			return pairs, err
		},
	} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(doc)))
			b.ReportAllocs()
			for b.Loop() {
				if pairs, err := decode(doc); err != nil || len(pairs) != newMaxOps || len(pairs[1].Value) != 1000 {
					b.Fatalf("%d pairs, %v", len(pairs), err)
				}
			}
		})
	}
}
