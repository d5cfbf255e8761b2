//go:build unix

package nodes

import (
	"os/exec"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// ownGroup gives the program a process group, so that what it starts can be ended with it.
func ownGroup(c *exec.Cmd) { c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} }

// killGroup sends a signal; whether it helped shows in whether the program ends.
func killGroup(c *exec.Cmd, signal string) {
	_ = syscall.Kill(-c.Process.Pid, unix.SignalNum("SIG"+signal))
}

// signalOf names the signal that ended a program; "" if none did.
func signalOf(exit *exec.ExitError) string {
	if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return strings.TrimPrefix(unix.SignalName(status.Signal()), "SIG")
	}
	return ""
}
