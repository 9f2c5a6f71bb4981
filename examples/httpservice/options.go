package main

import (
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"net"
	"slices"
	"strings"
)

// options are the flags of the program.
type options struct {
	listen    string
	demo      bool
	maxRuns   int
	users     string
	hosts     string
	cert, key string
}

// parse reads the flags. On -h and on a flag that there is not, it ends the
// program, as package flag does.
func parse(args []string) (options, error) {
	var o options
	flags := flag.NewFlagSet("httpservice", flag.ExitOnError)
	flags.StringVar(&o.listen, "listen", "127.0.0.1:8080", "listen on this `address`; on loopback, unless there are -users, a certificate and a -host")
	flags.BoolVar(&o.demo, "demo", false, "run the commands on this machine, on five embedded nodes, to try this service without Consul")
	flags.IntVar(&o.maxRuns, "max-runs", 16, "refuse further runs if this `number` is under way")
	flags.StringVar(&o.users, "users", "", "let only users in who have a token of this `file`")
	flags.StringVar(&o.hosts, "host", "", "`names` by which clients reach this service, with commas; needs -users")
	flags.StringVar(&o.cert, "tls-cert", "", "serve HTTPS with the certificate of this `file`")
	flags.StringVar(&o.key, "tls-key", "", "the `file` with the key of -tls-cert")
	flags.Parse(args)
	var err error
	flags.Visit(func(f *flag.Flag) {
		if f.Value.String() == "" { // a variable that nobody has set
			err = fmt.Errorf("-%s is empty", f.Name)
		}
	})
	switch {
	case err != nil:
		return o, err
	case flags.NArg() > 0:
		return o, fmt.Errorf("%q is no flag", flags.Arg(0))
	case o.maxRuns < 1:
		return o, fmt.Errorf("-max-runs=%d: want at least 1", o.maxRuns)
	case (o.cert == "") != (o.key == ""):
		return o, errors.New("-tls-cert and -tls-key belong together")
	case o.hosts != "" && o.users == "":
		return o, errors.New("-host needs -users: without authentication, the service answers to names of loopback only")
	}
	return o, nil
}

// settings returns what the server needs to know.
func (o options) settings() (settings, error) {
	set := settings{maxRuns: o.maxRuns}
	if o.hosts != "" {
		set.hosts = strings.Split(strings.ToLower(o.hosts), ",")
		if slices.Contains(set.hosts, "") {
			return set, fmt.Errorf("-host=%s: a name is empty", o.hosts)
		}
	}
	if o.users != "" {
		t, err := readTokens(o.users)
		if err != nil {
			return set, err
		}
		set.auth = t
	}
	return set, nil
}

// listener listens. Elsewhere than on loopback it does so only with
// authentication and TLS.
func (o options) listener(set settings) (net.Listener, error) {
	listener, err := net.Listen("tcp", o.listen)
	if err != nil {
		return nil, err
	}
	address, ok := listener.Addr().(*net.TCPAddr)
	if ok && address.IP.IsLoopback() || set.auth != nil && o.cert != "" && len(set.hosts) > 0 {
		return listener, nil
	}
	listener.Close()
	return nil, fmt.Errorf("%s is not a loopback address: that needs authentication (-users), a certificate (-tls-cert, -tls-key) and a name (-host)", o.listen)
}

// certificate returns how to serve HTTPS, or nil for HTTP.
func (o options) certificate() (*tls.Config, error) {
	if o.cert == "" {
		return nil, nil
	}
	pair, err := tls.LoadX509KeyPair(o.cert, o.key)
	if err != nil {
		return nil, fmt.Errorf("read the certificate: %w", err)
	}
	return &tls.Config{Certificates: []tls.Certificate{pair}}, nil
}
