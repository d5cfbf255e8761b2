package encryption

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

const (
	// DefaultAuditLimit is how many unreadable values an audit lists.
	DefaultAuditLimit = 100
	// maxCounts bounds the rows of a report: damaged headers may name anything.
	maxCounts = 1000
)

// AuditConfig says what is looked at. The zero value of each field but one is its documented default: set Codec or Resource.
type AuditConfig struct {
	// Prefix begins the keys that are looked at; "" is /registry/. AllKeys looks at the whole key space. Metadata of mirrors never counts.
	Prefix  string
	AllKeys bool
	// Codec opens each value, to tell what its configuration reads; nil counts labels only.
	Codec *Codec
	// Resource names the resource of a key where there is no Codec.
	Resource ResourceFunc
	// Key is the name under which the Codec's apiservers would find a value, where that is not the key it has: the target's key of a mirror's source. nil is the key itself.
	Key func(key string) string
	// Limit is how many unreadable values are listed; 0 is DefaultAuditLimit, below 0 lists none. All are counted.
	Limit int
	// RequestTimeout is the deadline of each request; 0 is DefaultRequestTimeout.
	RequestTimeout time.Duration
}

// AuditReport is what is stored, and how much of it a configuration reads. The names of its fields in JSON stay.
type AuditReport struct {
	// Revision is the etcd's when the audit began. Moved is set when that was compacted meanwhile, so that later keys were read at a later one.
	Revision int64 `json:"revision,omitempty"`
	Moved    bool  `json:"moved,omitempty"`
	// Values and Bytes are of all that was looked at. Checked is set if there was a Codec: only then do the fields below say something.
	Values  int   `json:"values"`
	Bytes   int64 `json:"bytes"`
	Checked bool  `json:"checked"`
	// Readable values are those that an apiserver reads, Unreadable those that it does not, Unavailable those of which nothing is known because a KMS plugin did not answer.
	Readable    int `json:"readable"`
	Unreadable  int `json:"unreadable"`
	Unavailable int `json:"unavailable"`
	// Stale values are readable, and an apiserver would write them with another key.
	Stale int `json:"stale"`
	// Counts has a row for each resource and label, sorted.
	Counts []AuditCount `json:"counts"`
	// List has the first unreadable values by key, up to the limit.
	List []UnreadableValue `json:"list,omitempty"`
}

// AuditCount counts the values of one resource and label.
type AuditCount struct {
	// Resource is "secrets" or "deployments.apps", "" for keys that are of no resource.
	Resource string `json:"resource"`
	Label
	Values      int   `json:"values"`
	Bytes       int64 `json:"bytes"`
	Readable    int   `json:"readable"`
	Unreadable  int   `json:"unreadable"`
	Unavailable int   `json:"unavailable"`
	Stale       int   `json:"stale"`
}

// UnreadableValue is a value that could not be read, and why. The reason holds nothing of the value but its label.
type UnreadableValue struct {
	Key    string `json:"key"`
	Reason string `json:"reason"`
}

// With counts the values that have a label, in all resources.
func (r *AuditReport) With(label Label) (n int) {
	for _, c := range r.Counts {
		if c.Label == label {
			n += c.Values
		}
	}
	return n
}

// Err is nil if every value can be read, else an error that matches ErrUnreadable or, if a KMS plugin was away, ErrUnavailable.
func (r *AuditReport) Err() error {
	var errs []error
	if r.Unreadable > 0 {
		detail := fmt.Sprintf("%d of %d values", r.Unreadable, r.Values)
		if len(r.List) > 0 {
			detail += fmt.Sprintf(", the first is %q (%s)", r.List[0].Key, r.List[0].Reason)
		}
		errs = append(errs, &Error{Kind: ErrUnreadable, Detail: detail, Hint: "add the missing keys, or repair what is damaged: one such value makes every list of its resource fail, and keeps an apiserver that restarts from becoming ready"})
	}
	if r.Unavailable > 0 {
		errs = append(errs, &Error{Kind: ErrUnavailable, Detail: fmt.Sprintf("nothing is known about %d of %d values", r.Unavailable, r.Values), Hint: "see that the KMS plugin runs, and audit again"})
	}
	return errors.Join(errs...)
}

