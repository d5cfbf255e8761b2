package failover

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// maxJournal bounds a journal's file, which is read as a whole.
const maxJournal = 256 << 20

var errLocked = errors.New("locked")

// journal appends records to a file, each durable before append returns, and sends them to the copy. Safe for concurrent use.
type journal struct {
	path  string
	place string // identifies the file

	mu     sync.Mutex
	file   file
	size   int64
	seq    int64
	sum    string
	broken error // after a failed write nobody knows what the file holds
	copy   *copier
	lines  [][]byte // all of them, for the copy; nil without one
	taken  func(Record) error
}

// openJournal locks a journal's file, making it if it may, and reads it. What a crash left of a last line is cut off.
func openJournal(path string, create bool) (j *journal, records []Record, err error) {
	flags := os.O_RDWR
	if create {
		flags |= os.O_CREATE
	}
	f, err := os.OpenFile(path, flags, 0o600)
	if errors.Is(err, fs.ErrNotExist) && !create {
		return nil, nil, noJournal(path)
	}
	if err != nil {
		return nil, nil, journalError(path, "opening it", err)
	}
	defer func() {
		if err != nil {
			_ = f.Close()
		}
	}()
	if err := lockFile(f); errors.Is(err, errLocked) {
		return nil, nil, &Error{Kind: ErrBusy, Detail: path + " is locked" + holder(path), Hint: "see its status; a lock ends with its process, so there is one that runs"}
	} else if err != nil {
		return nil, nil, journalError(path, "locking it", err)
	}
	if err := samePath(f, path); err != nil {
		return nil, nil, err
	}
	data, err := io.ReadAll(io.LimitReader(f, maxJournal+1))
	if err != nil {
		return nil, nil, journalError(path, "reading it", err)
	}
	if len(data) > maxJournal {
		return nil, nil, journalError(path, fmt.Sprintf("it has more than %d bytes", maxJournal), nil)
	}
	p, err := parseJournal(path, data)
	if err != nil {
		return nil, nil, err
	}
	j = &journal{path: path, file: f, size: p.good, seq: int64(len(p.records)), sum: p.sum, lines: p.lines}
	if j.place, err = placeOf(f); err != nil {
		return nil, nil, journalError(path, "identifying it", err)
	}
	if err := j.mend(p); err != nil {
		return nil, nil, journalError(path, "cutting off what a crash left", err)
	}
	// The file may be new, or from a runner that was killed before it got here.
	if err := syncDir(filepath.Dir(path)); err != nil {
		return nil, nil, journalError(path, "making its entry durable", err)
	}
	return j, p.records, nil
}

func (j *journal) mend(p parsed) error {
	if p.torn {
		if err := j.file.Truncate(p.good); err != nil {
			return err
		}
	}
	if p.bare {
		if _, err := j.file.WriteAt([]byte("\n"), j.size); err != nil {
			return err
		}
		j.size++
	}
	// What was read may be in memory only: a runner that was killed between write and sync. From here on it counts.
	return j.file.Sync()
}

// samePath refuses a file that was replaced between opening and locking it.
func samePath(f *os.File, path string) error {
	opened, err := f.Stat()
	if err != nil {
		return journalError(path, "looking at it", err)
	}
	found, err := os.Stat(path)
	if err != nil || !os.SameFile(opened, found) {
		return journalError(path, "it was replaced while it was opened", err)
	}
	if !opened.Mode().IsRegular() {
		return journalError(path, "it is no regular file", nil)
	}
	return nil
}

// holder says who holds the journal, as far as its last run tells.
func holder(path string) string {
	log, err := ReadJournal(path)
	if err != nil {
		return ""
	}
	for i := len(log.Records) - 1; i >= 0; i-- {
		if r := log.Records[i]; r.Kind == RecordRun && r.Runner != nil {
			return fmt.Sprintf(" by %v, since %s", *r.Runner, r.At.Format(time.RFC3339))
		}
	}
	return ""
}

