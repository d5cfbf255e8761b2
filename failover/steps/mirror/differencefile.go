package mirror

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"time"
	"unicode/utf8"
)

// Kind is what the old primary did to a key after the last mirrored revision, in the end.
type Kind string

const (
	Created Kind = "created"
	Changed Kind = "changed"
	Deleted Kind = "deleted"
	// Passing: it was created and deleted again.
	Passing Kind = "created-and-deleted"
	// MaybeDeleted: the new primary has it from the mirror and the old one lacks it, which can only have deleted it, unless the mirror was behind. Only where the report is not exact.
	MaybeDeleted Kind = "maybe-deleted"
)

// NewState is what the new primary did to the same key since its promotion.
type NewState string

const (
	NewUnchanged NewState = "unchanged"
	NewChanged   NewState = "changed"
	NewDeleted   NewState = "deleted"
	// NewAbsent: it never had it, or has deleted it since.
	NewAbsent NewState = "absent"
)

// Difference is one key of a report, and one of its lines:
//
//	{"kind":"header","v":1,"mirror":…,"oldPrimary":…,"newPrimary":…,"from":…,"to":…,"promotedAt":…,"newRevision":…,"exact":…}
//	{"kind":"changed","key":"/registry/…","revision":…,"writes":2,"new":"unchanged"}
//	…
//	{"kind":"trailer","count":…,"conflicts":…,"kinds":{…},"sha256":"…"}
//
// The trailer's checksum is of all bytes before its line. A key that is no text in UTF-8 is in keyBytes, in base64.
type Difference struct {
	Key  string
	Kind Kind
	// Revision is the old primary's that changed the key last; 0 for MaybeDeleted. Writes is how often it did, 0 where that is not known.
	Revision int64
	Writes   int
	// New is what the new primary did since its promotion, NewRevision its revision if it changed the key.
	New         NewState
	NewRevision int64
}

// Conflict reports whether both primaries have changed the key, so that neither's state can simply be taken.
func (d Difference) Conflict() bool {
	switch d.New {
	case NewChanged:
		return true
	case NewDeleted:
		return d.Kind == Changed || d.Kind == Created
	}
	return false
}

// Differences is a report's header and summary.
type Differences struct {
	Version int    `json:"v"`
	Mirror  string `json:"mirror"`
	// OldPrimary and NewPrimary are cluster IDs, hexadecimal.
	OldPrimary string `json:"oldPrimary"`
	NewPrimary string `json:"newPrimary"`
	// The report covers the old primary's revisions after From, which was the last to be mirrored, up to and with To. PromotedAt is the new primary's revision that promoted it,
	// NewRevision the one at which it was looked at.
	From        int64 `json:"from"`
	To          int64 `json:"to"`
	PromotedAt  int64 `json:"promotedAt"`
	NewRevision int64 `json:"newRevision"`
	// Exact is set when the list is what was lost, no more and no less; else Why says why not.
	Exact     bool      `json:"exact"`
	Why       string    `json:"why,omitempty"`
	WrittenAt time.Time `json:"writtenAt"` // by this host's clock

	// Count is how many keys are listed, Conflicts how many of them both primaries have changed, Kinds how many there are of each kind.
	Count     int          `json:"-"`
	Conflicts int          `json:"-"`
	Kinds     map[Kind]int `json:"-"`
}

const differencesVersion = 1

func (r *Differences) count(d Difference) {
	if r.Kinds == nil {
		r.Kinds = map[Kind]int{}
	}
	r.Count++
	r.Kinds[d.Kind]++
	if d.Conflict() {
		r.Conflicts++
	}
}

// Summary says in a line what the report says.
func (r *Differences) Summary() string {
	text := fmt.Sprintf("after revision %d, the last that was mirrored, up to %d the old primary changed %s: %d created, %d changed, %d deleted",
		r.From, r.To, plural(r.Count, "key"), r.Kinds[Created], r.Kinds[Changed], r.Kinds[Deleted])
	if n := r.Kinds[Passing]; n > 0 {
		text += fmt.Sprintf(", %d created and deleted again", n)
	}
	if n := r.Kinds[MaybeDeleted]; n > 0 {
		text += fmt.Sprintf(", %d perhaps deleted", n)
	}
	text += fmt.Sprintf("; %d of them the new primary has changed too", r.Conflicts)
	if !r.Exact {
		text += "; not exact: " + r.Why
	}
	return text
}

// lineJSON is a line of the file, of any kind.
type lineJSON struct {
	Kind        string       `json:"kind"`
	Key         string       `json:"key,omitempty"`
	KeyBytes    []byte       `json:"keyBytes,omitempty"`
	Revision    int64        `json:"revision,omitempty"`
	Writes      int          `json:"writes,omitempty"`
	New         NewState     `json:"new,omitempty"`
	NewRevision int64        `json:"newRevision,omitempty"`
	Count       *int         `json:"count,omitempty"`
	Conflicts   *int         `json:"conflicts,omitempty"`
	Kinds       map[Kind]int `json:"kinds,omitempty"`
	SHA256      string       `json:"sha256,omitempty"`
}

