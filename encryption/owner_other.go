//go:build !unix

package encryption

import (
	"io/fs"
	"os"
)

// keepOwner has nothing to do: there are no owners to keep.
func keepOwner(*os.File, fs.FileInfo) error { return nil }

// syncDir has nothing to do: directories cannot be synced.
func syncDir(string) error { return nil }
