package etcdmirror

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"time"

	"github.com/understudy-dr/understudy/internal/keyspace"
)

// Defaults of Config.
const (
	DefaultPrefix             = keyspace.DefaultPrefix
	DefaultRequestTimeout     = 5 * time.Second
	DefaultProgressInterval   = 2 * time.Second
	DefaultStallTimeout       = 15 * time.Second
	DefaultCheckpointInterval = 10 * time.Second
	DefaultMaxTxnOps          = 128
	DefaultMaxRequestBytes    = 1536 << 10
	DefaultBatchOps           = 512
	DefaultBatchBytes         = 1 << 20
	DefaultInFlight           = 4
	DefaultBufferBytes        = 16 << 20
	DefaultCatchUpWatches     = 16
	DefaultMergeBehind        = 64
	DefaultMergeAfter         = 100 * time.Millisecond
	DefaultSessionTTL         = 10 * time.Second
	DefaultRepairDelay        = 5 * time.Second
	DefaultRepairLimit        = 5
	DefaultDeletionShare      = 0.3
	DefaultDeletionCount      = 500
	DefaultDeletionWindow     = 10 * time.Minute
)

// Config says what is mirrored and how. The zero value of each field but Name is its documented default.
// New copies the Config: later changes have no effect.
type Config struct {
	// Name identifies this mirror at the target, where its metadata lives under /understudy/<Name>/.
	// Required: 1 to 63 of a-z, 0-9, '-' and '.', beginning and ending with a letter or digit.
	Name string

	// Prefix is the source's key prefix that is mirrored, taken as bytes; "" is DefaultPrefix.
	Prefix string
	// AllKeys mirrors the whole key space instead of a prefix.
	AllKeys bool
	// TargetPrefix replaces Prefix in the target's keys; "" leaves keys as they are.
	// aesgcm and KMS bind values to their key: under another prefix they can be read only after a Transform.
	TargetPrefix string
	// StripPrefix drops Prefix from the target's keys.
	StripPrefix bool

	// Keep reports whether a source key is mirrored; nil keeps all. It must be a pure function of the key, safe for concurrent use,
	// and must not hold on to the slice. (*keyfilter.Filter).Match is one.
	Keep func(key []byte) bool
	// KeepID identifies what Keep keeps, such as (*keyfilter.Filter).Hash(); required with Keep. A change leads to a resync.
	KeepID string

	// Skip lists prefixes of source keys, each below Prefix, under which nothing is mirrored, those with the most traffic first. It is for what Keep drops anyway:
	// (*keyfilter.Filter).Skips tells it, and KeepID stands for both. What is skipped need not be received, see Watch.
	Skip []string
	// Watch is how much of the source is followed.
	Watch WatchPolicy

	// Transform rewrites values on their way; nil copies them. A change of its ID leads to a resync.
	Transform Transformer
	// Guards are asked, in order, before a value is written, after Intact. See Guard.
	Guards []Guard
	// Unchecked writes values without asking Intact: what is broken at the source breaks at the target.
	Unchecked bool

	// Drift is what happens to mirrored keys that others change or delete at the target, such as the garbage collector of a live standby.
	Drift DriftPolicy
	// RepairDelay is how long after such a change the key is looked at, and put back with DriftRepair; 0 is DefaultRepairDelay. It doubles with each repair of the key.
	RepairDelay time.Duration
	// RepairLimit is how often a key is put back within an hour before it is left alone and reported as fought over; 0 is DefaultRepairLimit.
	RepairLimit int
	// Deletions stops the mirror before it repeats a mass deletion.
	Deletions DeletionGuard
	// Leases is what happens to the leases of keys.
	Leases LeasePolicy

	// Replica names this instance among several of the same mirror, of which one writes and the others wait to take over; "" is the host's name and the process ID.
	Replica string
	// SessionTTL is how long the leader may be silent before another replica takes over, in whole seconds; 0 is DefaultSessionTTL. An instance that ends properly is replaced at once.
	SessionTTL time.Duration

	// Surplus is what a base copy or resync does with keys of the target's kept space that the mirror did not make.
	Surplus SurplusPolicy
	// LeftFilter is what happens to mirrored keys that a changed Keep no longer keeps.
	LeftFilter LeftFilterPolicy

	// RequestTimeout is the deadline of each request to either etcd; 0 is DefaultRequestTimeout.
	RequestTimeout time.Duration
	// ProgressInterval is how often the source is asked for its progress; 0 is DefaultProgressInterval.
	ProgressInterval time.Duration
	// StallTimeout is how long the watch may show no sign of life before it is torn down and opened again; 0 is DefaultStallTimeout.
	// It must exceed ProgressInterval, and doubles while one watch after another brings nothing, up to 32 times this.
	StallTimeout time.Duration
	// CheckpointInterval is how often progress without a kept change is saved; 0 is DefaultCheckpointInterval.
	CheckpointInterval time.Duration

	// MaxTxnOps is the target's --max-txn-ops; 0 is DefaultMaxTxnOps. A lower limit at the target is found out.
	MaxTxnOps int
	// MaxRequestBytes is the target's --max-request-bytes; 0 is DefaultMaxRequestBytes. A lower limit at the target is found out.
	MaxRequestBytes int
	// BatchOps and BatchBytes bound one transaction of a bulk phase in changes and in bytes of keys and values; 0 is DefaultBatchOps and DefaultBatchBytes.
	// A single larger value travels alone.
	BatchOps   int
	BatchBytes int
	// InFlight is how many transactions of a base copy or resync are under way at once; 0 is DefaultInFlight.
	InFlight int
	// BufferBytes bounds the events read from the source and not yet applied; 0 is DefaultBufferBytes. When full, the source is slowed down, nothing is dropped.
	BufferBytes int
	// CatchUpWatches is how many watches of the source read a backlog side by side; 0 is DefaultCatchUpWatches, 1 leaves it to a single one.
	// A source serves a watch that is behind 10,000 revisions per second at most, and reads its whole log from there for every thousand of them: more watches are less
	// work for it in all, and more at once. Fewer are opened where values are large, so that what they bring stays within twice BufferBytes.
	CatchUpWatches int
	// MergeBehind is how many source revisions must wait before the tail merges them as a bulk phase does; 0 is DefaultMergeBehind.
	// Below that, no two keys of one resource get the same target revision, so that clients of the target can resume their watches (unless the source changed them in one transaction).
	MergeBehind int
	// MergeAfter is how long there may be revisions waiting without a pause before they are merged likewise, however few: the target could not keep up with them one by one; 0 is DefaultMergeAfter.
	MergeAfter time.Duration

	// Logger receives changes of state and what an operator should know; nil discards. No value of a key is ever logged.
	Logger *slog.Logger
	// Hooks are called as things happen.
	Hooks Hooks
}

