//go:build !unix

package nodes

import "os/exec"

func ownGroup(*exec.Cmd) {}

func killGroup(c *exec.Cmd, _ string) { _ = c.Process.Kill() }

func signalOf(*exec.ExitError) string { return "" }
