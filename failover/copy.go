package failover

import (
	"context"
	"errors"
	"fmt"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/understudy-dr/understudy/internal/etcdrpc"
	"github.com/understudy-dr/understudy/internal/keyspace"
)

// CopyPrefix is where copies of journals lie in an etcd. It is below the prefix of the mirrors' metadata, which is never mirrored, compared or repaired,
// and in a folder that no mirror can be named after.
//
//	/understudy/.failover/journal/<plan>/<journal>/<number>  a line of a journal
//	/understudy/.failover/lock/<plan>                        who runs the plan; bound to a lease
const CopyPrefix = keyspace.MetadataPrefix + ".failover/"

func copyDir(plan, id string) string { return CopyPrefix + "journal/" + plan + "/" + id + "/" }
func copyKey(plan, id string, seq int) string {
	return fmt.Sprintf("%s%010d", copyDir(plan, id), seq)
}
func lockKey(plan string) string { return CopyPrefix + "lock/" + plan }

// Etcd is what a copy needs of an etcd's client: *clientv3.Client is one. The caller owns it.
// With etcd's authentication its user reads and writes CopyPrefix.
type Etcd interface {
	Get(ctx context.Context, key string, opts ...clientv3.OpOption) (*clientv3.GetResponse, error)
	Txn(ctx context.Context) clientv3.Txn
	Grant(ctx context.Context, ttl int64) (*clientv3.LeaseGrantResponse, error)
	KeepAliveOnce(ctx context.Context, id clientv3.LeaseID) (*clientv3.LeaseKeepAliveResponse, error)
	Revoke(ctx context.Context, id clientv3.LeaseID) (*clientv3.LeaseRevokeResponse, error)
}

// CopyPolicy is what happens when the copy cannot be written.
type CopyPolicy string

const (
	// CopyBestEffort notes it in the journal and goes on; the copy catches up when the etcd is back.
	CopyBestEffort CopyPolicy = ""
	// CopyRequired stops before the next act with ErrCopy.
	CopyRequired CopyPolicy = "required"
)

// Defaults of CopyConfig.
const (
	DefaultCopyTimeout    = 5 * time.Second
	DefaultCopyRetryAfter = 10 * time.Second
	DefaultLockTTL        = 15 * time.Second
)

// CopyConfig says where a copy of the journal goes: to an etcd that survives the disaster, so the standby's.
//
// The file is what counts: it is written first, and the copy follows. A copy that has records which the file lacks, or others, stops the run with ErrJournalLost or ErrJournal.
// When the file is lost, RestoreJournal makes it anew from the copy.
//
// The copy is also a second lock, against runners on other hosts: it is held by a lease, and compared in each transaction. A runner that crashed is replaced at once on the same file, and
// elsewhere when the lease has run out. With CopyBestEffort a runner that cannot reach the etcd goes on all the same: there, and without a copy, only the lock of the file keeps two runners apart.
type CopyConfig struct {
	// Etcd is the client; nil makes no copy.
	Etcd Etcd
	// Policy is what happens when the etcd cannot be reached.
	Policy CopyPolicy
	// RequestTimeout is the deadline of each request; 0 is DefaultCopyTimeout.
	RequestTimeout time.Duration
	// RetryAfter is how long CopyBestEffort leaves an etcd alone that could not be reached, so that it does not slow the run down; 0 is DefaultCopyRetryAfter.
	RetryAfter time.Duration
	// LockTTL is how long after a crash the lock stays with the runner, in whole seconds; 0 is DefaultLockTTL.
	LockTTL time.Duration
}

