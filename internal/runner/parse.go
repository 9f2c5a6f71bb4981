package runner

import (
	"strconv"
	"strings"
	"time"
)

// A Role is what a job of this package does.
type Role string

const (
	RoleStart Role = "start" // runs a Spec
	RoleEnd   Role = "end"   // see End
	RoleAsk   Role = "ask"   // see Ask
)

// A Parsed job is a job of this package, as its makers have described it. Which
// fields count depends on the role.
type Parsed struct {
	Role Role
	ID   string // of the run

	Spec Spec // of start; it is always Killable

	Name string        // of ask
	From int64         // of ask
	Keep time.Duration // of ask
}

// Parse is the reverse of Spec.Job, End and Ask. ok is false if an agent alone
// can run the job. Times are whole seconds, and a limit that the node does not
// count is none. A shell that the script's #! line names as well is left out.
func Parse(job Job) (p Parsed, ok bool) {
	if len(job.Args) < 5 {
		return Parsed{}, false
	}
	p.ID = job.Args[4]
	args := job.Args[5:]
	for role, program := range map[Role]string{RoleStart: start, RoleEnd: end, RoleAsk: ask} {
		if job.Args[2] == shell(p.ID, string(role), program)[2] {
			p.Role = role
		}
	}
	switch {
	case p.Role == RoleStart && len(args) >= 13:
		p.Spec, ok = parseStart(args, job.Script)
	case p.Role == RoleAsk && len(args) == 3:
		from, err := strconv.ParseInt(args[1], 10, 64)
		p.Name, p.From, p.Keep, ok = args[0], from-1, parseSeconds(args[2]), err == nil
	default:
		ok = p.Role == RoleEnd
	}
	if !ok {
		return Parsed{}, false
	}
	return p, true
}

// parseStart is the reverse of wrap.
func parseStart(args []string, data []byte) (s Spec, ok bool) {
	s = Spec{Keep: parseSeconds(args[0]), Timeout: parseSeconds(args[1]), MaxOutput: NoLimit, Dir: args[3], Killable: true}
	if passed, err := strconv.ParseInt(args[2], 10, 64); err == nil {
		s.MaxOutput = passed - 1
	}
	var lengths [4]int
	for i := range lengths {
		lengths[i], _ = strconv.Atoi(args[4+i]) // no data is no number
	}
	all, script, stdin, env := lengths[0], lengths[1], lengths[2], lengths[3]
	if all != len(data) || script+stdin+env > all {
		return Spec{}, false
	}
	data = data[all-script-stdin-env:]
	if stdin > 0 {
		s.Stdin = data[script : script+stdin]
	}
	s.Env = parseExports(string(data[script+stdin:]))
	kind, interpreter, rest := args[10], args[11], args[13:]
	switch {
	case kind == "command" && len(rest) == 1:
		s.Command, s.Shell = rest[0], interpreter
	case kind == "args":
		s.Args = rest
	case kind == "script":
		s.Script = data[:script]
		if len(rest) > 0 {
			s.Args = rest
		}
		if named, _, _ := Interpreter(s.Script); interpreter != named {
			s.Shell = interpreter
		}
	default:
		return Spec{}, false
	}
	return s, true
}

// parseSeconds is the reverse of seconds.
func parseSeconds(text string) time.Duration {
	n, _ := strconv.Atoi(text) // nothing is none
	return time.Duration(n) * time.Second
}

// parseExports is the reverse of exports.
func parseExports(text string) map[string]string {
	var env map[string]string
	for text != "" {
		var name, value string
		name, text, _ = strings.Cut(strings.TrimPrefix(text, "unset "), "\n")
		text = strings.TrimPrefix(text, "export "+name+"=")
		value, text = parseQuoted(text)
		text = strings.TrimPrefix(text, "\n")
		if env == nil {
			env = make(map[string]string)
		}
		env[name] = value
	}
	return env
}

// parseQuoted is the reverse of quote. It also returns the text after the word.
func parseQuoted(text string) (word, rest string) {
	var b strings.Builder
	for {
		part, rest, _ := strings.Cut(text[1:], "'")
		b.WriteString(part)
		if !strings.HasPrefix(rest, `\''`) {
			return b.String(), rest
		}
		b.WriteByte('\'')
		text = rest[len(`\'`):]
	}
}
