package main

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// visible returns the text with what could make a terminal do something made
// visible: control characters but newline and tab, as in \r and \x1b; those
// that change the direction of text; and bytes that are not UTF-8.
func visible(text string) string {
	if utf8.ValidString(text) && !strings.ContainsFunc(text, controls) {
		return text
	}
	var out strings.Builder
	for text != "" {
		r, size := utf8.DecodeRuneInString(text)
		switch {
		case r == '\r':
			out.WriteString(`\r`)
		case r == utf8.RuneError && size == 1, r < ' ' && controls(r):
			fmt.Fprintf(&out, `\x%02x`, text[0])
		case controls(r):
			fmt.Fprintf(&out, `\u%04x`, r) // is JSON, too
		default:
			out.WriteString(text[:size])
		}
		text = text[size:]
	}
	return out.String()
}

func controls(r rune) bool {
	return unicode.IsControl(r) && r != '\n' && r != '\t' || unicode.Is(unicode.Bidi_Control, r)
}
