package mirrorflags

import (
	"context"
	"errors"
	"log/slog"
	"strings"

	"github.com/understudy-dr/understudy/drcheck"
	"github.com/understudy-dr/understudy/encryption"
	"github.com/understudy-dr/understudy/etcdmirror"
	"github.com/understudy-dr/understudy/examples/internal/connect"
	"github.com/understudy-dr/understudy/keyfilter"
)

// Encryption are the settings that say how values are encrypted at rest on each side. Use them after Settings.Parse, and close them.
type Encryption struct {
	source, target string
	settings       *connect.Settings

	ctx    context.Context // ends with Close
	cancel context.CancelFunc

	sourceCodec, targetCodec *encryption.Codec
	transcoder               *encryption.Transcoder
	notices                  []string
}

const (
	sourceEncryption = "source-encryption-config"
	targetEncryption = "target-encryption-config"
)

// NewEncryption defines the settings.
func NewEncryption(settings *connect.Settings) *Encryption {
	e := &Encryption{settings: settings}
	e.ctx, e.cancel = context.WithCancel(context.Background())
	settings.Flags.StringVar(&e.source, sourceEncryption, "", "EncryptionConfiguration `file` of the source's apiservers; together with --"+targetEncryption+" values are decrypted with one and encrypted with the other")
	settings.Flags.StringVar(&e.target, targetEncryption, "", "EncryptionConfiguration `file` of the target's apiservers; alone, it says which values they can read: others are kept from the target")
	return e
}

// Close ends what waits for KMS plugins, and the connections to them.
func (e *Encryption) Close() {
	e.cancel()
	for _, c := range []*encryption.Codec{e.sourceCodec, e.targetCodec} {
		if c != nil {
			c.Close()
		}
	}
}

// Load reads the files. filter is that of keys; nil without rules.
func (e *Encryption) Load(keys *Keys, filter *keyfilter.Filter, log *slog.Logger) error {
	if e.source == "" && e.target == "" {
		return nil
	}
	if e.target == "" {
		return connect.Usage(e.settings.Where(sourceEncryption), "does nothing alone", "add --"+targetEncryption+", with which the target's apiservers run")
	}
	prefixes := []string{keys.Prefix}
	if filter != nil {
		prefixes = filter.Prefixes()
	}
	resource, err := resourceOf(prefixes)
	if err != nil {
		return connect.Usage(e.settings.Where("prefix"), err.Error(), "give the --etcd-prefix of the source's apiservers")
	}
	atTarget := func(key string) (string, string, bool) { return resource(keys.toSource(key)) }
	sourceFile, sourceFlag := e.source, sourceEncryption
	if sourceFile == "" {
		// Values are copied as they are, so that the target's configuration reads them on both sides.
		sourceFile, sourceFlag = e.target, targetEncryption
	}
	var sourceErr, targetErr error
	e.sourceCodec, sourceErr = e.load(sourceFlag, sourceFile, resource, log)
	e.targetCodec, targetErr = e.load(targetEncryption, e.target, atTarget, log)
	if sourceFlag == targetEncryption {
		sourceErr = nil // it is the same
	}
	if err := errors.Join(sourceErr, targetErr); err != nil {
		return err
	}
	if e.source != "" {
		e.transcoder, err = encryption.NewTranscoder(e.sourceCodec, e.targetCodec)
	}
	return err
}

// load reads one file.
func (e *Encryption) load(flag, path string, resource encryption.ResourceFunc, log *slog.Logger) (*encryption.Codec, error) {
	where := e.settings.Where(flag)
	cfg, err := encryption.ParseFile(path)
	if err != nil {
		return nil, InEach(where, err)
	}
	notices, err := encryption.Validate(cfg)
	if err != nil {
		return nil, InEach(where, err)
	}
	for _, n := range notices {
		if text := where + ": " + n.String(); len(e.notices) == 0 || e.notices[len(e.notices)-1] != text {
			e.notices = append(e.notices, text)
		}
	}
	codec, err := encryption.NewCodec(cfg, encryption.CodecConfig{Resource: resource, Logger: log})
	return codec, InEach(where, err)
}

// InEach names a setting in front of each error of a joined one.
func InEach(where string, err error) error {
	if err == nil {
		return nil
	}
	if list, ok := err.(interface{ Unwrap() []error }); ok {
		if _, own := err.(*encryption.Error); !own {
			var errs []error
			for _, one := range list.Unwrap() {
				errs = append(errs, InEach(where, one))
			}
			return errors.Join(errs...)
		}
	}
	problem, hint := err.Error(), ""
	if e, ok := errors.AsType[*encryption.Error](err); ok && e.Hint != "" {
		hint = e.Hint
		problem = strings.TrimSuffix(problem, "; "+hint)
	}
	return connect.Usage(where, problem, hint)
}

// Apply says how a mirror, and a comparison of what it carries, treat values.
func (e *Encryption) Apply(keys *Keys, cfg *etcdmirror.Config, check *drcheck.Config) {
	if e.targetCodec == nil {
		return
	}
	check.OpenSource, check.OpenTarget = e.sourceCodec.Open, e.targetCodec.Open
	switch {
	case e.transcoder != nil:
		cfg.Transform, check.Transform = e.transcoder, e.transcoder
	default:
		cfg.Guards = append(cfg.Guards, e.targetCodec.Guard(e.ctx, keys.toTarget))
	}
}

// Warn logs what is odd about the files.
func (e *Encryption) Warn(log *slog.Logger) {
	for _, n := range e.notices {
		log.Warn(n)
	}
}

// resourceOf tells resources below several prefixes, the longest first.
func resourceOf(prefixes []string) (encryption.ResourceFunc, error) {
	funcs := make([]encryption.ResourceFunc, len(prefixes))
	for i, prefix := range prefixes {
		var err error
		if funcs[i], err = keyfilter.Resource(prefix); err != nil {
			return nil, err
		}
	}
	return func(key string) (group, resource string, known bool) {
		for i, prefix := range prefixes {
			if strings.HasPrefix(key, prefix) {
				return funcs[i](key)
			}
		}
		return "", "", false
	}, nil
}

// toSource and toTarget are a key's names on the two sides.
func (k *Keys) toSource(targetKey string) string {
	if rest, ok := strings.CutPrefix(targetKey, k.TargetPrefix); ok && k.moved() {
		return k.SourcePrefix() + rest
	}
	return targetKey
}

func (k *Keys) toTarget(sourceKey string) string {
	if rest, ok := strings.CutPrefix(sourceKey, k.SourcePrefix()); ok && k.moved() {
		return k.TargetPrefix + rest
	}
	return sourceKey
}

func (k *Keys) moved() bool { return k.StripPrefix || k.TargetPrefix != "" }
