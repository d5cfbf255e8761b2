package connect

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"
)

// DefaultDialTimeout is how long a side has to answer when nothing else is set.
const DefaultDialTimeout = 5 * time.Second

// Side is one etcd cluster as the settings describe it.
type Side struct {
	// Logger is told of TLS files that were renewed while a connection was open, and of those that cannot be used any more. nil discards.
	Logger *slog.Logger

	name     string
	settings *Settings

	endpoints, caCert, cert, key string
	user, passwordFile           string
	dialTimeout                  time.Duration
}

// NewSide defines the settings of a side, such as --source-endpoints for "source". Use the Side after Settings.Parse.
func NewSide(settings *Settings, name string) *Side {
	s := &Side{name: name, settings: settings}
	fs := settings.Flags
	fs.StringVar(&s.endpoints, s.flag("endpoints"), "", "`addresses` of the "+name+"'s etcd members: host:port, http://host:port or https://host:port, separated by commas")
	fs.StringVar(&s.caCert, s.flag("cacert"), "", "PEM `file` of the CAs that sign the servers' certificates; empty: those of this host")
	fs.StringVar(&s.cert, s.flag("cert"), "", "PEM `file` of the client certificate")
	fs.StringVar(&s.key, s.flag("key"), "", "PEM `file` of the client certificate's key")
	fs.StringVar(&s.user, s.flag("user"), "", "etcd `user`, as name or name:password; prefer a password file")
	fs.StringVar(&s.passwordFile, s.flag("password-file"), "", "`file` with the user's password")
	fs.DurationVar(&s.dialTimeout, s.flag("dial-timeout"), DefaultDialTimeout, "how long the "+name+" has to answer at the start")
	return s
}

// Name is what the side was made with.
func (s *Side) Name() string { return s.name }

// Where says where a setting of the side came from, for error messages: Where("user") is "--source-user".
func (s *Side) Where(setting string) string { return s.settings.Where(s.flag(setting)) }

func (s *Side) flag(setting string) string { return s.name + "-" + setting }

func (s *Side) usage(setting, problem, hint string) error {
	return Usage(s.Where(setting), problem, hint)
}

func (s *Side) log() *slog.Logger {
	if s.Logger == nil {
		return slog.New(slog.DiscardHandler)
	}
	return s.Logger
}

// plan is a Side that was checked.
type plan struct {
	endpoints      []Endpoint
	tls            *keyring // nil: no TLS
	user, password string
}

// Check reads the files and checks every setting without contacting anything. It returns all that is wrong, as ErrUsage.
func (s *Side) Check() error {
	_, err := s.plan()
	return err
}

// Endpoints are the side's addresses; nil if they are not usable.
func (s *Side) Endpoints() []Endpoint {
	endpoints, err := ParseEndpoints(s.endpoints)
	if err != nil {
		return nil
	}
	return endpoints
}

// Warnings are remarks about settings that work but should be changed.
func (s *Side) Warnings() []string {
	if strings.Contains(s.user, ":") && s.settings.OnCommandLine(s.flag("user")) {
		return []string{s.Where("user") + " holds a password, which every user of this host can read in the list of processes; use --" + s.flag("password-file")}
	}
	return nil
}

func (s *Side) plan() (*plan, error) {
	p := &plan{}
	var errs []error
	note := func(err error) { errs = append(errs, err) }
	var err error
	if s.endpoints == "" {
		note(s.usage("endpoints", "is missing", "give the addresses of the "+s.name+"'s etcd, such as https://10.0.0.1:2379"))
	} else if p.endpoints, err = ParseEndpoints(s.endpoints); err != nil {
		note(s.usage("endpoints", err.Error(), "write host:port, http://host:port or https://host:port, separated by commas"))
	}
	if s.dialTimeout <= 0 {
		note(s.usage("dial-timeout", fmt.Sprintf("%v is not positive", s.dialTimeout), "give a duration such as 5s"))
	}
	note(s.planTLS(p))
	note(s.planUser(p))
	return p, errors.Join(errs...)
}

func (s *Side) planUser(p *plan) error {
	var hasPassword bool
	p.user, p.password, hasPassword = strings.Cut(s.user, ":")
	switch {
	case s.user == "" && s.passwordFile == "":
		return nil
	case p.user == "":
		return s.usage("user", "names no user", "give --"+s.flag("user")+" name")
	case hasPassword && s.passwordFile != "":
		return s.usage("password-file", "is given though "+s.Where("user")+" holds a password already", "give one of them")
	case hasPassword && p.password == "":
		return s.usage("user", "holds an empty password", "give --"+s.flag("password-file"))
	case !hasPassword && s.passwordFile == "":
		return s.usage("user", "comes without a password", "give --"+s.flag("password-file"))
	case s.passwordFile == "":
		return nil
	}
	data, err := readFile(s.passwordFile)
	if err != nil {
		return s.usage("password-file", err.Error(), "give a file that this process can read")
	}
	p.password = strings.TrimRight(string(data), "\r\n")
	if p.password == "" || strings.ContainsAny(p.password, "\r\n") {
		return s.usage("password-file", s.passwordFile+" does not hold one line", "write the password as its only line")
	}
	return nil
}

// Shared returns an address that both sides list, "" if there is none: then they cannot be two clusters.
func Shared(a, b *Side) string {
	listed := map[string]bool{}
	for _, endpoint := range a.Endpoints() {
		listed[endpoint.Address] = true
	}
	for _, endpoint := range b.Endpoints() {
		if listed[endpoint.Address] {
			return endpoint.Address
		}
	}
	return ""
}