// Transformer rewrites values between source and target, such as from one encryption key to another. It must be safe for concurrent use.
type Transformer interface {
	// ID identifies the transformation; a changed ID leads to a resync.
	ID() string
	// Transform returns the value to store under targetKey. An error keeps the value from being written: it is reported as guarded.
	// The error must not contain any of the value.
	Transform(ctx context.Context, sourceKey, targetKey string, value []byte) ([]byte, error)
	// Equal reports whether targetValue is what Transform would make of sourceValue. An encryption with random nonces compares plaintexts.
	Equal(ctx context.Context, sourceKey, targetKey string, sourceValue, targetValue []byte) (bool, error)
}

// Guard looks at a value about to be written. An error keeps it from the target: the key is reported as guarded, with the error as the reason, until a later value passes;
// whatever the target holds under the key stays. The error must not contain any of the value.
type Guard func(sourceKey string, value []byte) error

// SurplusPolicy is what a base copy or resync does with keys of the target that the source lacks and the mirror did not make.
type SurplusPolicy int

const (
	// SurplusKeep leaves them and reports them as foreign.
	SurplusKeep SurplusPolicy = iota
	// SurplusDelete deletes them.
	SurplusDelete
)

// LeftFilterPolicy is what happens to mirrored keys that a changed filter no longer keeps.
type LeftFilterPolicy int

