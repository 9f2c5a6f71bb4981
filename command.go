package consulexec

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/consulexec/consulexec/internal/runner"
)

// maxArgument bounds an argument or a variable of a process, which has fewer
// bytes. It is MAX_ARG_STRLEN of Linux, which counts the NUL byte at the end.
const maxArgument = 128 << 10

// WithScript runs a script instead of a command. A script may hold any bytes.
// WithArgs gives it arguments. The shell of WithShell runs it. Without
// WithShell, the interpreter of its "#!" line does. If the script has no such
// line, the agent's shell runs it: $SHELL, or /bin/sh if the agent has no
// $SHELL.
//
// The script becomes a file in the agent's temporary directory (TMPDIR), which
// may be mounted noexec. It runs whole or not at all: if the disk is full, it
// does not run, and the status is 126. By default Consul takes some 380 KiB:
// kv_max_value_size is 512 KiB, and the script travels in base64. A larger
// script is an error of the run.
//
// WithTimeout says what a node needs. The option does not work on Windows
// agents. Given twice, the later value counts.
func WithScript(script []byte) Option {
	return func(c *config) error {
		c.job.Script = append([]byte{}, script...) // not nil: it was given
		if len(script) == 0 {
			return badValue("WithScript", "", errors.New("is empty"))
		}
		return nil
	}
}

// WithArgs runs a program with arguments instead of a command, without a shell.
// The first argument is the program. The agent looks it up in its PATH. An
// argument has under 128 KiB, as Linux starts no process with a longer one. It
// is valid UTF-8 and has no NUL byte. The option works on Windows agents.
//
// Beside WithScript all of args are arguments of the script: the first is $1.
// They may be empty, and so may args. The order of the two options makes no
// difference. Given twice, the later arguments count alone.
func WithArgs(args ...string) Option {
	return func(c *config) error {
		c.job.Args = append([]string{}, args...) // not nil: they were given
		for i, arg := range args {
			if err := checkArgument(arg); err != nil {
				return &OptionError{Option: "WithArgs", Err: fmt.Errorf("argument %d: %w", i+1, err)}
			}
		}
		return nil
	}
}

// WithShell says which shell runs the command or the script, whatever $SHELL
// the agent has: a path, or a name that the agent looks up in its PATH. The
// shell gets a command as "path -c command", and a script as "path file
// arguments...". The path is not empty, is valid UTF-8 and has no NUL byte. The
// default is the agent's $SHELL, or /bin/sh if it has none; a script may name
// its interpreter.
//
// New refuses the option beside WithArgs, unless there is a script: no shell
// runs a program of WithArgs. For a command the option works on Windows agents
// too, for example with "powershell". Given twice, the later value counts.
func WithShell(path string) Option {
	return func(c *config) error {
		if err := checkPath("WithShell", path); err != nil {
			return err
		}
		c.job.Shell = path
		return nil
	}
}

// WithEnv adds variables to the environment of the command, which has the
// agent's environment otherwise. If the agent has a variable too, the value
// here counts. By default, and with a nil or empty map, it adds nothing. If the
// option is given twice, the later map counts alone.
//
// A name consists of ASCII letters, digits and "_", and does not begin with a
// digit. A value is valid UTF-8 without a NUL byte; with its name it has under
// 128 KiB. New's errors name the variable, never its value. Values are in no
// process's arguments and in no agent's log. But they are in the job in
// Consul's KV store, like the command.
//
// A variable SHELL does not choose the shell that runs the command: WithShell
// does. A variable PATH counts for a program of WithArgs and a name of WithShell,
// too. A node whose /bin/sh does not let go of a variable can't set it: with bash
// these are UID, EUID, PPID and SHELLOPTS, with dash OPTIND. There the command
// does not run. The status is 125, and the reason is the output.
//
// WithTimeout says what a node needs. The option does not work on Windows
// agents.
func WithEnv(variables map[string]string) Option {
	return func(c *config) error {
		for _, name := range slices.Sorted(maps.Keys(variables)) {
			if err := checkVariable(name, variables[name]); err != nil {
				return &OptionError{Option: "WithEnv", Err: err}
			}
		}
		c.job.Env = maps.Clone(variables)
		return nil
	}
}

// WithDir runs the command in this directory. The path is absolute: it begins
// with "/". It is valid UTF-8 and has no NUL byte. The default is the agent's
// own working directory. On a node that can't enter the directory, the command
// does not run. The status is 125 there, and the reason is the output.
//
// WithTimeout says what a node needs. The option does not work on Windows
// agents. Given twice, the later value counts.
func WithDir(path string) Option {
	return func(c *config) error {
		if err := checkPath("WithDir", path); err != nil {
			return err
		}
		if !strings.HasPrefix(path, "/") {
			return badValue("WithDir", path, errors.New(`does not begin with "/"`))
		}
		c.job.Dir = path
		return nil
	}
}

// WithStdin is the input of the command, any bytes. The default is empty input,
// and so is nil. Input is in no process's arguments and in no agent's log. But
// it is in the job in Consul's KV store, so it shares the size limit of
// WithScript.
//
// WithTimeout says what a node needs. The option does not work on Windows
// agents. Given twice, the later value counts.
func WithStdin(input []byte) Option {
	return func(c *config) error {
		c.job.Stdin = nil // needs no runner
		if len(input) > 0 {
			c.job.Stdin = bytes.Clone(input)
		}
		return nil
	}
}

