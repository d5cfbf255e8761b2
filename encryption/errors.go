package encryption

import (
	"errors"
	"strings"
)

// Kinds of errors. Test for them with errors.Is; details and a hint are in *Error.
var (
	// ErrConfig: a field of a Config or an argument is unusable. Nothing was contacted or changed.
	ErrConfig = errors.New("invalid configuration")
	// ErrParse: the file is no single, whole EncryptionConfiguration.
	ErrParse = errors.New("no EncryptionConfiguration")
	// ErrInvalid: kube-apiserver would refuse the EncryptionConfiguration.
	ErrInvalid = errors.New("invalid EncryptionConfiguration")
	// ErrConflict: the two clusters have keys of one kind and name with different secrets, and the policy refuses that.
	ErrConflict = errors.New("key names clash")
	// ErrKMS: the KMS providers of the two clusters cannot be put into one file.
	ErrKMS = errors.New("KMS providers cannot be merged")
	// ErrPlaintext: values would be written unencrypted, and the policy refuses that.
	ErrPlaintext = errors.New("values would not be encrypted")
	// ErrPlan: there is no safe way from the two configurations to one in phases.
	ErrPlan = errors.New("no safe roll-out")
	// ErrUnreadable: an apiserver with the configuration could not read the value.
	ErrUnreadable = errors.New("unreadable")
	// ErrUnavailable: a KMS plugin did not answer, or not with what was asked for, so nothing is known about the value.
	ErrUnavailable = errors.New("KMS plugin unavailable")
	// ErrWriters: an apiserver still writes what is to be rewritten, or cannot read what it would become.
	ErrWriters = errors.New("an apiserver is not ready for it")
	// ErrNotLoaded: an apiserver does not run with the file, or does not tell.
	ErrNotLoaded = errors.New("not loaded")
	// ErrNotReached: what a phase of a roll-out waits for has not happened yet.
	ErrNotReached = errors.New("not reached yet")
	// ErrExists: the file is there already, or is not what it should be.
	ErrExists = errors.New("will not replace")
	// ErrFile: a file could not be read or written.
	ErrFile = errors.New("file")
	// ErrUnreachable: an etcd did not answer within the request timeout.
	ErrUnreachable = errors.New("etcd unreachable")
	// ErrPermission: an etcd refused the user.
	ErrPermission = errors.New("permission missing")
)

// Error says what went wrong, where, and what to do about it. It never holds key material, nor anything of a stored value but the header of an encrypted one.
type Error struct {
	Kind   error  // one of the Err variables
	Side   string // "primary", "standby" or ""
	Field  string // path in the configuration, such as resources[0].providers[1].aescbc.keys[0].secret, or ""
	Detail string // what was found
	Hint   string // what to do
	Cause  error  // what an etcd or the operating system answered, or nil
}

func (e *Error) Error() string {
	var b strings.Builder
	if e.Side != "" {
		b.WriteString(e.Side + ": ")
	}
	b.WriteString(e.Kind.Error())
	if e.Field != "" {
		b.WriteString(": " + e.Field)
	}
	if e.Detail != "" {
		b.WriteString(": " + e.Detail)
	}
	if e.Cause != nil {
		b.WriteString(": " + e.Cause.Error())
	}
	if e.Hint != "" {
		b.WriteString("; " + e.Hint)
	}
	return b.String()
}

// Unwrap gives errors.Is and errors.As the kind and the cause.
func (e *Error) Unwrap() []error {
	if e.Cause == nil {
		return []error{e.Kind}
	}
	return []error{e.Kind, e.Cause}
}

// onSide says which cluster the errors of a joined error are about.
func onSide(side string, err error) error {
	if err == nil {
		return nil
	}
	if list, ok := err.(interface{ Unwrap() []error }); ok {
		if _, own := err.(*Error); !own {
			var errs []error
			for _, one := range list.Unwrap() {
				errs = append(errs, onSide(side, one))
			}
			return errors.Join(errs...)
		}
	}
	if e, ok := err.(*Error); ok && e.Side == "" {
		c := *e
		c.Side = side
		return &c
	}
	return err
}

// Notice is something that an operator must know, in one sentence. It holds no key material.
type Notice struct {
	// Code tells notices apart for programs; it is one of the Notice constants.
	Code string `json:"code"`
	// Field is the path in the configuration that it is about, or "".
	Field string `json:"field,omitempty"`
	// Text is the sentence.
	Text string `json:"text"`
}

func (n Notice) String() string {
	if n.Field == "" {
		return n.Text
	}
	return n.Field + ": " + n.Text
}
