package encryption

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// InstallOptions say how a file is installed.
type InstallOptions struct {
	// Replace allows an existing file with another content to be replaced.
	Replace bool
}

// Install puts a configuration's file in place for an apiserver, all of it or nothing: a temporary file in the same directory, with mode 0600 and the owner of the file that
// it replaces, synced, renamed, and the directory synced. It refuses a file that Parse or Validate refuses, because an apiserver that reloads such a file keeps the old one without a
// word. If the file is there already with this content, it is left, and changed is false.
//
// An apiserver that has the file, instead of its directory, mounted into its container does not see the new one before it is restarted.
// Errors match ErrParse, ErrInvalid, ErrExists or ErrFile.
func Install(path string, data []byte, opts InstallOptions) (changed bool, err error) {
	cfg, err := Parse(data)
	if err != nil {
		return false, err
	}
	if _, err := Validate(cfg); err != nil {
		return false, err
	}
	return WriteFile(path, data, opts)
}

// WriteFile is Install for any file that should be as private.
func WriteFile(path string, data []byte, opts InstallOptions) (changed bool, err error) {
	old, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		old = nil
	case err != nil:
		return false, fileError("", path, err)
	case old.Mode()&fs.ModeSymlink != 0:
		return false, &Error{Kind: ErrExists, Detail: path + " is a symbolic link", Hint: "give the path of the file that it leads to, or remove it"}
	case !old.Mode().IsRegular():
		return false, &Error{Kind: ErrExists, Detail: path + " is no regular file", Hint: "give another path"}
	}
	if old != nil {
		present, err := os.ReadFile(path)
		if err != nil {
			return false, fileError("", path, err)
		}
		if bytes.Equal(present, data) && old.Mode().Perm() == 0o600 {
			return false, nil
		}
		if !opts.Replace && !bytes.Equal(present, data) {
			return false, &Error{Kind: ErrExists, Detail: path + " is there already, with another content", Hint: "give another path, or allow it to be replaced"}
		}
	}
	if err := replace(path, data, old); err != nil {
		return false, err
	}
	return true, nil
}

func replace(path string, data []byte, old fs.FileInfo) (err error) {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*") // with mode 0600
	if err != nil {
		return fileError("a temporary file beside", path, err)
	}
	defer func() {
		if err != nil {
			_ = f.Close()
			_ = os.Remove(f.Name())
		}
	}()
	if _, err = f.Write(data); err != nil {
		return fileError("a temporary file beside", path, err)
	}
	if err = f.Chmod(0o600); err != nil {
		return fileError("the mode of a file beside", path, err)
	}
	if old != nil {
		if err = keepOwner(f, old); err != nil {
			return fileError("the owner of a file beside", path, err)
		}
	}
	if err = f.Sync(); err != nil {
		return fileError("a temporary file beside", path, err)
	}
	if err = f.Close(); err != nil {
		return fileError("a temporary file beside", path, err)
	}
	if err = os.Rename(f.Name(), path); err != nil {
		return fileError("", path, err)
	}
	return syncDir(dir)
}
