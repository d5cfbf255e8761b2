package mirrorflags

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/understudy-dr/understudy/etcdmirror"
	"github.com/understudy-dr/understudy/examples/internal/connect"
	"github.com/understudy-dr/understudy/keyfilter"
)

// Keys are the settings that say which keys a mirror carries, and where they lie at its target. Use them after Settings.Parse.
type Keys struct {
	Prefix, TargetPrefix string
	StripPrefix, AllKeys bool

	rules    string
	noRules  bool
	settings *connect.Settings
}

// NewKeys defines the settings.
func NewKeys(settings *connect.Settings) *Keys {
	k := &Keys{settings: settings}
	fs := settings.Flags
	fs.StringVar(&k.Prefix, "prefix", etcdmirror.DefaultPrefix, "source `keys` that are mirrored: those that begin with this")
	fs.StringVar(&k.TargetPrefix, "target-prefix", "", "`prefix` that replaces --prefix in the target's keys")
	fs.BoolVar(&k.StripPrefix, "strip-prefix", false, "drop --prefix from the target's keys")
	fs.BoolVar(&k.AllKeys, "all-keys", false, "mirror the whole key space instead of a prefix; together with --no-rules or --rules")
	fs.StringVar(&k.rules, "rules", "", "YAML `file` of package keyfilter that says what is kept; empty: its defaults for Kubernetes")
	fs.BoolVar(&k.noRules, "no-rules", false, "keep every key")
	return k
}

// NameVar defines --name.
func NameVar(settings *connect.Settings, name *string) {
	settings.Flags.StringVar(name, "name", DefaultName, "`name` of the mirror, under which the target keeps its metadata")
}

// SourcePrefix is the prefix as a Config takes it.
func (k *Keys) SourcePrefix() string {
	if k.AllKeys {
		return ""
	}
	return k.Prefix
}

// Skip is what need not be read of the source, given the filter.
func (k *Keys) Skip(filter *keyfilter.Filter) []string {
	prefix := k.SourcePrefix()
	return slices.DeleteFunc(filter.Skips(prefix), func(skip string) bool { return skip == prefix })
}

// Check finds contradictions.
func (k *Keys) Check() error {
	set := k.settings
	switch {
	case k.AllKeys && set.Given("prefix"):
		return connect.Usage(set.Where("all-keys"), "excludes "+set.Where("prefix"), "give one of them")
	case !k.AllKeys && k.Prefix == "":
		return connect.Usage(set.Where("prefix"), "is empty", "give a prefix, or --all-keys for the whole key space")
	}
	return nil
}

// Filter makes the filter from the rules; nil keeps every key.
func (k *Keys) Filter() (*keyfilter.Filter, error) {
	set := k.settings
	where := set.Where("rules")
	switch {
	case k.noRules && k.rules != "":
		return nil, connect.Usage(set.Where("no-rules"), "excludes "+where, "give one of them")
	case k.noRules:
		return nil, nil
	case k.AllKeys && k.rules == "":
		return nil, connect.Usage(set.Where("all-keys"), "does nothing with the default rules, which drop all keys outside of "+etcdmirror.DefaultPrefix,
			"add --no-rules to keep every key, or --rules with a file that lists the prefixes")
	}
	var cfg keyfilter.Config
	if k.rules != "" {
		var err error
		if cfg, err = keyfilter.LoadFile(k.rules); err != nil {
			var path *os.PathError
			if errors.As(err, &path) {
				return nil, connect.Usage(where, path.Path+": "+path.Err.Error(), "give a file that this process can read")
			}
			return nil, fmt.Errorf("%s: %w", where, err)
		}
	}
	stated := len(cfg.Prefixes) > 0
	if !stated && !k.AllKeys && !overlap(k.Prefix, etcdmirror.DefaultPrefix) {
		cfg.Prefixes = []string{k.Prefix} // an apiserver with another --etcd-prefix
	}
	filter, err := keyfilter.New(cfg)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", where, err)
	}
	if k.AllKeys {
		return filter, nil
	}
	for _, prefix := range filter.Prefixes() {
		if overlap(prefix, k.Prefix) {
			continue
		}
		if stated {
			return nil, connect.Usage(set.Where("prefix"), fmt.Sprintf("%q and the prefix %q in %s have no key in common", k.Prefix, prefix, k.rules), "make them agree, or remove it there")
		}
		return nil, connect.Usage(set.Where("prefix"), fmt.Sprintf("%q is no --etcd-prefix of an apiserver, which begin with a slash", k.Prefix), "correct it, or add --no-rules for other keys")
	}
	return filter, nil
}

// overlap reports whether some keys begin with both prefixes.
func overlap(a, b string) bool { return strings.HasPrefix(a, b) || strings.HasPrefix(b, a) }

// Resource names the resource of a key, "pods" or "apps/deployments", by the grammar of a filter. Without a filter keys need not be those of Kubernetes, and it is nil.
func Resource(filter *keyfilter.Filter) func(key string) string {
	if filter == nil {
		return nil
	}
	prefixes := filter.Prefixes()
	return func(key string) string {
		for _, prefix := range prefixes { // the longest first
			if !strings.HasPrefix(key, prefix) {
				continue
			}
			k, err := keyfilter.Parse(prefix, []byte(key))
			switch {
			case err != nil, k.Scope == keyfilter.Unclassified, k.Scope == keyfilter.Outside:
				return keyfilter.Unclassified.String()
			case k.Group != "":
				return k.Group + "/" + k.Resource
			}
			return k.Resource
		}
		return keyfilter.Outside.String()
	}
}
