package connect

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// Settings is a set of flags whose values may also come from environment variables and from a YAML file with the same
// names. A flag wins over the environment, the environment over the file. Make one with NewSettings.
type Settings struct {
	// Flags takes the definitions. A flag named "config" is the path of the file; without it there is none.
	Flags *flag.FlagSet
	// AlsoInFile are further names that the file may hold, because it is shared with other commands. They are ignored.
	AlsoInFile map[string]bool

	env      string
	flagOnly map[string]bool
	origin   map[string]string // name -> where its value came from, as to be shown
}

// NewSettings returns an empty set. The variable of a setting is envPrefix, "_" and its name in capitals, "-" as "_".
func NewSettings(envPrefix string) *Settings {
	fs := flag.NewFlagSet("", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.Usage = func() {}
	return &Settings{Flags: fs, env: envPrefix, flagOnly: map[string]bool{"config": true}, origin: map[string]string{}}
}

// FlagOnly keeps settings out of the environment and the file, such as confirmations, which must be given each time.
func (s *Settings) FlagOnly(names ...string) {
	for _, name := range names {
		s.flagOnly[name] = true
	}
}

// InFile are the names that a file may hold.
func (s *Settings) InFile() map[string]bool {
	names := maps.Clone(s.AlsoInFile)
	if names == nil {
		names = map[string]bool{}
	}
	s.Flags.VisitAll(func(f *flag.Flag) {
		if !s.flagOnly[f.Name] {
			names[f.Name] = true
		}
	})
	return names
}

// Where says where a setting's value came from, in the words of an error message; without a value, how to give one.
func (s *Settings) Where(name string) string {
	if origin := s.origin[name]; origin != "" {
		return origin
	}
	return "--" + name
}

// Given reports whether a setting was given at all, the default apart.
func (s *Settings) Given(name string) bool { return s.origin[name] != "" }

// OnCommandLine reports whether a setting was given as a flag, where other users of the host can read it.
func (s *Settings) OnCommandLine(name string) bool { return s.origin[name] == "--"+name }

// Parse reads the arguments, then the environment through lookup, then the file. It returns flag.ErrHelp when help was
// asked for, else errors that match ErrUsage.
func (s *Settings) Parse(args []string, lookup func(string) (string, bool)) error {
	if err := s.Flags.Parse(args); err != nil {
		return flagError(err)
	}
	if rest := s.Flags.NArg(); rest > 0 {
		// The argument itself is not shown: it may be a password that lost its flag.
		return Usage("", fmt.Sprintf("argument %d belongs to no flag", len(args)-rest+1), "give values as --name value or --name=value, true and false as --name=false")
	}
	s.Flags.Visit(func(f *flag.Flag) { s.origin[f.Name] = "--" + f.Name })
	if err := s.fromEnvironment(lookup); err != nil {
		return err
	}
	f := s.Flags.Lookup("config")
	if f == nil || f.Value.String() == "" {
		return nil
	}
	return s.fromFile(f.Value.String())
}

// flagError says what package flag says, without its spelling of flags.
func flagError(err error) error {
	if errors.Is(err, flag.ErrHelp) {
		return err
	}
	text := err.Error()
	if name, ok := strings.CutPrefix(text, "flag provided but not defined: -"); ok {
		return Usage("--"+name, "no such flag", "see the help of this command for its flags")
	}
	if name, ok := strings.CutPrefix(text, "flag needs an argument: -"); ok {
		return Usage("--"+name, "has no value", "give it as --"+name+" value")
	}
	for _, separator := range []string{" for flag -", " for -"} {
		if value, rest, ok := strings.Cut(text, separator); ok {
			name, why, _ := strings.Cut(rest, ": ")
			return Usage("--"+name, value+": "+why, "see the help of this command")
		}
	}
	return Usage("", text, "see the help of this command")
}

func (s *Settings) fromEnvironment(lookup func(string) (string, bool)) (err error) {
	s.Flags.VisitAll(func(f *flag.Flag) {
		if s.flagOnly[f.Name] && f.Name != "config" || s.Given(f.Name) || err != nil {
			return
		}
		variable := s.env + "_" + strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))
		if value, ok := lookup(variable); ok && value != "" {
			err = s.Set(f.Name, value, variable)
		}
	})
	return err
}

// Set gives a setting its value from anywhere but the command line. origin is where, in the words of an error message.
func (s *Settings) Set(name, value, origin string) error {
	if err := s.Flags.Set(name, value); err != nil {
		return Usage(origin, fmt.Sprintf("%q: %v", value, err), "see the help of this command for what "+name+" takes")
	}
	s.origin[name] = origin
	return nil
}

func (s *Settings) fromFile(path string) error {
	where := s.Where("config")
	fields, err := readFields(path)
	if err != nil {
		return Usage(where, err.Error(), "give the path of a YAML file with the names of this program's flags")
	}
	known := s.InFile()
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		field := path + ": " + name
		switch {
		case name == "config" || s.flagOnly[name] && s.Flags.Lookup(name) != nil:
			return Usage(field, "cannot be set in a file", "give it as --"+name)
		case !known[name]:
			return Usage(field, "no such setting", "the names are those of the flags, without --")
		case s.Flags.Lookup(name) == nil || s.Given(name):
			continue // another command's, or overruled
		}
		value, problem := scalar(fields[name])
		if problem != "" {
			return Usage(field, problem, "write it as its flag takes it")
		}
		if err := s.Set(name, value, field); err != nil {
			return err
		}
	}
	return nil
}

// scalar turns a value of the file into what the flag would take. A list is for endpoints: its elements are joined by commas.
func scalar(value any) (text, problem string) {
	switch v := value.(type) {
	case nil:
		return "", "has no value"
	case string:
		return v, ""
	case bool:
		return strconv.FormatBool(v), ""
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64), ""
	case int64:
		return strconv.FormatInt(v, 10), ""
	case []any:
		elements := make([]string, len(v))
		for i, element := range v {
			s, ok := element.(string)
			if !ok || strings.Contains(s, ",") {
				return "", "is a list of something else than plain texts"
			}
			elements[i] = s
		}
		return strings.Join(elements, ","), ""
	}
	return "", "has fields where one value belongs"
}
