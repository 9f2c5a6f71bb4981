package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/consulexec/consulexec"
)

// A job is a command line after parsing.
type job struct {
	command string // empty if the options have a script or arguments
	options []consulexec.Option
	selects bool     // whether a flag selects nodes
	names   []string // of -nodes and -nodes-file
	limit   int

	format     string
	lines      bool
	verbose    bool
	list       bool // only list the nodes
	failedFile string
	blindOK    bool

	consul *api.Config
	demo   bool // run on an embedded cluster
}

// A parser makes a job of the flags.
type parser struct {
	*flag.FlagSet
	job   *job
	stdin io.Reader // nil once it was read

	once         map[string]bool // the flags given that may not be given twice
	service, tag string
	shell        bool
	shellPath    string
	variables    []string // name=value
	kill         bool
	separated    bool     // whether -- stands before the command
	located      []string // the flags given that say where Consul is or how to reach it
}

func newParser(stdin io.Reader) *parser {
	p := &parser{
		FlagSet: flag.NewFlagSet("consul-exec", flag.ContinueOnError),
		job:     &job{consul: api.DefaultConfig(), format: "text"},
		stdin:   stdin,
		once:    make(map[string]bool),
	}
	p.SetOutput(io.Discard) // main prints the error and the usage
	return p
}

// parse turns the command line into a job. The error is flag.ErrHelp if the
// command line asks for help.
func parse(args []string, stdin io.Reader) (*job, error) {
	p := newParser(stdin)
	for _, s := range subjects {
		s.define(p)
	}
	if err := p.Parse(args); err != nil {
		return nil, err
	}
	p.separated = p.separates(args[:len(args)-p.NArg()])
	for _, step := range []func() error{p.checkWords, p.checkTogether, p.setCommand, p.setEnvironment} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	if p.kill {
		p.job.options = append(p.job.options, consulexec.WithKillOnCancel())
	}
	return p.job, nil
}

// separates reports whether -- ends the flags, which are the words before the
// command. It may also be the value of a flag, as in -node --.
func (p *parser) separates(words []string) bool {
	for i := 0; i < len(words); i++ {
		name, _, hasValue := strings.Cut(strings.TrimLeft(words[i], "-"), "=")
		if name == "" {
			return true
		}
		boolean, ok := p.Lookup(name).Value.(interface{ IsBoolFlag() bool })
		if !hasValue && !(ok && boolean.IsBoolFlag()) {
			i++ // the next word is the value
		}
	}
	return false
}

// checkWords refuses flags after the command, which would become part of it.
func (p *parser) checkWords() error {
	if p.separated || p.NArg() == 0 {
		return nil
	}
	for _, word := range p.Args()[1:] {
		if word == "--" {
			return nil
		}
		name, _, _ := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(word, "-"), "-"), "=")
		if strings.HasPrefix(word, "-") && p.Lookup(name) != nil {
			return fmt.Errorf("-%s after the command: flags go before the command; if it is part of the command, put -- before the command", name)
		}
	}
	return nil
}

// checkTogether checks flags that need or exclude each other.
func (p *parser) checkTogether() error {
	if p.tag != "" && p.service == "" {
		return fmt.Errorf("invalid value %q for flag -tag: Cannot provide tag filter without service filter", p.tag)
	}
	if p.job.demo && len(p.located) > 0 {
		return fmt.Errorf("-demo cannot be combined with -%s: the demo has a cluster of its own", p.located[0])
	}
	if p.shellPath != "" && !p.shell {
		return errors.New("-shell-path cannot be combined with -shell=false, which uses no shell")
	}
	return nil
}

// setCommand sets what to run: the arguments, or the script on stdin.
func (p *parser) setCommand() error {
	j, command := p.job, strings.Join(p.Args(), " ")
	switch {
	case j.list:
		j.command = "true" // does not run
	case command == "-" && !p.shell:
		return errors.New("invalid value false for flag -shell: Cannot configure -shell=false when reading from stdin")
	case command == "-":
		script, err := p.readFile("-")
		if err != nil {
			return fmt.Errorf("read the script: %w", err)
		}
		if len(script) == 0 {
			return errNoCommand
		}
		j.options = append(j.options, consulexec.WithScript(script))
	case command == "":
		return errNoCommand
	case !p.shell:
		j.options = append(j.options, consulexec.WithArgs(p.Args()...))
	default:
		j.command = command
	}
	return nil
}

//lint:ignore ST1005 consul exec prints exactly these words
var errNoCommand = errors.New("Must specify a command to execute")

// text defines a flag whose value must not be empty: "$UNSET" is a mistake.
func (p *parser) text(name, usage string, set func(value string) error) {
	p.Func(name, usage, func(value string) error {
		if value == "" {
			return errors.New("is empty: if that is meant, leave the flag out")
		}
		return set(value)
	})
}

// single defines a flag with text that must not be given twice.
func (p *parser) single(name, usage string, set func(value string) error) {
	p.text(name, usage, func(value string) error {
		if p.once[name] {
			return errors.New("is given twice")
		}
		p.once[name] = true
		return set(value)
	})
}

func (p *parser) duration(name, usage string, option func(time.Duration) consulexec.Option) {
	p.Func(name, usage, func(value string) error {
		d, err := time.ParseDuration(value)
		if err != nil {
			return err
		}
		return p.add(option(d))
	})
}

// check returns what is wrong with an option. The library knows which values are
// valid. The error has neither the option nor its value, as that of a flag has
// both. But it has the name, if one of several is wrong.
func check(option consulexec.Option) error {
	_, err := consulexec.New("true", consulexec.WithClient(new(api.Client)), consulexec.WithService("."), option)
	var bad *consulexec.OptionError
	switch {
	case !errors.As(err, &bad):
		return err
	case bad.Option == "WithNodes":
		return fmt.Errorf("%q: %w", bad.Value, bad.Err)
	}
	return inFlags(bad.Err)
}

// add adds an option.
func (p *parser) add(option consulexec.Option) error {
	if err := check(option); err != nil {
		return err
	}
	p.job.options = append(p.job.options, option)
	return nil
}

// addNumber adds an option with a number.
func (p *parser) addNumber(value string, option func(int) consulexec.Option) error {
	n, err := strconv.Atoi(value)
	if err != nil {
		return errors.New("not a number")
	}
	return p.add(option(n))
}

// readFile reads a file, or stdin if its name is "-".
func (p *parser) readFile(name string) ([]byte, error) {
	if name != "-" {
		return os.ReadFile(name)
	}
	stdin := p.stdin
	if p.stdin = nil; stdin == nil {
		return nil, errors.New("standard input can't be read twice")
	}
	return io.ReadAll(stdin)
}