const (
	// LeftFilterKeep leaves them at the target as they are.
	LeftFilterKeep LeftFilterPolicy = iota
	// LeftFilterDelete deletes those whose value still equals the source's; others may have been made by the target's own cluster and stay.
	LeftFilterDelete
)

// WatchPolicy is how much of the source is followed.
type WatchPolicy int

const (
	// WatchAuto is WatchKept for a source that is more than 5 ms away, where receiving costs more than asking, and WatchAll for a near one.
	WatchAuto WatchPolicy = iota
	// WatchAll follows the whole prefix. What Keep drops is received and dropped.
	WatchAll
	// WatchKept leaves out what Skip lists, up to the first seven entries. The source has to be asked, for each change or several together, whether the ranges between them
	// have come in full, so a change arrives up to a round trip later. From a source whose progress notifications cannot be relied on (before 3.4.25 and 3.5.8) everything is followed.
	WatchKept
)

// DriftPolicy is what happens to mirrored keys that others changed or deleted at the target.
type DriftPolicy int

const (
	// DriftReport leaves them and reports them, until the source changes them or a resync compares them.
	DriftReport DriftPolicy = iota
	// DriftRepair puts them back.
	DriftRepair
)

// LeasePolicy is what happens to the leases of keys.
type LeasePolicy int

const (
	// LeaseDrop writes keys without a lease: they live until the source's log tells that they are gone.
	LeaseDrop LeasePolicy = iota
	// LeaseMirror grants leases with the source's IDs and remaining times, and keeps them alive while the source's live. After a promotion they run out.
	LeaseMirror
)

// ValidateName checks a mirror's name.
func ValidateName(name string) error {
	if keyspace.ValidName(name) {
		return nil
	}
	return &Error{Kind: ErrConfig, Detail: fmt.Sprintf("Name %q is no mirror name", name),
		Hint: "use 1 to 63 of a-z, 0-9, '-' and '.', beginning and ending with a letter or digit"}
}