// append writes a record, given its time and number here. It returns when the record is durable in the file, and in the copy where that is required.
func (j *journal) append(ctx context.Context, r Record) (Record, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	r, err := j.write(r)
	if err != nil || j.copy == nil {
		return r, err
	}
	changed, detail, err := j.copy.push(ctx, j.lines)
	if changed { // its own record follows with the next one
		if _, writeErr := j.write(Record{Kind: RecordCopy, Detail: detail}); writeErr != nil {
			return r, writeErr
		}
	}
	return r, err
}

func (j *journal) write(r Record) (Record, error) {
	if j.broken != nil {
		return r, j.broken
	}
	r.Seq, r.At = j.seq+1, time.Now().UTC().Round(0)
	line, sum, err := encodeLine(j.sum, r)
	if err != nil {
		return r, journalError(j.path, "", err)
	}
	if _, err = j.file.WriteAt(line, j.size); err == nil {
		err = j.file.Sync()
	}
	if err != nil {
		// Neither a second write nor a second sync tells what is on the disk now; opening it anew does.
		j.broken = journalError(j.path, "writing it", err)
		return r, j.broken
	}
	j.seq, j.sum, j.size = r.Seq, sum, j.size+int64(len(line))
	if j.copy != nil {
		j.lines = append(j.lines, line)
	}
	if j.taken != nil {
		err = j.taken(r)
	}
	return r, err
}

// close lets the lock go. A file in which nothing was written is removed while the lock is held: whoever has opened it meanwhile finds that it was replaced.
func (j *journal) close() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	var err error
	if j.seq == 0 && j.broken == nil {
		err = os.Remove(j.path)
	}
	if j.broken == nil {
		j.broken = journalError(j.path, "it is closed", nil)
	}
	if f, ok := j.file.(*os.File); ok {
		unlockFile(f)
	}
	return errors.Join(err, j.file.Close())
}

func journalError(path, detail string, cause error) error {
	if detail != "" {
		detail = ": " + detail
	}
	return &Error{Kind: ErrJournal, Detail: path + detail, Cause: cause, Hint: "check the path, its permissions and the space on its disk"}
}

// Log is a journal that was read.
type Log struct {
	// Records, in order: at least the plan's.
	Records []Record
	// Torn is set when a last line was left out that was not written to its end: a runner is at it, or was killed.
	Torn bool

	state *progress
}

// ReadJournal reads a journal without its lock, also while a runner writes it. ErrNoJournal if there is none, or none with a record; ErrJournal if it is damaged.
func ReadJournal(path string) (*Log, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, noJournal(path)
	}
	if err != nil {
		return nil, journalError(path, "opening it", err)
	}
	defer f.Close()
	return readLog(path, f)
}

func noJournal(path string) error {
	return &Error{Kind: ErrNoJournal, Detail: path, Hint: "check the path; if the file is lost, restore it from its copy in the etcd (RestoreJournal)"}
}

func readLog(path string, r io.Reader) (*Log, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxJournal+1))
	if err != nil {
		return nil, journalError(path, "reading it", err)
	}
	if len(data) > maxJournal {
		return nil, journalError(path, fmt.Sprintf("it has more than %d bytes", maxJournal), nil)
	}
	p, err := parseJournal(path, data)
	if err != nil {
		return nil, err
	}
	if len(p.records) == 0 {
		return nil, noJournal(path)
	}
	state, err := replay(path, p.records)
	if err != nil {
		return nil, err
	}
	return &Log{Records: p.records, Torn: p.torn, state: state}, nil
}

// ID identifies the journal, in the etcd too.
func (l *Log) ID() string { return l.state.id }

// Hash is the plan's.
func (l *Log) Hash() string { return l.state.hash }

// Document is the plan.
func (l *Log) Document() Document { return l.state.doc.clone() }

// Status is what the journal tells: how far the run is, without what only the running process knows.
func (l *Log) Status() Status { return l.state.status() }
