// Package keyspace is what a mirror and a check share about keys: which take part, how they are called on the other side, in which order
// Kubernetes wants them, and how the ordered listings of both sides go together.
package keyspace

import (
	"regexp"
	"strings"

	clientv3 "go.etcd.io/etcd/client/v3"
)

const (
	// DefaultPrefix is where kube-apiserver keeps its objects, unless told otherwise.
	DefaultPrefix = "/registry/"
	// MetadataPrefix is where mirrors keep their metadata at the target. It never takes part, on either side.
	MetadataPrefix = "/understudy/"
)

var nameRule = regexp.MustCompile(`^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$`)

// ValidName reports whether a mirror may have this name; its metadata lives under it.
func ValidName(name string) bool { return nameRule.MatchString(name) }

// MirrorsRange is the range of keys below MetadataPrefix that can be mirrors': names begin with a digit or a letter. Other folders are not mirrors',
// such as .failover, where package failover keeps copies of journals.
func MirrorsRange() (begin, end string) { return MetadataPrefix + "0", MetadataPrefix + "{" }

// Settings are the fields of a Config that say which keys take part.
type Settings struct {
	Prefix       string
	AllKeys      bool
	TargetPrefix string
	StripPrefix  bool
	Keep         func(key []byte) bool
	KeepID       string
	Skip         []string
}

// Problem is what is wrong with a setting, and what to do.
type Problem struct{ Detail, Hint string }

// Space checks the settings and fills in their defaults.
func (s Settings) Space() (space Space, problems []Problem) {
	bad := func(detail, hint string) { problems = append(problems, Problem{detail, hint}) }
	if s.AllKeys && (s.Prefix != "" || s.StripPrefix) {
		bad("AllKeys excludes Prefix and StripPrefix", "set one of them")
	}
	if s.StripPrefix && s.TargetPrefix != "" {
		bad("StripPrefix excludes TargetPrefix", "set one of them")
	}
	space = Space{Source: s.Prefix, Target: s.TargetPrefix, keep: s.Keep}
	if !s.AllKeys && s.Prefix == "" {
		space.Source = DefaultPrefix
	}
	if s.TargetPrefix == "" && !s.StripPrefix {
		space.Target = space.Source
	}
	for _, p := range []struct{ field, prefix string }{{"Prefix", space.Source}, {"TargetPrefix", space.Target}} {
		if strings.HasPrefix(p.prefix, MetadataPrefix) {
			bad(p.field+" lies below "+MetadataPrefix+", where mirrors keep their metadata", "choose another prefix")
		}
	}
	space.skip = newSkips(space.Source, s.Skip, bad)
	if s.Keep != nil && s.KeepID == "" {
		bad("KeepID is empty though Keep is set", "set it to an identity of the rules, such as (*keyfilter.Filter).Hash(): a changed filter must be noticed")
	}
	if s.Keep == nil && s.KeepID != "" {
		bad("KeepID is set without Keep", "set both or none")
	}
	return space, problems
}

// Space is the part of two key spaces that a mirror holds equal.
type Space struct {
	// Source and Target are the prefixes on each side. Both may be empty.
	Source, Target string

	keep func(key []byte) bool
	skip skips
}

// ToTarget returns the target's name of a source key.
func (s *Space) ToTarget(sourceKey string) string {
	if s.Source == s.Target {
		return sourceKey
	}
	return s.Target + sourceKey[len(s.Source):]
}

// ToSource returns the source's name of a target key.
func (s *Space) ToSource(targetKey string) string {
	if s.Source == s.Target {
		return targetKey
	}
	return s.Source + targetKey[len(s.Target):]
}

// Bounds returns the range of a prefix as etcd wants it: for no prefix, everything.
func Bounds(prefix string) (begin, end string) {
	if prefix == "" {
		return "\x00", "\x00"
	}
	return prefix, clientv3.GetPrefixRangeEnd(prefix)
}

// IsMetadata reports whether a key is a mirror's metadata.
func IsMetadata(key string) bool { return strings.HasPrefix(key, MetadataPrefix) }

// Kept reports whether a source key takes part.
func (s *Space) Kept(sourceKey []byte) bool {
	if s.Reserved(sourceKey) || s.skip.has(sourceKey) {
		return false
	}
	return s.keep == nil || s.keep(sourceKey)
}

// KeptAtTarget reports whether a key of the target is the image of a source key that takes part.
func (s *Space) KeptAtTarget(key []byte) bool {
	return !IsMetadata(string(key)) && s.Kept([]byte(s.ToSource(string(key))))
}

// Reserved reports whether a source key is, or would become, metadata of a mirror, or would become no key at all.
func (s *Space) Reserved(sourceKey []byte) bool {
	if len(sourceKey) >= len(MetadataPrefix) && string(sourceKey[:len(MetadataPrefix)]) == MetadataPrefix {
		return true
	}
	if s.Source == s.Target {
		return false
	}
	// The target key is target prefix + rest; compare without building it. etcd has no empty keys.
	if len(s.Target) == 0 && len(sourceKey) == len(s.Source) {
		return true
	}
	return hasPrefixOfPair(s.Target, sourceKey[len(s.Source):], MetadataPrefix)
}

// hasPrefixOfPair reports whether head+tail begins with prefix.
func hasPrefixOfPair(head string, tail []byte, prefix string) bool {
	if len(head) >= len(prefix) {
		return strings.HasPrefix(head, prefix)
	}
	rest := prefix[len(head):]
	return strings.HasPrefix(prefix, head) && len(tail) >= len(rest) && string(tail[:len(rest)]) == rest
}
