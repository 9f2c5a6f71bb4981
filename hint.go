package consulexec

import "errors"

// What the error of a node says besides the status, if the agent's $SHELL may
// have refused to run anything.
var (
	errSilentShell = errors.New("without output: the agent's $SHELL may be nologin or false; see WithShell")
	errNologin     = errors.New("the agent's $SHELL may be nologin; see WithShell")
)

// nologinWords are all that nologin prints, instead of running a command.
const nologinWords = "This account is currently not available."

// A nologinMatch compares the output of a node with nologinWords, as it comes.
// It keeps no output.
type nologinMatch struct {
	length  int  // how many of the words' bytes have come
	differs bool // the output is something else
}

// add goes on with a piece of output. Space around the words does not count.
func (m *nologinMatch) add(output []byte) {
	for _, b := range output {
		switch {
		case m.differs:
			return
		case m.length < len(nologinWords) && b == nologinWords[m.length]:
			m.length++
		case m.length > 0 && m.length < len(nologinWords) || !isSpace(b):
			m.differs = true
		}
	}
}

// complete reports whether the output is nologinWords.
func (m *nologinMatch) complete() bool { return m.length == len(nologinWords) && !m.differs }

func isSpace(b byte) bool { return b == ' ' || '\t' <= b && b <= '\r' }

// shellHint returns what an exited node's failure may be due to, or nil.
func (s *state) shellHint(n *node) error {
	switch {
	case !s.agentShell:
		return nil
	case n.ExitCode == 1 && n.OutputBytes == 0 && !n.Truncated:
		return errSilentShell
	case n.nologin.complete() && !n.Truncated:
		return errNologin
	}
	return nil
}
