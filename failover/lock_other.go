//go:build !(darwin || dragonfly || freebsd || linux || netbsd || openbsd)

package failover

import (
	"errors"
	"os"
)

// Without a lock that ends with the process two runners could not be told apart from one that crashed.
func lockFile(*os.File) error { return errors.ErrUnsupported }

func unlockFile(*os.File) {}

func placeOf(*os.File) (string, error) { return "", errors.ErrUnsupported }
