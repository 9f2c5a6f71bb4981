package main

import (
	"encoding/json"
	"testing"
)

func TestVisible(t *testing.T) {
	for text, want := range map[string]string{
		"":                          "",
		"a\tb\n":                    "a\tb\n",
		"grün 😀 👩‍🔧":                "grün 😀 👩‍🔧",
		"1%\r2%\r\n":                `1%\r2%\r` + "\n",
		"\x00\a\b\v\f\x1b[31m\x7f":  `\x00\x07\x08\x0b\x0c\x1b[31m\u007f`,
		"\u0085\u009b\u200e\u202e;": `\u0085\u009b\u200e\u202e;`,
		"ä\x9b\xe2\x82":             `ä\x9b\xe2\x82`,
		"\ufffd":                    "\ufffd",
	} {
		if got := visible(text); got != want {
			t.Errorf("%q becomes %q, want %q", text, got, want)
		}
	}
}

// TestVisibleJSON wants JSON to stay the same JSON.
func TestVisibleJSON(t *testing.T) {
	var all, back string
	for r := range rune(0x2100) {
		all += string(r)
	}
	line, err := json.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(visible(string(line))), &back); err != nil || back != all {
		t.Errorf("error %v, %q", err, back)
	}
}