// Audit reads all values of an etcd in key order, in bounded memory, and counts them by resource, provider and key name. With a Codec it counts which of them an apiserver
// with the Codec's configuration reads. A value that cannot be read is counted, never an error. Nothing is written.
func Audit(ctx context.Context, client *clientv3.Client, cfg AuditConfig) (*AuditReport, error) {
	errs := checkRange(client, cfg.Prefix, cfg.AllKeys, cfg.RequestTimeout)
	if cfg.Codec == nil && cfg.Resource == nil {
		errs = append(errs, &Error{Kind: ErrConfig, Detail: "AuditConfig has neither Codec nor Resource", Hint: "set Resource to what keyfilter.Resource returns"})
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	const window = 4096
	tally := newTally(cfg)
	var err error
	tally.report.Revision, tally.report.Moved, err = newScanner(client, cfg.Prefix, cfg.AllKeys, cfg.RequestTimeout, window).scan(ctx, "", func(kvs []*mvccpb.KeyValue) error {
		for _, kv := range kvs {
			if kv != nil {
				tally.add(ctx, string(kv.Key), kv.Value)
			}
		}
		return ctx.Err()
	})
	if err != nil {
		return nil, err
	}
	return tally.done(), nil
}

// CheckReadable counts which values an apiserver with the Codec's configuration reads, each under its key: what the guard of a mirror would refuse, before the mirror begins.
// The error is the report's.
func CheckReadable(ctx context.Context, c *Codec, values iter.Seq2[string, []byte]) (*AuditReport, error) {
	if c == nil {
		return nil, &Error{Kind: ErrConfig, Detail: "there is no Codec", Hint: "make one with NewCodec"}
	}
	tally := newTally(AuditConfig{Codec: c})
	for key, value := range values {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		tally.add(ctx, key, value)
	}
	report := tally.done()
	return report, report.Err()
}

// tally makes a report.
type tally struct {
	cfg    AuditConfig
	report *AuditReport
	rows   map[row]*AuditCount
}

type row struct {
	resource string
	label    Label
}

func newTally(cfg AuditConfig) *tally {
	switch {
	case cfg.Limit == 0:
		cfg.Limit = DefaultAuditLimit
	case cfg.Limit < 0:
		cfg.Limit = 0
	}
	if cfg.Codec != nil {
		cfg.Resource = cfg.Codec.cfg.Resource
	}
	return &tally{cfg: cfg, report: &AuditReport{Checked: cfg.Codec != nil}, rows: map[row]*AuditCount{}}
}

func (t *tally) add(ctx context.Context, key string, value []byte) {
	at := key
	if t.cfg.Key != nil {
		at = t.cfg.Key(key)
	}
	r := row{resource: t.resource(at), label: labelOf(value)}
	var stale bool
	var err error
	if c := t.cfg.Codec; c != nil {
		var plain []byte
		var by *transformer
		if plain, by, err = c.open(ctx, at, value); err == nil {
			r.label = by.Label
			if w, err := c.writer(at, plain); err == nil && r.resource != "" {
				stale = !w.same(by.atom)
			}
		} else {
			r.label = c.labelOf(value)
		}
	}
	n, size := t.count(r), int64(len(value))
	n.Values++
	n.Bytes += size
	t.report.Values++
	t.report.Bytes += size
	switch {
	case t.cfg.Codec == nil:
	case err == nil:
		n.Readable++
		t.report.Readable++
		if stale {
			n.Stale++
			t.report.Stale++
		}
	case errors.Is(err, ErrUnavailable):
		n.Unavailable++
		t.report.Unavailable++
	default:
		n.Unreadable++
		t.report.Unreadable++
		if len(t.report.List) < t.cfg.Limit {
			t.report.List = append(t.report.List, UnreadableValue{Key: key, Reason: reason(err)})
		}
	}
}

// labelOf is labelOf with the names that the configuration knows: they may hold colons.
func (c *Codec) labelOf(value []byte) Label {
	label := labelOf(value)
	longest := 0
	for _, t := range c.all {
		if !t.isIdentity() && len(t.head) > longest && strings.HasPrefix(string(value[:min(len(value), len(t.head))]), string(t.head)) {
			label, longest = t.Label, len(t.head)
		}
	}
	return label
}

// reason is an error without its kind and hint.
func reason(err error) string {
	if e, ok := errors.AsType[*Error](err); ok && e.Detail != "" {
		return e.Detail
	}
	return "unreadable"
}

func (t *tally) resource(key string) string {
	group, resource, known := t.cfg.Resource(key)
	if known {
		return specText(spec{Group: group, Resource: resource})
	}
	return resource
}

func (t *tally) count(r row) *AuditCount {
	n := t.rows[r]
	if n == nil {
		if len(t.rows) >= maxCounts {
			r = row{resource: "(others)", label: Label{Provider: "(others)"}}
			if n = t.rows[r]; n != nil {
				return n
			}
		}
		n = &AuditCount{Resource: r.resource, Label: r.label}
		t.rows[r] = n
	}
	return n
}

func (t *tally) done() *AuditReport {
	for _, n := range t.rows {
		t.report.Counts = append(t.report.Counts, *n)
	}
	slices.SortFunc(t.report.Counts, func(a, b AuditCount) int {
		return cmp.Or(cmp.Compare(a.Resource, b.Resource), cmp.Compare(a.Provider, b.Provider), cmp.Compare(a.Name, b.Name))
	})
	return t.report
}

// WriteText writes the report as a table.
func (r *AuditReport) WriteText(w io.Writer) error {
	tab := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	if r.Checked {
		fmt.Fprintln(tab, "RESOURCE\tPROVIDER\tKEY\tVALUES\tREADABLE\tUNREADABLE\tUNKNOWN\tSTALE")
	} else {
		fmt.Fprintln(tab, "RESOURCE\tPROVIDER\tKEY\tVALUES")
	}
	for _, c := range r.Counts {
		name := ""
		if c.Name != "" {
			name = strings.Trim(showName(c.Name), `"`)
		}
		fmt.Fprintf(tab, "%s\t%s\t%s\t%d", cmp.Or(c.Resource, "-"), c.Provider, cmp.Or(name, "-"), c.Values)
		if r.Checked {
			fmt.Fprintf(tab, "\t%d\t%d\t%d\t%d", c.Readable, c.Unreadable, c.Unavailable, c.Stale)
		}
		fmt.Fprintln(tab)
	}
	if err := tab.Flush(); err != nil {
		return err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%d values, %d bytes", r.Values, r.Bytes)
	if r.Checked {
		fmt.Fprintf(&b, ": %d readable, %d not, %d unknown because a KMS plugin is away; %d would be written with another key", r.Readable, r.Unreadable, r.Unavailable, r.Stale)
	}
	fmt.Fprintln(&b)
	for _, u := range r.List {
		fmt.Fprintf(&b, "unreadable: %q: %s\n", u.Key, u.Reason)
	}
	if more := r.Unreadable - len(r.List); more > 0 && r.Checked {
		fmt.Fprintf(&b, "and %d more\n", more)
	}
	_, err := io.WriteString(w, b.String())
	return err
}
