package failover

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/understudy-dr/understudy/internal/etcdrpc"
	"github.com/understudy-dr/understudy/internal/keyspace"
)

// CopiedJournal is a journal of which an etcd has a copy.
type CopiedJournal struct {
	Plan    string
	Journal string // its ID, which begins with the time of its beginning
	Records int
}

// ListCopies lists the copies of journals in an etcd, by plan and age.
func ListCopies(ctx context.Context, etcd Etcd) ([]CopiedJournal, error) {
	return listCopies(ctx, etcd, DefaultCopyTimeout, CopyPrefix+"journal/")
}

// ReadCopy reads the copy of a journal; id "" is the plan's newest. ErrNoJournal if there is none.
func ReadCopy(ctx context.Context, etcd Etcd, plan, id string) (*Log, error) {
	if !keyspace.ValidName(plan) {
		return nil, badConfig(fmt.Sprintf("%q is no name of a plan", plan), "see ListCopies")
	}
	if id == "" {
		all, err := listCopies(ctx, etcd, DefaultCopyTimeout, copyDirOf(plan))
		if err != nil {
			return nil, err
		}
		if len(all) == 0 {
			return nil, noCopy(plan, id)
		}
		id = all[len(all)-1].Journal
	}
	return readCopyLog(ctx, etcd, DefaultCopyTimeout, plan, id)
}

// RestoreJournal makes a journal's file anew from its copy; id "" is the plan's newest. It replaces no file. What the lost file had beyond the copy is found out by Observe when the run is resumed,
// but for decisions and values that steps saved: those since the copy's last record are lost.
func RestoreJournal(ctx context.Context, etcd Etcd, plan, id, path string) (*Log, error) {
	log, err := ReadCopy(ctx, etcd, plan, id)
	if err != nil {
		return nil, err
	}
	values, err := readCopy(ctx, etcd, DefaultCopyTimeout, plan, log.ID())
	if err != nil {
		return nil, copyUnread(err)
	}
	err = writeWhole(path, bytes.Join(values, nil))
	switch {
	case errors.Is(err, fs.ErrExist):
		return nil, &Error{Kind: ErrJournalExists, Detail: path, Hint: "move it away, or give another path"}
	case err != nil:
		return nil, journalError(path, "writing it", err)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, journalError(path, "opening it", err)
	}
	defer f.Close()
	return readLog(path, f)
}

func noCopy(plan, id string) error {
	return &Error{Kind: ErrNoJournal, Detail: "nothing under " + copyDir(plan, id), Hint: "check the plan's name and the endpoints; see ListCopies"}
}

func copyUnread(err error) error {
	return &Error{Kind: ErrCopy, Detail: "reading the copy", Cause: err, Hint: "check endpoints, network, TLS files and the user's permissions"}
}

func copyDirOf(plan string) string { return CopyPrefix + "journal/" + plan + "/" }

// copyPage is how many keys one request reads.
const copyPage = 500

// scan reads a prefix in pages, at one revision.
func scan(ctx context.Context, etcd Etcd, timeout time.Duration, prefix string, keysOnly bool, each func(key string, value []byte)) error {
	begin, end, rev := prefix, clientv3.GetPrefixRangeEnd(prefix), int64(0)
	for {
		opts := []clientv3.OpOption{clientv3.WithRange(end), clientv3.WithLimit(copyPage), clientv3.WithRev(rev)}
		if keysOnly {
			opts = append(opts, clientv3.WithKeysOnly())
		}
		resp, err := etcdrpc.Do(ctx, timeout, func(ctx context.Context) (*clientv3.GetResponse, error) {
			return etcd.Get(ctx, begin, opts...)
		})
		if err != nil {
			return err
		}
		for _, kv := range resp.Kvs {
			each(string(kv.Key), kv.Value)
		}
		if !resp.More {
			return nil
		}
		begin, rev = string(resp.Kvs[len(resp.Kvs)-1].Key)+"\x00", resp.Header.Revision
	}
}

func listCopies(ctx context.Context, etcd Etcd, timeout time.Duration, prefix string) (all []CopiedJournal, err error) {
	err = scan(ctx, etcd, timeout, prefix, true, func(key string, _ []byte) {
		parts := strings.Split(strings.TrimPrefix(key, CopyPrefix+"journal/"), "/")
		if len(parts) != 3 {
			return
		}
		if n := len(all); n == 0 || all[n-1].Plan != parts[0] || all[n-1].Journal != parts[1] {
			all = append(all, CopiedJournal{Plan: parts[0], Journal: parts[1]})
		}
		all[len(all)-1].Records++
	})
	if err != nil {
		return nil, copyUnread(err)
	}
	return all, nil
}

// readCopy reads the lines of a copy, which have to be without gaps.
func readCopy(ctx context.Context, etcd Etcd, timeout time.Duration, plan, id string) (lines [][]byte, err error) {
	var gap error
	err = scan(ctx, etcd, timeout, copyDir(plan, id), false, func(key string, value []byte) {
		if want := copyKey(plan, id, len(lines)+1); key != want && gap == nil {
			gap = &Error{Kind: ErrJournal, Detail: fmt.Sprintf("its copy has %s where %s was expected", key, want), Hint: "somebody changed the copy: keep it for the record"}
		}
		lines = append(lines, value)
	})
	if err == nil {
		err = gap
	}
	return lines, err
}

func readCopyLog(ctx context.Context, etcd Etcd, timeout time.Duration, plan, id string) (*Log, error) {
	lines, err := readCopy(ctx, etcd, timeout, plan, id)
	var e *Error
	switch {
	case errors.As(err, &e):
		return nil, err
	case err != nil:
		return nil, copyUnread(err)
	case len(lines) == 0:
		return nil, noCopy(plan, id)
	}
	log, err := readLog(copyDir(plan, id), bytes.NewReader(bytes.Join(lines, nil)))
	if err == nil && log.ID() != id {
		return nil, &Error{Kind: ErrJournal, Detail: fmt.Sprintf("%s holds journal %s", copyDir(plan, id), log.ID()), Hint: "somebody changed the copy: keep it for the record"}
	}
	return log, err
}
