package main

import "regexp"

// flagOf has the flag for each option of the library that an error may name.
var flagOf = map[string]string{
	"WithNode":           "-node",
	"WithService":        "-service",
	"WithTag":            "-tag",
	"WithNodes":          "-nodes",
	"WithHealthyService": "-healthy-service",
	"WithFilter":         "-filter",
	"WithLimit":          "-limit",

	"WithScript":    "a script on standard input",
	"WithArgs":      "-shell=false",
	"WithShell":     "-shell-path",
	"WithEnv":       "-env",
	"WithDir":       "-dir",
	"WithStdin":     "-stdin-file",
	"WithMaxOutput": "-max-output",

	"WithConcurrency":        "-concurrency",
	"WithConcurrencyPercent": "-concurrency",
	"WithMaxFailures":        "-max-failures",
	"WithTimeout":            "-timeout",
	"WithRecovery":           "-recover",
	"WithKillOnCancel":       "-kill",
	"WithWait":               "-wait",
	"WithReplicationWait":    "-wait-repl",
	"WithPrefix":             "-prefix",
	"WithDatacenter":         "-datacenter",
}

// A flagError is an error of the library whose text names flags instead of
// options.
type flagError struct{ err error }

func (e flagError) Error() string { return flagNames(e.err.Error()) }
func (e flagError) Unwrap() error { return e.err }

// inFlags returns the error with flags in its text. For nil it returns nil.
func inFlags(err error) error {
	if err == nil {
		return nil
	}
	return flagError{err}
}

// optionName matches an option, as in WithShell, WithLimit(3) and WithNode("(").
var optionName = regexp.MustCompile(`\b(With[A-Z]\w*)(?:\(([^()"]*|"(?:[^"\\]|\\.)*")\))?`)

// flagNames replaces the options in a text by flags: WithNode("a") by -node="a".
func flagNames(text string) string {
	return optionName.ReplaceAllStringFunc(text, func(option string) string {
		match := optionName.FindStringSubmatch(option)
		name, value := match[1], match[2]
		flag, known := flagOf[name]
		switch {
		case !known:
			return option
		case value == "":
			return flag
		case name == "WithNodes":
			return flag + " (" + value + ")" // their number
		case name == "WithConcurrencyPercent":
			value += "%"
		}
		return flag + "=" + value
	})
}