func (c CopyConfig) complete() (CopyConfig, error) {
	var errs []error
	if c.Policy != CopyBestEffort && c.Policy != CopyRequired {
		errs = append(errs, badConfig(fmt.Sprintf("Copy.Policy %q is unknown", c.Policy), "use CopyBestEffort or CopyRequired"))
	}
	if c.Policy == CopyRequired && c.Etcd == nil {
		errs = append(errs, badConfig("Copy.Policy requires a copy, and Copy.Etcd is nil", "set it"))
	}
	for _, d := range []struct {
		name  string
		value *time.Duration
		zero  time.Duration
	}{{"RequestTimeout", &c.RequestTimeout, DefaultCopyTimeout}, {"RetryAfter", &c.RetryAfter, DefaultCopyRetryAfter}, {"LockTTL", &c.LockTTL, DefaultLockTTL}} {
		if *d.value < 0 {
			errs = append(errs, badConfig(fmt.Sprintf("Copy.%s is %v", d.name, *d.value), "use a positive one, or 0 for the default"))
		}
		if *d.value == 0 {
			*d.value = d.zero
		}
	}
	if c.LockTTL%time.Second != 0 {
		errs = append(errs, badConfig(fmt.Sprintf("Copy.LockTTL is %v", c.LockTTL), "use whole seconds: etcd counts so"))
	}
	return c, errors.Join(errs...)
}

// copyReached is what the journal says when the copy is written again.
const copyReached = "the copy is written again"

// copier keeps a journal's copy. The journal calls it, one call at a time.
type copier struct {
	cfg  CopyConfig
	plan string
	id   string // the journal's; "" until it begins
	lock *copyLock

	known   bool // sent is what the etcd has
	sent    int  // records
	down    bool // the last attempt failed, at tried
	tried   time.Time
	failure string
	noted   bool // that it is down
}

func newCopier(cfg CopyConfig, plan, id, place string, who Identity) *copier {
	return &copier{cfg: cfg, plan: plan, id: id, lock: &copyLock{cfg: cfg, key: lockKey(plan), mine: lockRecord{Place: place, Identity: who}}}
}

// setJournal names a journal that begins.
func (c *copier) setJournal(id string) { c.id, c.known = id, true }

// push sends what the copy lacks. changed is set when its state is worth a record, which says detail. An error stops the run.
func (c *copier) push(ctx context.Context, lines [][]byte) (changed bool, detail string, err error) {
	required := c.cfg.Policy == CopyRequired
	if required || !c.down || time.Since(c.tried) >= c.cfg.RetryAfter {
		err = c.try(ctx, lines)
	}
	switch {
	case err != nil && (required || !unreachable(err)):
		return false, "", err
	case c.down && !c.noted:
		c.noted = true
		return true, c.failure, nil
	case !c.down && c.noted:
		c.noted = false
		return true, copyReached, nil
	}
	return false, "", nil
}

// try makes one attempt, and remembers how it went.
func (c *copier) try(ctx context.Context, lines [][]byte) error {
	err := c.sync(ctx, lines)
	if c.down = err != nil && unreachable(err); c.down {
		c.tried, c.failure = time.Now(), clean(err.Error())
	}
	return err
}

// unreachable reports whether an error says nothing about what the etcd holds.
func unreachable(err error) bool { return errors.Is(err, ErrCopy) }

func (c *copier) failed(doing string, err error) error {
	hint := "check endpoints, network and TLS files, and that the cluster has a leader"
	if etcdrpc.Classify(err) == etcdrpc.Denied {
		hint = "its user needs to read and write " + CopyPrefix
	}
	return &Error{Kind: ErrCopy, Detail: doing, Cause: err, Hint: hint}
}

// sync brings the copy up to the lines, under the lock.
func (c *copier) sync(ctx context.Context, lines [][]byte) error {
	if err := c.lock.hold(ctx); err != nil {
		return c.explain("locking", err)
	}
	if c.id == "" {
		return nil
	}
	for tries := 0; tries < len(lines)+10; tries++ { // each sends at least one, but for some surprises
		if !c.known {
			if err := c.compare(ctx, lines); err != nil {
				return err
			}
		}
		if c.sent == len(lines) {
			return nil
		}
		if err := c.send(ctx, lines); err != nil {
			return err
		}
	}
	return c.failed("writing the copy", errors.New("it changes again and again"))
}

// explain keeps what is explained already.
func (c *copier) explain(doing string, err error) error {
	var e *Error
	if errors.As(err, &e) {
		return err
	}
	return c.failed(doing+" the copy", err)
}

const (
	// A transaction of the copy holds up to so many records and bytes: below etcd's defaults of 128 operations and 1.5 MiB.
	copyOps   = 64
	copyBytes = 1 << 20
)

