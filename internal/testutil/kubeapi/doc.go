// Package kubeapi runs real Kubernetes control planes for tests: etcd, kube-apiserver and kube-controller-manager as processes of their own, with a CA, keys and tokens of their own.
//
// The binaries are not part of the module: they are taken from the folder that KUBEBUILDER_ASSETS names, the one that `setup-envtest use -p path` prints, and a test that needs them skips without it.
// Several control planes run at once. What a node does, such as running pods, nobody does: a test that needs it plays the node.
package kubeapi

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// AssetsVariable names the folder with the binaries.
const AssetsVariable = "KUBEBUILDER_ASSETS"

// LogsVariable names a folder in which logs are kept; without it they are below the test's temporary folder, and a failed test shows their ends.
const LogsVariable = "UNDERSTUDY_KUBE_LOGS"

// Need skips the test unless AssetsVariable is set, and fails it if a binary is missing there.
func Need(t testing.TB, binaries ...string) {
	t.Helper()
	dir, ok := os.LookupEnv(AssetsVariable)
	if !ok {
		t.Skipf("%s is not set: this test needs a folder with etcd, kube-apiserver and kube-controller-manager there, such as `setup-envtest use -p path` prints", AssetsVariable)
	}
	for _, name := range binaries {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.IsDir() || info.Mode()&0o111 == 0 {
			t.Fatalf("%s=%s has no executable %s: %v", AssetsVariable, dir, name, err)
		}
	}
}

func asset(name string) string { return filepath.Join(os.Getenv(AssetsVariable), name) }

// tail is the end of a file, for a message.
func tail(path string) string {
	const most = 4 << 10
	text, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	if len(text) > most {
		return fmt.Sprintf("[%d bytes before]%s", len(text)-most, text[len(text)-most:])
	}
	return string(text)
}
