package mirror

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"testing"
)

// A report is read as it was written, whatever bytes a key has; and what the parser takes for whole, it is: nothing cut, changed or added to it is taken for one.
func FuzzDifferences(f *testing.F) {
	path := filepath.Join(f.TempDir(), "report")
	list := []Difference{{Key: "/registry/secrets/a/b", Kind: Changed, Revision: 7, Writes: 2, New: NewChanged, NewRevision: 9}, {Key: "\xff\x00", Kind: Deleted, Revision: 8, Writes: 1, New: NewUnchanged}}
	r := &Differences{Version: differencesVersion, Mirror: "ab", OldPrimary: "1", NewPrimary: "2", From: 5, To: 8, PromotedAt: 6, Exact: true}
	for _, d := range list {
		r.count(d)
	}
	if err := writeWhole(path, func(w lines) error { return writeDifferences(w, r, list) }); err != nil {
		f.Fatal(err)
	}
	got, keys, err := ReadDifferenceList(path)
	if err != nil || !reflect.DeepEqual(keys, list) || !reflect.DeepEqual(got, r) {
		f.Fatalf("read back: %v\n%+v\n%+v", err, got, keys)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	for i := range whole {
		if _, _, err := parseDifferences(bytes.NewReader(whole[:i])); err == nil {
			f.Fatalf("cut after %d of %d bytes it counts as whole", i, len(whole))
		}
		changed := bytes.Clone(whole)
		changed[i] ^= 1
		if _, keys, err := parseDifferences(bytes.NewReader(changed)); err == nil && !reflect.DeepEqual(keys, list) {
			f.Fatalf("changed at byte %d it counts as whole", i)
		}
	}
	f.Add([]byte(`{"kind":"header","v":1}` + "\n" + `{"kind":"trailer","count":0,"conflicts":0,"sha256":""}` + "\n"))
	f.Add([]byte("null\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, list, err := parseDifferences(bytes.NewReader(data))
		if err != nil {
			return
		}
		end := bytes.LastIndexByte(bytes.TrimSuffix(data, []byte("\n")), '\n') + 1
		var trailer struct {
			SHA256 string `json:"sha256"`
		}
		sum := sha256.Sum256(data[:end])
		if err := json.Unmarshal(data[end:], &trailer); err != nil || len(list) != r.Count {
			t.Fatalf("%d keys, count %d (%v)", len(list), r.Count, err)
		}
		if want, err := hex.DecodeString(trailer.SHA256); err != nil || !bytes.Equal(want, sum[:]) {
			t.Fatal("its checksum is wrong")
		}
	})
}

// A file is replaced as a whole or not at all, and nothing is left beside it.
func TestAFileThatCannotBeWrittenLeavesTheOldOne(t *testing.T) {
	path := filepath.Join(t.TempDir(), "report")
	if err := os.WriteFile(path, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	err := writeWhole(path, func(w lines) error {
		if err := w("new"); err != nil {
			return err
		}
		return os.ErrDeadlineExceeded
	})
	text, _ := os.ReadFile(path)
	files, _ := os.ReadDir(filepath.Dir(path))
	if err == nil || string(text) != "old" || len(files) != 1 {
		t.Errorf("%v, %q, %v", err, text, files)
	}
}
