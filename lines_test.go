package consulexec

import (
	"bytes"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// full is as much of a line as there may be.
var full = strings.Repeat("x", MaxLine)

// TestLine cuts output into lines, however it was cut into pieces before.
func TestLine(t *testing.T) {
	for _, test := range []struct {
		name   string
		output string
		want   []string
	}{
		{"nothing", "", nil},
		{"one", "a\n", []string{"a"}},
		{"two", "a\nbc\n", []string{"a", "bc"}},
		{"the last without a newline", "a\nbc", []string{"a", "bc"}},
		{"empty", "\na\n\n\n", []string{"", "a", "", ""}},
		{"CRLF", "a\r\n\r\nb\r\n", []string{"a", "", "b"}},
		{"CR in a line", "1%\r2%\r\n", []string{"1%\r2%"}},
		{"CR before CRLF", "a\r\r\n", []string{"a\r"}},
		{"CR at the end", "a\r", []string{"a\r"}},
		{"CR after a newline", "a\n\rb\n", []string{"a", "\rb"}},
		{"bytes", "caf\xc3\xa9\xff\x00\n\xc3", []string{"café\xff\x00", "\xc3"}},
		{"full", full + "\na\n", []string{full, "a"}},
		{"full at the end", full, []string{full}},
		{"full and CRLF", full + "\r\n\n", []string{full, ""}},
		{"full with CR", full[1:] + "\r\n", []string{full[1:]}},
		{"full with CR in it", full[1:] + "\ra\n", []string{full[1:] + "\r", "a"}},
		{"full and CR", full + "\r", []string{full, "\r"}},
		{"full, CR and more", full + "\ra\n", []string{full, "\ra"}},
		{"full, CR and CRLF", full + "\r\r\n", []string{full, "\r"}},
		{"too long", full + "abc\nd\n", []string{full, "abc", "d"}},
		{"twice full", full + full + "\n", []string{full, full}},
		{"twice full and CRLF", full + full + "\r\n", []string{full, full}},
		{"too long at the end", full + full + "a", []string{full, full, "a"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := linesOf(test.output); !slices.Equal(got, test.want) {
				t.Errorf("reference: %s, want %s", short(got), short(test.want))
			}
			for _, size := range []int{1, 2, 3, 5, 7, 4096, MaxLine - 1, MaxLine, MaxLine + 1, 4 * MaxLine} {
				pieces := slices.Collect(slices.Chunk([]byte(test.output), size))
				if got := cut(t, pieces); !slices.Equal(got, test.want) {
					t.Errorf("pieces of %d: %s, want %s", size, short(got), short(test.want))
				}
			}
		})
	}
}

// cut cuts pieces of output into lines.
func cut(t *testing.T, pieces [][]byte) (lines []string) {
	t.Helper()
	var l line
	emit := func(text []byte) { lines = append(lines, string(text)) }
	for _, piece := range pieces {
		given := slices.Clone(piece)
		l.add(piece, emit)
		if !bytes.Equal(piece, given) {
			t.Fatal("output was changed")
		}
		if cap(l.begun) > MaxLine+1 {
			t.Fatalf("%d bytes of memory", cap(l.begun))
		}
		clear(piece) // nobody may look at it later
	}
	l.end(emit)
	return lines
}

// linesOf says what the lines of an output are.
func linesOf(output string) (lines []string) {
	for text := range strings.SplitAfterSeq(output, "\n") {
		if whole, ends := strings.CutSuffix(text, "\n"); ends {
			text = strings.TrimSuffix(whole, "\r")
		} else if text == "" {
			continue
		}
		for len(text) > MaxLine {
			lines = append(lines, text[:MaxLine])
			text = text[MaxLine:]
		}
		lines = append(lines, text)
	}
	return lines
}

// short describes lines, as quoting what is long would help nobody.
func short(lines []string) string {
	var all []string
	for _, text := range lines {
		all = append(all, fmt.Sprintf("%d bytes %.20q", len(text), text))
	}
	return strings.Join(all, ", ")
}

// FuzzLine shows that the lines do not depend on the pieces. Each byte of cuts
// is the length of a piece, and each "L" in the output stands for nearly a full
// line.
func FuzzLine(f *testing.F) {
	f.Add("a\r\nb\n\nc", []byte{2, 1, 3})
	f.Add("LLL\r\nLx\r\n", []byte{255, 254, 253, 200, 1})
	f.Add("L\xff\xffxxx\r\nLxxxxxx\r\r\nLxxxxx\r", []byte{1})
	f.Add("L12345678\r\n", []byte{7, 255})
	f.Fuzz(func(t *testing.T, output string, cuts []byte) {
		if strings.Count(output, "L") > 3 || len(output) > 1000 {
			t.Skip("is long")
		}
		output = strings.ReplaceAll(output, "L", full[5:])
		var pieces [][]byte
		for rest, i := []byte(output), 0; len(rest) > 0; i++ {
			n := len(rest)
			if len(cuts) > 0 {
				n = min(n, 1+int(cuts[i%len(cuts)])<<(i%9))
			}
			pieces = append(pieces, rest[:n:n])
			rest = rest[n:]
		}
		want := linesOf(output)
		if got := cut(t, pieces); !slices.Equal(got, want) {
			t.Errorf("%s, want %s", short(got), short(want))
		}
	})
}

// testListener returns the listener of callbacks that say what they are called
// with.
func testListener(t testing.TB, say func(format string, args ...any)) listener {
	return testConfig(t,
		OnOutput(func(node string, output []byte) { say("output %s %q", node, output) }),
		OnLine(func(node, line string) { say("line %s %q", node, line) }),
		OnExit(func(node string, code int) { say("exit %s %d", node, code) }),
		OnLost(func(node string, err error) { say("lost %s %v", node, err) }),
		OnError(func(err error) { say("error %v", err) }),
		OnDone(func() { say("done") }),
	).handlers.listener()
}

// TestLineCallbacks looks at what is called when.
func TestLineCallbacks(t *testing.T) {
	var got []string
	listen := testListener(t, func(format string, args ...any) { got = append(got, fmt.Sprintf(format, args...)) })
	listen(Event{Type: EventOutput, Node: "a", Output: []byte("1\n2\n3")})
	listen(Event{Type: EventOutput, Node: "b", Output: []byte("x")})
	listen(Event{Type: EventOutput, Node: "d", Output: []byte("?")})
	listen(Event{Type: EventOutput, Node: "c", Output: []byte("why")})
	listen(Event{Type: EventOutput, Node: "a", Output: []byte("\r")})
	listen(Event{Type: EventOutput, Node: "e", Output: []byte("\n")})
	listen(Event{Type: EventExit, Node: "a", ExitCode: 3})
	listen(Event{Type: EventLost, Node: "b", Err: errors.New("silent")})
	listen(Event{Type: EventExit, Node: "e", ExitCode: 0})
	listen(Event{Type: EventExit, Node: "f", ExitCode: 0})
	listen(Event{Type: eventError, Err: errors.New("no session")})
	want := []string{
		`output a "1\n2\n3"`, `line a "1"`, `line a "2"`,
		`output b "x"`,
		`output d "?"`,
		`output c "why"`,
		`output a "\r"`,
		`output e "\n"`, `line e ""`,
		`line a "3\r"`, `exit a 3`,
		`line b "x"`, `lost b silent`,
		`exit e 0`,
		`exit f 0`,
		`line c "why"`, `line d "?"`, `error no session`,
	}
	if !slices.Equal(got, want) {
		t.Errorf("called\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// TestLineMemory has many nodes print no newline at all. When a node has ended,
// nothing of its line may be left.
func TestLineMemory(t *testing.T) {
	lines := 0
	listen := testListener(t, func(string, ...any) { lines++ })
	before := heap()
	const nodes = 200
	for i := range nodes {
		node := fmt.Sprint("node-", i)
		for range 3 * MaxLine / 4096 {
			listen(Event{Type: EventOutput, Node: node, Output: []byte(full[:4096])})
		}
		if i%2 == 0 {
			listen(Event{Type: EventExit, Node: node, ExitCode: 0})
		} else {
			listen(Event{Type: EventLost, Node: node, Err: errors.New("silent")})
		}
	}
	if grown := heap() - before; grown > 50*MaxLine {
		t.Errorf("%d bytes kept", grown)
	}
	if want := nodes * (3*MaxLine/4096 + 3 + 1); lines != want {
		t.Errorf("%d calls, want %d", lines, want)
	}
	runtime.KeepAlive(listen)
}

func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// TestNoLines shows that lines cost nothing if nobody wants them.
func TestNoLines(t *testing.T) {
	listen := testConfig(t).handlers.listener()
	output := []byte("x")
	if n := testing.AllocsPerRun(100, func() { listen(Event{Type: EventOutput, Node: "a", Output: output}) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}
