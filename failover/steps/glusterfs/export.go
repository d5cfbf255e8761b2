package glusterfs

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/understudy-dr/understudy/failover"
)

// exported is the file of SetConfig.Export.
type exported struct {
	Version int               `json:"version"` // 1
	Volumes map[string]Quorum `json:"volumes"`
}

// ReadExport reads the file that SetQuorum has written, for RestoreConfig.Former. Errors match failover.ErrConfig.
func ReadExport(path string) (map[string]Quorum, error) {
	data, err := os.ReadFile(path)
	if err == nil {
		var all map[string]Quorum
		if all, err = parseExport(data); err == nil {
			return all, nil
		}
	}
	return nil, &failover.Error{Kind: failover.ErrConfig, Detail: "the file with the former quorum options, " + path + ", cannot be read", Hint: "give the file that was exported when they were changed", Cause: err}
}

func parseExport(data []byte) (map[string]Quorum, error) {
	var e exported
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&e); err != nil {
		return nil, err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("something follows its end")
	}
	if e.Version != 1 {
		return nil, fmt.Errorf("its version is %d, want 1", e.Version)
	}
	if len(e.Volumes) == 0 {
		return nil, errors.New("it has no volumes")
	}
	for name, q := range e.Volumes {
		if !volumeName.MatchString(name) {
			return nil, fmt.Errorf("%q is no volume's name", name)
		}
		if err := q.check(); err != nil {
			return nil, fmt.Errorf("volume %s: %w", name, err)
		}
	}
	return e.Volumes, nil
}

// writeExport writes the file whole, durably. What an earlier run has written counts for volumes that have the emergency's options already: what they had before is known from the file alone.
// A file that says otherwise of others is from another time.
func writeExport(path string, former map[string]Quorum, emergency func(volume string) (Quorum, bool)) (err error) {
	all := map[string]Quorum{}
	for name, q := range former {
		all[name] = q
	}
	if data, err := os.ReadFile(path); err == nil {
		before, err := parseExport(data)
		if err != nil {
			return failover.Permanent(fmt.Errorf("%s is there already, and is no export: %w; move it away", path, err))
		}
		for name, q := range before {
			set, _ := emergency(name)
			if found, there := former[name]; there && found != q && found != set {
				return failover.Permanent(fmt.Errorf("%s is there already, and says of volume %s that it had %s, where it has %s: it is from another time; move it away", path, name, q, found))
			}
			all[name] = q
		}
	} else if !errors.Is(err, os.ErrNotExist) {
		return err
	}
	data, err := json.MarshalIndent(exported{1, all}, "", "  ")
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	_, err = f.Write(append(data, '\n'))
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err = os.Rename(f.Name(), path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