// send writes the next records in one transaction, if the lock is held and none of them is there.
func (c *copier) send(ctx context.Context, lines [][]byte) error {
	var ops []clientv3.Op
	for size, i := 0, c.sent; i < len(lines) && len(ops) < copyOps; i++ {
		if size += len(lines[i]); size > copyBytes && len(ops) > 0 {
			break
		}
		ops = append(ops, clientv3.OpPut(copyKey(c.plan, c.id, i+1), string(lines[i])))
	}
	next := copyKey(c.plan, c.id, c.sent+1)
	resp, err := etcdrpc.Do(ctx, c.cfg.RequestTimeout, func(ctx context.Context) (*clientv3.TxnResponse, error) {
		return c.cfg.Etcd.Txn(ctx).If(c.lock.held(), clientv3.Compare(clientv3.CreateRevision(next), "=", 0)).Then(ops...).Commit()
	})
	if err != nil {
		c.known = false // it may have been written
		return c.failed("writing the copy", err)
	}
	if resp.Succeeded {
		c.sent += len(ops)
		return nil
	}
	// The lock is lost, or an attempt without an answer had been written: look again.
	c.known = false
	c.lock.lost()
	if err := c.lock.hold(ctx); err != nil {
		return c.explain("locking", err)
	}
	return nil
}

// compare holds the copy against the file.
func (c *copier) compare(ctx context.Context, lines [][]byte) error {
	values, err := readCopy(ctx, c.cfg.Etcd, c.cfg.RequestTimeout, c.plan, c.id)
	if err != nil {
		return c.explain("reading", err)
	}
	for i, value := range values {
		switch {
		case i == len(lines):
			return &Error{Kind: ErrJournalLost, Detail: fmt.Sprintf("its copy has %d records, the file %d: the file is an older state of it", len(values), len(lines)),
				Hint: "move the file away and restore it from the copy (RestoreJournal)"}
		case string(value) != string(lines[i]):
			return &Error{Kind: ErrJournal, Detail: fmt.Sprintf("record %d of its copy differs from the file's: the run went on from a copy of the file elsewhere", i+1),
				Hint: "find out which one is right; keep the other for the record and move it away"}
		}
	}
	c.known, c.sent = true, len(values)
	return nil
}

// behind is how many records the copy lacks.
func (c *copier) behind(j *journal) int64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.seq - int64(c.sent)
}

// openCopy takes the lock, holds the copy against the file, and looks for a run whose file is lost.
func (s *session) openCopy(ctx context.Context) error {
	c := s.j.copy
	err := c.try(ctx, s.j.lines)
	if err == nil && s.fresh && s.cfg.Begin != BeginOnly {
		err = c.lostRun(ctx)
	}
	if err != nil && unreachable(err) && s.cfg.Copy.Policy == CopyBestEffort {
		s.log.Warn("the copy of the journal cannot be written", LogKeyError, err)
		return nil
	}
	return err
}

// lostRun refuses to begin a plan again of which the etcd has an unfinished run.
func (c *copier) lostRun(ctx context.Context) error {
	all, err := listCopies(ctx, c.cfg.Etcd, c.cfg.RequestTimeout, copyDirOf(c.plan))
	if err != nil || len(all) == 0 {
		return err
	}
	last := all[len(all)-1]
	log, err := readCopyLog(ctx, c.cfg.Etcd, c.cfg.RequestTimeout, c.plan, last.Journal)
	if err != nil {
		return err
	}
	if log.state.ended != "" {
		return nil
	}
	return &Error{Kind: ErrJournalLost, Detail: fmt.Sprintf("the etcd has run %s of plan %q, begun %s and not finished", last.Journal, c.plan, log.state.began.Format(time.RFC3339)),
		Hint: "resume it with its file, or restore the file (RestoreJournal); to begin another run all the same, use BeginOnly"}
}

// close catches up once more and lets the lock go.
func (c *copier) close(lines [][]byte) {
	ctx, cancel := context.WithTimeout(context.Background(), c.cfg.RequestTimeout)
	defer cancel()
	if c.id != "" {
		_ = c.try(ctx, lines) // what it lacks now it gets next time
	}
	c.lock.release(ctx, !c.down)
}
