package drcheck

import (
	"context"
	"log/slog"
	"time"
)

// Defaults of Config.
const (
	DefaultPrefix         = "/registry/"
	DefaultRequestTimeout = 5 * time.Second
	DefaultSettle         = 10 * time.Second
	DefaultLimit          = 1000
	DefaultMaxRechecks    = 200_000
)

// Config says what is compared and how. The zero value of each field is its documented default, and compares everything below DefaultPrefix of two etcds between which no mirror is known.
// New copies the Config: later changes have no effect.
type Config struct {
	// Name is the mirror's, whose metadata lives at the target under /understudy/<Name>/. With it a check knows which source revision the target has reached,
	// what was guarded and what the target's own cluster made; an equal result is recorded there for ReadVerdict. "": no mirror is known, and a key counts as
	// different when both sides have left it unequal for Settle.
	Name string

	// Prefix, AllKeys, TargetPrefix, StripPrefix, Keep, KeepID, Skip and Transform are the mirror's: see etcdmirror.Config. With a Name they are compared with what the mirror recorded.
	Prefix       string
	AllKeys      bool
	TargetPrefix string
	StripPrefix  bool
	Keep         func(key []byte) bool
	KeepID       string
	Skip         []string
	Transform    Transformer

	// OpenSource and OpenTarget return the plaintext of a stored value, to compare and look into what is encrypted at rest; nil takes values as they are.
	// Where one returns an error, the values are compared as Transform says or else byte by byte; a target's value that OpenTarget cannot open is ReasonUnreadable.
	// The error must not contain any of the value.
	OpenSource Opener
	OpenTarget Opener

	// Mode is what is compared; "" is Content.
	Mode Mode
	// AcceptMadeAtTarget sets keys aside that the target's own cluster made: they are listed and do not count as differences.
	AcceptMadeAtTarget bool
	// Settle is how long a key that differs is looked at again before it is reported as it stands; 0 is DefaultSettle.
	Settle time.Duration
	// Limit is how many differences of each class a Result lists; 0 is DefaultLimit, below 0 lists none.
	Limit int
	// MaxRechecks is how many keys are looked at again. What differs beyond it is counted at its first look: such a target is not in step, and memory is bounded. 0 is DefaultMaxRechecks.
	MaxRechecks int
	// Resource names the resource of a source key in summaries; nil takes the first segment below the prefix, or the first two where that one is an API group.
	Resource func(key string) string
	// RequestTimeout is the deadline of each request to either etcd; 0 is DefaultRequestTimeout.
	RequestTimeout time.Duration
	// Logger receives what an operator should know; nil discards. No value of a key is ever logged.
	Logger *slog.Logger
}

// Transformer tells whether the target holds what the mirror makes of a source's value. Every etcdmirror.Transformer is one. It must be safe for concurrent use.
type Transformer interface {
	// ID identifies the transformation.
	ID() string
	// Transform returns the value to store under targetKey. Repair uses it. The error must not contain any of the value.
	Transform(ctx context.Context, sourceKey, targetKey string, value []byte) ([]byte, error)
	// Equal reports whether targetValue is what Transform would make of sourceValue.
	Equal(ctx context.Context, sourceKey, targetKey string, sourceValue, targetValue []byte) (bool, error)
}

// Opener returns the plaintext of a value stored under a key.
type Opener func(ctx context.Context, key string, value []byte) ([]byte, error)
