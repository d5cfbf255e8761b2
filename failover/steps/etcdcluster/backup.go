package etcdcluster

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/understudy-dr/understudy/failover"
)

// BackupConfig saves a member's database.
type BackupConfig struct {
	// Name is the step's; "" is "etcd/backup/" and the member's name.
	Name      string
	Reference string
	// Node is the member. It needs no quorum.
	Node Node
	// File is where the snapshot is kept, on the machine of the runner; it does not exist, its folder does. Required. Beside it the checksum is kept in File + ".sha256", as sha256sum -c reads it.
	// Both hold all of the database, Secrets too, and are readable by their owner only.
	File string
	// Stall is how long the snapshot may bring nothing before it is given up; 0 is DefaultStall.
	Stall time.Duration
	// Timeout bounds the whole; 0 is failover's default.
	Timeout time.Duration
}

// DefaultStall is the default of BackupConfig.Stall.
const DefaultStall = 30 * time.Second

// saved is what the journal keeps of a backup.
type saved struct {
	SHA256 string `json:"sha256"`
	Bytes  int64  `json:"bytes"`
}

// ErrSnapshot: what came is no whole snapshot.
var ErrSnapshot = errors.New("no whole snapshot")

// Backup makes the step that saves a snapshot of a member's database to a file, as etcdutl snapshot restore reads it, and its checksum. etcd takes it from the member alone: it works without a quorum.
// The snapshot ends in etcd's own checksum, which is verified; the file appears whole or not at all. Undo renames the files and deletes nothing.
func Backup(cfg BackupConfig) (failover.Step, error) {
	errs := []error{checkNodes(nodeList{field: "Node", nodes: []Node{cfg.Node}})}
	duration(&errs, "Stall", &cfg.Stall, DefaultStall)
	if cfg.Timeout < 0 {
		errs = append(errs, bad(fmt.Sprintf("Timeout is %v", cfg.Timeout), "use a positive duration, or 0 for the default"))
	}
	file, err := filepath.Abs(cfg.File)
	if cfg.File == "" || err != nil {
		errs = append(errs, bad(fmt.Sprintf("File is %q", cfg.File), "give the path of a file that does not exist, in a folder that does"))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	b := &backup{node: cfg.Node, file: file, stall: cfg.Stall}
	return failover.Funcs{
		Name:    stepName(cfg.Name, stepFor("etcd/backup", cfg.Node)),
		Observe: b.observe, Do: b.do, Undo: b.undo, Verify: b.verify, Timeout: cfg.Timeout,
		Description: failover.Description{
			Action:    fmt.Sprintf("Save a snapshot of %s's database to %s, with its checksum", cfg.Node.Name, file),
			Commands:  []string{fmt.Sprintf("etcdctl --endpoints=%s snapshot save %s", cfg.Node.endpoint(), file), fmt.Sprintf("sha256sum %s > %s.sha256", filepath.Base(file), filepath.Base(file))},
			Verify:    "The file's checksum is the one that the snapshot came with.",
			Undo:      "Rename the files to .undone and the time; nothing is deleted.",
			Reference: cfg.Reference,
			Inputs:    map[string]any{"node": cfg.Node.input(), "file": file},
		},
	}.Step(), nil
}

type backup struct {
	node  Node
	file  string
	stall time.Duration
}

func (b *backup) sumFile() string { return b.file + ".sha256" }

func (b *backup) observe(ctx context.Context) (failover.Observation, error) {
	var s saved
	known, err := failover.Load(ctx, "backup", &s)
	if err != nil {
		return failover.Observation{}, err
	}
	known = known && s.SHA256 != ""
	info, err := os.Lstat(b.file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		dir, err := os.Stat(filepath.Dir(b.file))
		if err != nil || !dir.IsDir() {
			return failover.Observation{State: failover.Blocked, Detail: filepath.Dir(b.file) + " is no folder: make it"}, nil
		}
		return failover.Observation{State: failover.Pending, Detail: "there is no snapshot"}, nil
	case err != nil:
		return failover.Observation{}, err
	case !known:
		return failover.Observation{State: failover.Blocked, Detail: fmt.Sprintf("%s exists, from %s, and is not this run's: move it, or name another file", b.file, info.ModTime().UTC().Format(time.RFC3339))}, nil
	case info.Size() != s.Bytes:
		return failover.Observation{State: failover.Blocked, Detail: fmt.Sprintf("%s has %d bytes, not %d: somebody changed it", b.file, info.Size(), s.Bytes)}, nil
	}
	if got, err := os.ReadFile(b.sumFile()); err != nil || !bytes.Equal(got, b.sumLine(s)) {
		return failover.Observation{State: failover.Partial, Detail: "the snapshot is there, its checksum is not"}, nil
	}
	return failover.Observation{State: failover.Done, Detail: fmt.Sprintf("%s has %d bytes, SHA-256 %s", b.file, s.Bytes, s.SHA256)}, nil
}

func (b *backup) sumLine(s saved) []byte {
	return []byte(s.SHA256 + "  " + filepath.Base(b.file) + "\n")
}

func (b *backup) do(ctx context.Context) error {
	if _, err := os.Lstat(b.file); errors.Is(err, fs.ErrNotExist) {
		if err := b.fetch(ctx); err != nil {
			return err
		}
	}
	var s saved
	if ok, err := failover.Load(ctx, "backup", &s); err != nil || !ok {
		return errors.Join(err, fmt.Errorf("%s is not this run's", b.file))
	}
	return writeDurably(b.sumFile(), func(f *os.File) error {
		_, err := f.Write(b.sumLine(s))
		return err
	}, nil)
}

// fetch saves what the file will be to the journal before it gets its name.
func (b *backup) fetch(ctx context.Context) error {
	var s saved
	return writeDurably(b.file, func(f *os.File) (err error) {
		s, err = b.stream(ctx, f)
		return err
	}, func() error { return failover.Save(ctx, "backup", s) })
}

// stream copies the snapshot, and checks the checksum that it ends in.
func (b *backup) stream(ctx context.Context, f io.Writer) (s saved, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watchdog := time.AfterFunc(b.stall, func() { cancel(fmt.Errorf("%s sent nothing for %v", b.node.Name, b.stall)) })
	defer watchdog.Stop()
	defer func() {
		if cause := context.Cause(ctx); err != nil && cause != nil {
			err = fmt.Errorf("%w: %w", cause, err)
		}
	}()
	r, err := b.node.awake().Snapshot(ctx)
	if err != nil {
		return s, fmt.Errorf("snapshot of %s: %w", b.node.Name, err)
	}
	defer r.Close()
	sum := &tailSum{file: sha256.New(), body: sha256.New()}
	buf := make([]byte, 64<<10)
	for {
		n, err := r.Read(buf)
		watchdog.Reset(b.stall)
		if n > 0 {
			_, _ = sum.Write(buf[:n]) // never fails
			if _, err := f.Write(buf[:n]); err != nil {
				return s, err
			}
			s.Bytes += int64(n)
			failover.Report(ctx, fmt.Sprintf("%d bytes", s.Bytes))
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return s, fmt.Errorf("snapshot of %s: %w", b.node.Name, err)
		}
	}
	if s.Bytes%512 != sha256.Size || !bytes.Equal(sum.body.Sum(nil), sum.tail) {
		return s, fmt.Errorf("%w: of %s came %d bytes, which do not end in their checksum", ErrSnapshot, b.node.Name, s.Bytes)
	}
	s.SHA256 = hex.EncodeToString(sum.file.Sum(nil))
	return s, nil
}

// tailSum sums up all of a file, and all but its last 32 bytes.
type tailSum struct {
	file, body hash.Hash
	tail       []byte
}

func (t *tailSum) Write(p []byte) (int, error) {
	_, _ = t.file.Write(p)
	t.tail = append(t.tail, p...)
	if n := len(t.tail) - sha256.Size; n > 0 {
		_, _ = t.body.Write(t.tail[:n])
		t.tail = append(t.tail[:0], t.tail[n:]...)
	}
	return len(p), nil
}

func (b *backup) verify(ctx context.Context) error {
	var s saved
	if ok, err := failover.Load(ctx, "backup", &s); err != nil || !ok {
		return errors.Join(err, errors.New("the journal has no checksum"))
	}
	f, err := os.Open(b.file)
	if err != nil {
		return err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return err
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != s.SHA256 {
		return failover.Permanent(fmt.Errorf("%w: %s has the SHA-256 %s, not %s", ErrSnapshot, b.file, got, s.SHA256))
	}
	return nil
}

func (b *backup) undo(ctx context.Context) error {
	suffix := ".undone-" + time.Now().UTC().Format(labelLayout)
	for _, file := range []string{b.sumFile(), b.file} {
		if err := os.Rename(file, file+suffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if err := syncDir(filepath.Dir(b.file)); err != nil {
		return err
	}
	failover.Note(ctx, "the snapshot is now "+b.file+suffix)
	return nil
}

// writeDurably makes a file that appears whole. ready is called once its content is on the disk and before it has its name.
func writeDurably(file string, write func(*os.File) error, ready func() error) (err error) {
	next := file + ".part"
	f, err := os.OpenFile(next, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close(), os.Remove(next))
		}
	}()
	if err := write(f); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if ready != nil {
		if err := ready(); err != nil {
			return err
		}
	}
	if err := os.Rename(next, file); err != nil {
		return err
	}
	return errors.Join(f.Close(), syncDir(filepath.Dir(file)))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