// WithMaxOutput limits the output of each node to its first n bytes, n >= 0:
// stdout and stderr in one stream. The default is no limit. The node throws the
// rest away, so that it does not burden Consul's servers. One byte more may
// travel, to tell that there was more; nobody gets it. A node does not count
// beyond 2 GiB, and passes on all output if n is larger. NodeResult.Truncated
// says whether output was thrown away. The command does not notice: it gets no
// SIGPIPE, and its status stays the same. If a command can't run, the limit cuts
// the reason, too.
//
// WithTimeout says what a node needs. The option does not work on Windows
// agents. Given twice, the later value counts.
func WithMaxOutput(n int64) Option {
	return func(c *config) error {
		if n < 0 {
			return badValue("WithMaxOutput", n, errors.New("is negative"))
		}
		c.job.MaxOutput = n
		return nil
	}
}

// checkCommand checks that there is exactly one thing to run, and that it
// reaches the agents unchanged. Its errors do not repeat the text, which may be
// secret.
func (c *config) checkCommand() error {
	command, script, args := c.job.Command, c.job.Script, c.job.Args
	switch {
	case command == "" && script == nil && args == nil:
		return ErrNoCommand
	case command != "" && script != nil:
		return &OptionError{Option: "command", shown: " and WithScript", Err: errors.New("want exactly one of them")}
	case command != "" && args != nil:
		return &OptionError{Option: "command", shown: " and WithArgs", Err: errors.New("want exactly one of them")}
	case command != "":
		return checkShellCommand(command)
	case script == nil:
		return c.checkProgram()
	}
	if c.job.Shell != "" {
		return nil
	}
	interpreter, word, err := runner.Interpreter(script)
	if err == nil {
		err = checkSize(max(len(interpreter), len(word)))
	}
	if err != nil {
		return &OptionError{Option: "WithScript", Err: err}
	}
	return nil
}

// checkShellCommand checks a command that a shell runs.
func checkShellCommand(command string) error {
	if strings.TrimSpace(command) == "" {
		return fmt.Errorf("the command is blank: %w", ErrNoCommand)
	}
	if err := checkArgument(command); err != nil {
		return &OptionError{Option: "command", Err: err}
	}
	return nil
}

// checkProgram checks arguments that are not those of a script.
func (c *config) checkProgram() error {
	if len(c.job.Args) == 0 || c.job.Args[0] == "" {
		return &OptionError{Option: "WithArgs", Err: errors.New("has no program")}
	}
	if c.job.Shell != "" {
		return &OptionError{
			Option: "WithShell", Value: c.job.Shell, shown: fmt.Sprintf("(%q) and WithArgs", c.job.Shell),
			Err: errors.New("no shell runs a program of WithArgs"),
		}
	}
	return nil
}

// byAgentShell reports whether the shell that the agent's environment names
// runs the command or script.
func (c *config) byAgentShell() bool {
	if c.job.Shell != "" {
		return false
	}
	return c.job.Command != "" || c.job.Script != nil && !bytes.HasPrefix(c.job.Script, []byte("#!"))
}

// checkArgument refuses text that a process can't have as an argument.
func checkArgument(s string) error {
	if err := checkText(s); err != nil {
		return fmt.Errorf("%w; WithScript and WithStdin take any bytes", err)
	}
	if err := checkSize(len(s)); err != nil {
		return fmt.Errorf("%w; WithScript and WithStdin take more", err)
	}
	return nil
}

// checkSize refuses an argument or a variable of so many bytes.
func checkSize(length int) error {
	if length < maxArgument {
		return nil
	}
	return fmt.Errorf("has %d bytes: Linux starts no process with an argument or variable of %d or more", length, maxArgument)
}

// checkPath refuses the path of a file or directory that a node can't have.
func checkPath(option, path string) error {
	if path == "" {
		return badValue(option, path, errors.New("is empty"))
	}
	if err := checkText(path); err != nil {
		return badValue(option, path, err)
	}
	if err := checkSize(len(path)); err != nil {
		return &OptionError{Option: option, Err: err}
	}
	return nil
}

// A variableName is a name that every shell takes.
var variableName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// checkVariable refuses a variable that a shell or a process can't have.
func checkVariable(name, value string) error {
	if before, _, found := strings.Cut(name, "="); found {
		return fmt.Errorf("variable %q: its name has a \"=\"", before) // a value may follow
	}
	if !variableName.MatchString(name) {
		return fmt.Errorf("variable %q: is not a name: want letters, digits and _, and no digit first", name)
	}
	if err := checkText(value); err != nil {
		return fmt.Errorf("variable %s: its value %w", name, err)
	}
	if err := checkSize(len(name) + len("=") + len(value)); err != nil {
		return fmt.Errorf("variable %s: %w", name, err)
	}
	return nil
}

// checkText refuses text that a job spec or a process can't hold. JSON would
// change invalid UTF-8 on the way to the agents.
func checkText(s string) error {
	switch {
	case !utf8.ValidString(s):
		return errors.New("is not valid UTF-8")
	case strings.ContainsRune(s, 0):
		return errors.New("has a NUL byte")
	}
	return nil
}