// complete fills in the defaults and checks every field; it returns all that is wrong.
func (c Config) complete() (Config, error) {
	var errs []error
	bad := func(detail, hint string) {
		errs = append(errs, &Error{Kind: ErrConfig, Detail: detail, Hint: hint})
	}
	if err := ValidateName(c.Name); err != nil {
		errs = append(errs, err)
	}
	keys, problems := c.keys()
	for _, p := range problems {
		bad(p.Detail, p.Hint)
	}
	c.Prefix, c.TargetPrefix, c.Skip = keys.Source, keys.Target, slices.Clone(c.Skip)
	if c.Surplus < SurplusKeep || c.Surplus > SurplusDelete {
		bad(fmt.Sprintf("Surplus %d is unknown", c.Surplus), "use SurplusKeep or SurplusDelete")
	}
	if c.LeftFilter < LeftFilterKeep || c.LeftFilter > LeftFilterDelete {
		bad(fmt.Sprintf("LeftFilter %d is unknown", c.LeftFilter), "use LeftFilterKeep or LeftFilterDelete")
	}
	if c.Watch < WatchAuto || c.Watch > WatchKept {
		bad(fmt.Sprintf("Watch %d is unknown", c.Watch), "use WatchAuto, WatchAll or WatchKept")
	}
	if c.Drift < DriftReport || c.Drift > DriftRepair {
		bad(fmt.Sprintf("Drift %d is unknown", c.Drift), "use DriftReport or DriftRepair")
	}
	if c.Leases < LeaseDrop || c.Leases > LeaseMirror {
		bad(fmt.Sprintf("Leases %d is unknown", c.Leases), "use LeaseDrop or LeaseMirror")
	}
	if c.SessionTTL%time.Second != 0 {
		bad(fmt.Sprintf("SessionTTL %v is not in whole seconds", c.SessionTTL), "etcd counts the life of a lease in seconds; round it")
	}
	if c.Deletions.Share == 0 {
		c.Deletions.Share = DefaultDeletionShare
	}
	if !(c.Deletions.Share > 0 && c.Deletions.Share <= 1) {
		bad(fmt.Sprintf("Deletions.Share %v is not above 0 and at most 1", c.Deletions.Share), "0.3 allows the loss of less than 30 % of the keys; set Off to turn the guard off")
	}
	if c.Replica == "" {
		host, _ := os.Hostname()
		c.Replica = fmt.Sprintf("%s-%d", cmp.Or(host, "replica"), os.Getpid())
	}
	if len(c.Replica) > 200 {
		bad(fmt.Sprintf("Replica has %d bytes", len(c.Replica)), "use at most 200")
	}
	for _, d := range []struct {
		field string
		value *time.Duration
		def   time.Duration
	}{
		{"RequestTimeout", &c.RequestTimeout, DefaultRequestTimeout},
		{"ProgressInterval", &c.ProgressInterval, DefaultProgressInterval},
		{"StallTimeout", &c.StallTimeout, DefaultStallTimeout},
		{"CheckpointInterval", &c.CheckpointInterval, DefaultCheckpointInterval},
		{"RepairDelay", &c.RepairDelay, DefaultRepairDelay},
		{"MergeAfter", &c.MergeAfter, DefaultMergeAfter},
		{"SessionTTL", &c.SessionTTL, DefaultSessionTTL},
		{"Deletions.Window", &c.Deletions.Window, DefaultDeletionWindow},
	} {
		if *d.value < 0 {
			bad(fmt.Sprintf("%s %v is negative", d.field, *d.value), "use 0 for the default or a positive duration")
		}
		if *d.value == 0 {
			*d.value = d.def
		}
	}
	if c.StallTimeout <= c.ProgressInterval {
		bad(fmt.Sprintf("StallTimeout %v does not exceed ProgressInterval %v", c.StallTimeout, c.ProgressInterval), "a healthy but quiet source would look stalled; raise StallTimeout")
	}
	for _, n := range []struct {
		field      string
		value      *int
		def, least int
	}{
		{"MaxTxnOps", &c.MaxTxnOps, DefaultMaxTxnOps, minTxnOps},
		{"MaxRequestBytes", &c.MaxRequestBytes, DefaultMaxRequestBytes, 4 << 10},
		{"BatchOps", &c.BatchOps, DefaultBatchOps, 1},
		{"BatchBytes", &c.BatchBytes, DefaultBatchBytes, 1 << 10},
		{"InFlight", &c.InFlight, DefaultInFlight, 1},
		{"BufferBytes", &c.BufferBytes, DefaultBufferBytes, 64 << 10},
		{"CatchUpWatches", &c.CatchUpWatches, DefaultCatchUpWatches, 1},
		{"MergeBehind", &c.MergeBehind, DefaultMergeBehind, 1},
		{"RepairLimit", &c.RepairLimit, DefaultRepairLimit, 1},
		{"Deletions.Count", &c.Deletions.Count, DefaultDeletionCount, 1},
	} {
		if *n.value == 0 {
			*n.value = n.def
		}
		if *n.value < n.least {
			bad(fmt.Sprintf("%s %d is below %d", n.field, *n.value, n.least), "use 0 for the default or a larger number")
		}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if guards := c.Guards; c.Unchecked {
		c.Guards = slices.Clone(guards)
	} else {
		c.Guards = append([]Guard{Intact}, guards...)
	}
	return c, errors.Join(errs...)
}

// keys says which keys take part.
func (c *Config) keys() (keyspace.Space, []keyspace.Problem) {
	return keyspace.Settings{Prefix: c.Prefix, AllKeys: c.AllKeys, TargetPrefix: c.TargetPrefix, StripPrefix: c.StripPrefix, Keep: c.Keep, KeepID: c.KeepID, Skip: c.Skip}.Space()
}
