//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package failover

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

// lockFile takes the lock of an open file, which ends with the process. errLocked if another has it.
func lockFile(f *os.File) error {
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		switch {
		case errors.Is(err, syscall.EINTR):
		case errors.Is(err, syscall.EWOULDBLOCK):
			return errLocked
		default:
			return err
		}
	}
}

// unlockFile lets it go. Closing alone would leave it to a child that is being started: until it executes its program it has a copy of the file.
func unlockFile(f *os.File) { _ = syscall.Flock(int(f.Fd()), syscall.LOCK_UN) }

// placeOf identifies a file of this host: whoever holds the lock of this very file knows that no other runner has it.
func placeOf(f *os.File) (string, error) {
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return "", errors.New("the system does not identify files")
	}
	host, err := os.Hostname()
	return fmt.Sprintf("%s:%d:%d", host, stat.Dev, stat.Ino), err
}
