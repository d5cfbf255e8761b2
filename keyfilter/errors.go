package keyfilter

import (
	"errors"
	"strconv"
	"strings"
)

// ErrConfig is wrapped by every error of this package but those of reading a file.
var ErrConfig = errors.New("invalid key filter")

// ConfigError is one thing that is wrong with a Config. New and Load join all that they find.
type ConfigError struct {
	// Rule is the name of the rule, empty if the error is not about a rule.
	Rule string
	// Field is the path of the field as YAML spells it: "policy.pods", "rules[2].namespaces[0]". Empty for a file that
	// cannot be read as YAML at all.
	Field string
	// Line is the line of the YAML document, from 1; 0 if not known.
	Line int
	// Value is the offending value, empty if there is none to show. It is never the value of an etcd key.
	Value string
	// Problem completes the sentence "<field> <value> ...".
	Problem string
	// Hint says what to do.
	Hint string
}

// Error says where, what, and what to do, in one line.
func (e *ConfigError) Error() string {
	var b strings.Builder
	b.WriteString("keyfilter: ")
	if e.Line > 0 {
		b.WriteString("line " + strconv.Itoa(e.Line) + ": ")
	}
	if e.Field != "" {
		b.WriteString(e.Field)
		if e.Rule != "" {
			b.WriteString(" (rule " + strconv.Quote(e.Rule) + ")")
		}
		b.WriteString(": ")
	}
	if e.Value != "" {
		b.WriteString(strconv.Quote(e.Value) + " ")
	}
	b.WriteString(e.Problem)
	if e.Hint != "" {
		b.WriteString("; " + e.Hint)
	}
	return b.String()
}

// Unwrap returns ErrConfig.
func (e *ConfigError) Unwrap() error { return ErrConfig }