type headerJSON struct {
	Kind string `json:"kind"`
	Differences
}

// jsonKey gives a key as text, or as bytes where it is none.
func jsonKey(key string) (string, []byte) {
	if utf8.ValidString(key) {
		return key, nil
	}
	return "", []byte(key)
}

// lines writes one line of JSON; into a trailer it puts the checksum of the lines before.
type lines func(line any) error

func writeDifferences(w lines, r *Differences, list []Difference) error {
	if err := w(headerJSON{"header", *r}); err != nil {
		return err
	}
	for _, d := range list {
		line := lineJSON{Kind: string(d.Kind), Revision: d.Revision, Writes: d.Writes, New: d.New, NewRevision: d.NewRevision}
		line.Key, line.KeyBytes = jsonKey(d.Key)
		if err := w(line); err != nil {
			return err
		}
	}
	return w(&lineJSON{Kind: "trailer", Count: &r.Count, Conflicts: &r.Conflicts, Kinds: r.Kinds})
}

// writeWhole makes a file with mode 0600 that has all of what write writes, durably, or leaves what was there.
func writeWhole(path string, write func(w lines) error) (err error) {
	var random [8]byte
	_, _ = rand.Read(random[:]) // never fails
	dir := filepath.Dir(path)
	temp := filepath.Join(dir, "."+filepath.Base(path)+"."+hex.EncodeToString(random[:]))
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(temp)
		}
	}()
	out, sum := bufio.NewWriter(f), sha256.New()
	err = write(func(line any) error {
		if trailer, ok := line.(*lineJSON); ok {
			trailer.SHA256 = hex.EncodeToString(sum.Sum(nil))
		}
		data, err := json.Marshal(line)
		if err != nil {
			return err
		}
		_, err = io.MultiWriter(out, sum).Write(append(data, '\n'))
		return err
	})
	if err = errors.Join(err, out.Flush(), f.Sync(), f.Close()); err != nil {
		return err
	}
	if err = os.Rename(temp, path); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// ReadDifferences reads a report and checks that it is whole. An error matches fs.ErrNotExist if there is no such file; any other tells that it is none, or damaged.
func ReadDifferences(path string) (*Differences, error) {
	r, _, err := ReadDifferenceList(path)
	return r, err
}

// ReadDifferenceList is ReadDifferences with the keys, in order.
func ReadDifferenceList(path string) (*Differences, []Difference, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = f.Close() }()
	r, list, err := parseDifferences(f)
	if err != nil {
		return nil, nil, fmt.Errorf("%s is no whole report: %w", path, err)
	}
	return r, list, nil
}

func parseDifferences(in io.Reader) (*Differences, []Difference, error) {
	buffered, sum := bufio.NewReader(in), sha256.New()
	var report *Differences
	var list []Difference
	for n := 1; ; n++ {
		text, err := buffered.ReadBytes('\n')
		switch {
		case errors.Is(err, io.EOF):
			return nil, nil, fmt.Errorf("it ends in line %d, without its trailer", n)
		case err != nil:
			return nil, nil, err
		}
		if report == nil {
			if report, err = parseHeader(text); err != nil {
				return nil, nil, err
			}
			sum.Write(text)
			continue
		}
		var line lineJSON
		if err := json.Unmarshal(text, &line); err != nil {
			return nil, nil, fmt.Errorf("line %d is no JSON of a report", n)
		}
		if line.Kind == "trailer" {
			if err := report.close(line, sum); err != nil {
				return nil, nil, err
			}
			if _, err := buffered.ReadByte(); !errors.Is(err, io.EOF) {
				return nil, nil, errors.New("something follows its trailer")
			}
			return report, list, nil
		}
		d := Difference{Key: line.Key, Kind: Kind(line.Kind), Revision: line.Revision, Writes: line.Writes, New: line.New, NewRevision: line.NewRevision}
		if line.KeyBytes != nil {
			d.Key = string(line.KeyBytes)
		}
		switch d.Kind {
		case Created, Changed, Deleted, Passing, MaybeDeleted:
		default:
			return nil, nil, fmt.Errorf("line %d is of an unknown kind", n)
		}
		report.count(d)
		list = append(list, d)
		sum.Write(text)
	}
}

func parseHeader(text []byte) (*Differences, error) {
	var h headerJSON
	if err := json.Unmarshal(text, &h); err != nil || h.Kind != "header" {
		return nil, errors.New("its first line is no header")
	}
	if h.Version != differencesVersion {
		return nil, fmt.Errorf("it has version %d, this program knows %d", h.Version, differencesVersion)
	}
	return &h.Differences, nil
}

// close holds the trailer against what was read.
func (r *Differences) close(trailer lineJSON, sum hash.Hash) error {
	want, err := hex.DecodeString(trailer.SHA256)
	switch {
	case err != nil || !bytes.Equal(want, sum.Sum(nil)):
		return errors.New("its checksum is wrong")
	case trailer.Count == nil || *trailer.Count != r.Count || trailer.Conflicts == nil || *trailer.Conflicts != r.Conflicts:
		return errors.New("its trailer counts other lines")
	}
	return nil
}
